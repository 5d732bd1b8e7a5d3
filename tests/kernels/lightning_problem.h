// The inputs of one Lightning attention call and ways to run them: by the op in any dtype, and by
// the fp64 recurrence.
#ifndef TESTS_KERNELS_LIGHTNING_PROBLEM_H_
#define TESTS_KERNELS_LIGHTNING_PROBLEM_H_

#include <cstdint>
#include <vector>

#include "kernels/base/segments.h"
#include "tests/support/random_tensor.h"

namespace salamander {

struct LightningShape {
  std::vector<int64_t> documents;
  int64_t heads = 6;  // head h takes slope h of {0, 4e-8, 2^-8, 0.25, 0.84, 7.75}, over and over
  int64_t dim = 16;
  bool has_states = false;  // document i starts from slot 2i and ends in slot 2i + 1
  int64_t gap = 0;          // rows before every document that hold NaN
  DType dtype = DType::kFloat64;
  uint64_t seed = 1;
};

struct LightningProblem {
  TestTensor q, k, v, states, d_states, d_out;
  std::vector<double> slopes;  // [heads]
  std::vector<Segment> segments;
  double scale = 0.37;

  LightningProblem As(DType dtype) const;
};

struct LightningOutput {
  TestTensor out, states;
};

struct LightningGradients {
  TestTensor dq, dk, dv, d_states;
};

LightningProblem RandomLightningProblem(const LightningShape& shape);

// Rows of outputs that belong to no document keep this value.
inline constexpr double kUntouched = 123.0;

LightningOutput RunForward(const LightningProblem& problem);
LightningGradients RunBackward(const LightningProblem& problem);
LightningOutput ReferenceForward(const LightningProblem& problem);      // in fp64
LightningGradients ReferenceBackward(const LightningProblem& problem);  // in fp64

}  // namespace salamander

#endif  // TESTS_KERNELS_LIGHTNING_PROBLEM_H_
