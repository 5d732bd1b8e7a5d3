#include "tests/kernels/lightning_problem.h"

#include <cmath>

#include <gtest/gtest.h>

#include "kernels/lightning_attention.h"
#include "tests/reference/lightning_recurrence.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

TestTensor LikeQ(const LightningProblem& problem) {
  const TensorView q = problem.q.View();
  return TestTensor::Constant(q.dtype(), {q.dim(0), q.dim(1), q.dim(2)}, kUntouched);
}

LightningForwardArgs ForwardArgs(const LightningProblem& problem, const LightningOutput& output) {
  return {.q = problem.q.View(),
          .k = problem.k.View(),
          .v = problem.v.View(),
          .slopes = problem.slopes,
          .segments = problem.segments,
          .scale = problem.scale,
          .states = output.states.View(),
          .out = output.out.View()};
}

LightningBackwardArgs BackwardArgs(const LightningProblem& problem,
                                   const LightningGradients& gradients) {
  return {.q = problem.q.View(),
          .k = problem.k.View(),
          .v = problem.v.View(),
          .slopes = problem.slopes,
          .segments = problem.segments,
          .scale = problem.scale,
          .states = problem.states.View(),
          .d_states = gradients.d_states.View(),
          .d_out = problem.d_out.View(),
          .dq = gradients.dq.View(),
          .dk = gradients.dk.View(),
          .dv = gradients.dv.View()};
}

}  // namespace

LightningProblem LightningProblem::As(DType dtype) const {
  LightningProblem problem = *this;
  for (TestTensor* tensor :
       {&problem.q, &problem.k, &problem.v, &problem.states, &problem.d_states, &problem.d_out}) {
    *tensor = tensor->As(dtype);
  }
  return problem;
}

LightningProblem RandomLightningProblem(const LightningShape& shape) {
  constexpr double kSlopes[] = {0.0, 4e-8, 0x1p-8, 0.25, 0.84, 7.75};
  const auto documents = static_cast<int64_t>(shape.documents.size());
  LightningProblem problem;
  int64_t rows = 0;
  for (int32_t i = 0; i < documents; ++i) {
    rows += shape.gap;
    Segment segment = {.query_begin = rows, .query_count = shape.documents[i], .key_begin = rows};
    if (shape.has_states) {
      segment.state_in = 2 * i;
      segment.state_out = 2 * i + 1;
    }
    problem.segments.push_back(segment);
    rows += segment.query_count;
  }
  const int64_t heads = shape.heads, dim = shape.dim;
  uint64_t seed = shape.seed * 100;
  for (TestTensor* tensor : {&problem.q, &problem.k, &problem.v, &problem.d_out}) {
    *tensor = TestTensor::Normal(shape.dtype, {rows, heads, dim}, ++seed);
    for (const Segment& segment : problem.segments) {
      tensor->PoisonRows(segment.query_begin - shape.gap, shape.gap);
    }
  }
  for (int64_t head = 0; head < heads; ++head) problem.slopes.push_back(kSlopes[head % 6]);
  if (shape.has_states) {
    problem.states = TestTensor::Normal(shape.dtype, {2 * documents, heads, dim, dim}, ++seed);
    problem.d_states = TestTensor::Normal(shape.dtype, {2 * documents, heads, dim, dim}, ++seed);
  }
  return problem;
}

LightningOutput RunForward(const LightningProblem& problem) {
  const TestContext context;
  const LightningOutput output = {LikeQ(problem), problem.states};
  EXPECT_TRUE(LightningForward(context, ForwardArgs(problem, output)).ok());
  return output;
}

LightningGradients RunBackward(const LightningProblem& problem) {
  const TestContext context;
  const LightningGradients gradients = {LikeQ(problem), LikeQ(problem), LikeQ(problem),
                                        problem.d_states};
  EXPECT_TRUE(LightningBackward(context, BackwardArgs(problem, gradients)).ok());
  return gradients;
}

LightningOutput ReferenceForward(const LightningProblem& problem) {
  if (problem.q.View().dtype() != DType::kFloat64) {
    return ReferenceForward(problem.As(DType::kFloat64));
  }
  const LightningOutput output = {LikeQ(problem), problem.states};
  reference::LightningForward(ForwardArgs(problem, output));
  return output;
}

LightningGradients ReferenceBackward(const LightningProblem& problem) {
  if (problem.q.View().dtype() != DType::kFloat64) {
    return ReferenceBackward(problem.As(DType::kFloat64));
  }
  const LightningGradients gradients = {LikeQ(problem), LikeQ(problem), LikeQ(problem),
                                        problem.d_states};
  reference::LightningBackward(BackwardArgs(problem, gradients));
  return gradients;
}

}  // namespace salamander
