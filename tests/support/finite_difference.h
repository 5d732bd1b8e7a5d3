// Checks an analytic gradient against central differences of the forward in fp64:
//   g_i ~ (f(x + step e_i) - f(x - step e_i)) / (2 step)
// With inputs and outputs of order 1 the difference quotient itself is good to about 1e-9.
#ifndef TESTS_SUPPORT_FINITE_DIFFERENCE_H_
#define TESTS_SUPPORT_FINITE_DIFFERENCE_H_

#include <cstdint>
#include <functional>

#include <gtest/gtest.h>

#include "kernels/base/tensor_view.h"

namespace salamander {

struct FiniteDifferenceOptions {
  double step = 1e-5;
  double tolerance = 1e-7;  // allowed error, times max(1, |gradient element|)
  int64_t samples = 0;      // elements to check, drawn by `seed`; 0 checks all
  uint64_t seed = 1;
};

// `forward` runs the op on the tensors it has captured and returns sum(output * cotangent), a
// constant cotangent. `input` is one of those tensors, fp64; it is moved element by element and
// restored. `gradient` is the analytic gradient, same shape.
//   EXPECT_TRUE(MatchesFiniteDifferences([&] { return Loss(problem); }, problem.q.View(),
//                                        gradients.dq.View()));
testing::AssertionResult MatchesFiniteDifferences(const std::function<double()>& forward,
                                                  const TensorView& input,
                                                  const TensorView& gradient,
                                                  const FiniteDifferenceOptions& options = {});

}  // namespace salamander

#endif  // TESTS_SUPPORT_FINITE_DIFFERENCE_H_
