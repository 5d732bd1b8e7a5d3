// Lightning attention by its recurrence, token by token in fp64: what the chunked kernels must
// equal. Slow and obvious on purpose.
//   forward    S = exp(-slope) S + v k^T             o = scale S q
//   backward   dS += scale do q^T                    dq = scale S^T do
//              dk = dS^T v, dv = dS k                dS = exp(-slope) dS
#ifndef TESTS_REFERENCE_LIGHTNING_RECURRENCE_H_
#define TESTS_REFERENCE_LIGHTNING_RECURRENCE_H_

#include <algorithm>
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

inline double Dot(const double* a, const double* b, int64_t size) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

// product = scale state^T values.
inline void TransposedProduct(const std::vector<double>& state, const double* values, double scale,
                              double* product, int64_t dim) {
  std::fill_n(product, dim, 0.0);
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t j = 0; j < dim; ++j) product[j] += scale * values[i] * state[i * dim + j];
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
      args.out.data<double>()[at.Row(t) + i] = args.scale * Dot(&state[i * at.dim], q, at.dim);
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
    TransposedProduct(state, d_out, args.scale, args.dq.data<double>() + at.Row(t), dim);
  }
  // d_state holds the gradient of the state after token t, decayed on the way to the token before.
  std::vector<double> d_state = LoadState(args.d_states, at, at.segment.state_out);
  for (int64_t t = at.segment.query_count - 1; t >= 0; --t) {
    const double* const k = args.k.data<double>() + at.Row(t);
    const double* const v = args.v.data<double>() + at.Row(t);
    DecayAndAdd(t == at.segment.query_count - 1 ? 1.0 : decay,
                args.d_out.data<double>() + at.Row(t), args.q.data<double>() + at.Row(t),
                args.scale, d_state, dim);
    TransposedProduct(d_state, v, 1.0, args.dk.data<double>() + at.Row(t), dim);
    for (int64_t i = 0; i < dim; ++i) {
      args.dv.data<double>()[at.Row(t) + i] = Dot(&d_state[i * dim], k, dim);
    }
  }
  for (double& element : d_state) element *= decay;
  StoreState(d_state, at, at.segment.state_in, args.d_states);
}

// Calls visit for every head of every segment. Heads share nothing and run side by side; a segment
// may start from the state that the one before it left.
template <typename Visit>
void ForEachHead(const TensorView& q, Segments segments, const Visit& visit) {
#pragma omp parallel for schedule(dynamic)
  for (int64_t head = 0; head < q.dim(1); ++head) {
    for (const Segment& segment : segments) visit({q.dim(1), q.dim(2), head, segment});
  }
}

inline void LightningForward(const LightningForwardArgs& args) {
  ForEachHead(args.q, args.segments,
              [&](const HeadOfSegment& at) { LightningHeadForward(args, at); });
}

inline void LightningBackward(const LightningBackwardArgs& args) {
  ForEachHead(args.q, args.segments,
              [&](const HeadOfSegment& at) { LightningHeadBackward(args, at); });
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_LIGHTNING_RECURRENCE_H_
