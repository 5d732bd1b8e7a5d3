#include "kernels/lightning_attention.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

void CheckStates(const TensorView& states, const TensorView& q) {
  if (states.empty()) return;
  SALAMANDER_CHECK(states.dtype() == StatisticsType(q.dtype()) && states.rank() == 4 &&
                   states.dim(1) == q.dim(1) && states.dim(2) == q.dim(2) &&
                   states.dim(3) == q.dim(2))
      << "states " << states.ShapeString() << ", q " << q.ShapeString();
}

void CheckSegments(Segments segments, const TensorView& q, const TensorView& states) {
  const int64_t slots = states.empty() ? 0 : states.dim(0);
  for (const Segment& segment : segments) {
    SALAMANDER_CHECK(segment.query_begin >= 0 && segment.query_count >= 1 &&
                     segment.query_begin + segment.query_count <= q.dim(0))
        << "segment of rows [" << segment.query_begin << ", +" << segment.query_count << ") in "
        << q.ShapeString();
    SALAMANDER_CHECK(segment.state_in < slots && segment.state_out < slots)
        << "slots " << segment.state_in << " and " << segment.state_out << " of " << slots;
  }
}

void CheckInputs(const TensorView& q, const TensorView& k, const TensorView& v,
                 absl::Span<const double> slopes) {
  SALAMANDER_CHECK(q.rank() == 3) << "q is " << q.ShapeString();
  CHECK_SAME_SHAPE(k, q);
  CHECK_SAME_SHAPE(v, q);
  SALAMANDER_CHECK(static_cast<int64_t>(slopes.size()) == q.dim(1))
      << slopes.size() << " slopes, q " << q.ShapeString();
}

}  // namespace

absl::Status LightningForward(const ExecutionContext& context, const LightningForwardArgs& args) {
  CheckInputs(args.q, args.k, args.v, args.slopes);
  CHECK_SAME_SHAPE(args.out, args.q);
  CheckStates(args.states, args.q);
  CheckSegments(args.segments, args.q, args.states);
  DISPATCH_BACKEND(LightningForward, context, args);
}

absl::Status LightningBackward(const ExecutionContext& context, const LightningBackwardArgs& args) {
  CheckInputs(args.q, args.k, args.v, args.slopes);
  CHECK_SAME_SHAPE(args.d_out, args.q);
  CHECK_SAME_SHAPE(args.dq, args.q);
  CHECK_SAME_SHAPE(args.dk, args.q);
  CHECK_SAME_SHAPE(args.dv, args.q);
  CheckStates(args.states, args.q);
  if (!args.d_states.empty()) {
    CheckStates(args.d_states, args.q);
    for (const Segment& segment : args.segments) {
      SALAMANDER_CHECK(segment.state_in < 0 || segment.state_in != segment.state_out)
          << "the gradient of slot " << segment.state_in
          << " would be overwritten by another of the same segment";
    }
  }
  CheckSegments(args.segments, args.q, args.d_states.empty() ? args.states : args.d_states);
  if (!args.d_states.empty() && !args.states.empty()) {
    CHECK_SAME_SHAPE(args.d_states, args.states);
  }
  DISPATCH_BACKEND(LightningBackward, context, args);
}

}  // namespace salamander
