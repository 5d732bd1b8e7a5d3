// Lightning attention by its recurrence, token by token in fp64: what the chunked kernels must
// equal. Slow and obvious on purpose.
//   forward    S = exp(-slope) S + v k^T             o = scale S q
//   backward   dS += scale do q^T                    dq = scale S^T do
//              dk = dS^T v, dv = dS k                dS = exp(-slope) dS
#ifndef TESTS_REFERENCE_LIGHTNING_RECURRENCE_H_
#define TESTS_REFERENCE_LIGHTNING_RECURRENCE_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/lightning_attention.h"

namespace salamander::reference {

// One head of one segment: where its rows and states are.
struct HeadOfSegment {
  int64_t heads, dim, head;
  Segment segment;

  int64_t Row(int64_t t) const { return ((segment.query_begin + t) * heads + head) * dim; }
  int64_t State(int32_t slot) const { return (slot * heads + head) * dim * dim; }
};

inline std::vector<double> LoadState(const TensorView& states, const HeadOfSegment& at,
                                     int32_t slot) {
  std::vector<double> state(at.dim * at.dim, 0.0);
  if (states.empty() || slot < 0) return state;
  for (size_t i = 0; i < state.size(); ++i) state[i] = states.data<double>()[at.State(slot) + i];
  return state;
}

inline void StoreState(const std::vector<double>& state, const HeadOfSegment& at, int32_t slot,
                       const TensorView& states) {
  if (states.empty() || slot < 0) return;
  for (size_t i = 0; i < state.size(); ++i) states.data<double>()[at.State(slot) + i] = state[i];
}

inline void DecayAndAdd(double decay, const double* values, const double* keys, double scale,
                        std::vector<double>& state, int64_t dim) {
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t j = 0; j < dim; ++j) {
      state[i * dim + j] = decay * state[i * dim + j] + scale * values[i] * keys[j];
    }
  }
}

inline void LightningHeadForward(const LightningForwardArgs& args, const HeadOfSegment& at) {
  const double decay = std::exp(-args.slopes[static_cast<size_t>(at.head)]);
  std::vector<double> state = LoadState(args.states, at, at.segment.state_in);
  for (int64_t t = 0; t < at.segment.query_count; ++t) {
    const double* const q = args.q.data<double>() + at.Row(t);
    DecayAndAdd(decay, args.v.data<double>() + at.Row(t), args.k.data<double>() + at.Row(t), 1.0,
                state, at.dim);
    for (int64_t i = 0; i < at.dim; ++i) {
      double sum = 0;
      for (int64_t j = 0; j < at.dim; ++j) sum += state[i * at.dim + j] * q[j];
      args.out.data<double>()[at.Row(t) + i] = args.scale * sum;
    }
  }
  StoreState(state, at, at.segment.state_out, args.states);
}

inline void LightningHeadBackward(const LightningBackwardArgs& args, const HeadOfSegment& at) {
  const int64_t dim = at.dim;
  const double decay = std::exp(-args.slopes[static_cast<size_t>(at.head)]);
  std::vector<double> state = LoadState(args.states, at, at.segment.state_in);
  for (int64_t t = 0; t < at.segment.query_count; ++t) {
    const double* const d_out = args.d_out.data<double>() + at.Row(t);
    DecayAndAdd(decay, args.v.data<double>() + at.Row(t), args.k.data<double>() + at.Row(t), 1.0,
                state, dim);
    for (int64_t j = 0; j < dim; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < dim; ++i) sum += state[i * dim + j] * d_out[i];
      args.dq.data<double>()[at.Row(t) + j] = args.scale * sum;
    }
  }
  // d_state holds the gradient of the state after token t, decayed on the way to the token before.
  std::vector<double> d_state = LoadState(args.d_states, at, at.segment.state_out);
  for (int64_t t = at.segment.query_count - 1; t >= 0; --t) {
    const double* const k = args.k.data<double>() + at.Row(t);
    const double* const v = args.v.data<double>() + at.Row(t);
    DecayAndAdd(t == at.segment.query_count - 1 ? 1.0 : decay,
                args.d_out.data<double>() + at.Row(t), args.q.data<double>() + at.Row(t),
                args.scale, d_state, dim);
    for (int64_t j = 0; j < dim; ++j) {
      double dk = 0, dv = 0;
      for (int64_t i = 0; i < dim; ++i) {
        dk += d_state[i * dim + j] * v[i];
        dv += d_state[j * dim + i] * k[i];
      }
      args.dk.data<double>()[at.Row(t) + j] = dk;
      args.dv.data<double>()[at.Row(t) + j] = dv;
    }
  }
  for (double& element : d_state) element *= decay;
  StoreState(d_state, at, at.segment.state_in, args.d_states);
}

inline void LightningForward(const LightningForwardArgs& args) {
  for (const Segment& segment : args.segments) {
    for (int64_t head = 0; head < args.q.dim(1); ++head) {
      LightningHeadForward(args, {args.q.dim(1), args.q.dim(2), head, segment});
    }
  }
}

inline void LightningBackward(const LightningBackwardArgs& args) {
  for (const Segment& segment : args.segments) {
    for (int64_t head = 0; head < args.q.dim(1); ++head) {
      LightningHeadBackward(args, {args.q.dim(1), args.q.dim(2), head, segment});
    }
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_LIGHTNING_RECURRENCE_H_
