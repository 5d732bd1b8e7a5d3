// Chunks of 64 rows on the walk, as in lightning_attention.cc: each adds its weighted rows to the
// state that the ones before it left.
#include "kernels/lightning_states.h"

#include <algorithm>

#include <omp.h>

#include "kernels/backend_ops.h"
#include "kernels/cpu/lightning_chunk.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

// One head's sum in `state` [dim, dim], both padded; `update` is as large.
template <typename Element>
void SumHead(const LightningEndStateArgs& args, int64_t head, LightningChunk<Element>& chunk,
             const DecayTable<Element>& decay, Element* state, Element* update) {
  const int64_t rows = args.key.dim(0), dim = args.key.dim(2), step = args.key.row_size();
  const int64_t state_size = LightningChunk<Element>::StateSize(dim);
  std::fill_n(state, state_size, Element(0));
  for (int64_t begin = 0; begin < rows; begin += kLightningChunk) {
    const int64_t count = std::min(kLightningChunk, rows - begin);
    const int64_t first = args.reversed ? rows - 1 - begin : begin;
    // Keys and values change places, so that the state has values by keys.
    chunk.LoadKeysAndValues(args.value.data<Element>(), args.key.data<Element>(),
                            {first * step + head * dim, args.reversed ? -step : step, count},
                            static_cast<Element>(args.scale));
    chunk.Contribute(decay, args.reversed ? 0 : 1, count, update);
    AdvanceState(decay.Power(count), state_size, state, update);
  }
}

template <typename Element>
void EndState(const ExecutionContext& context, const LightningEndStateArgs& args) {
  Arena& arena = *context.arena;
  const ArenaScope scope(arena);
  const int64_t heads = args.key.dim(1), dim = args.key.dim(2);
  const int64_t state_size = LightningChunk<Element>::StateSize(dim);
  const int threads = static_cast<int>(std::min<int64_t>(omp_get_max_threads(), heads));
  std::vector<LightningChunk<Element>> chunks;
  for (int i = 0; i < threads; ++i) chunks.emplace_back(arena, dim);
  auto* const states = arena.Array<Element>(2 * threads * state_size);
  auto* const tables = arena.Array<Element>(threads * DecayTable<Element>::kSize);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t head = 0; head < heads; ++head) {
    const int thread = omp_get_thread_num();
    DecayTable<Element> decay(tables + thread * DecayTable<Element>::kSize);
    decay.Fill(static_cast<Element>(args.slopes[static_cast<size_t>(head)]));
    Element* const state = states + 2 * thread * state_size;
    SumHead(args, head, chunks[static_cast<size_t>(thread)], decay, state, state + state_size);
    const int64_t stride = Simd<Element>::Pad(dim);
    for (int64_t row = 0; row < dim; ++row) {
      std::copy_n(state + row * stride, dim, args.state.data<Element>() + (head * dim + row) * dim);
    }
  }
}

template <typename Element>
void StateSum(const LightningStateSumArgs& args) {
  const int64_t ranks = args.states.dim(0), heads = args.states.dim(1);
  const int64_t size = args.states.row_size() / heads;
  ParallelFor(heads, args.states.size(), [&args, ranks, heads, size](int64_t head) {
    Element* const sum = args.sum.data<Element>() + head * size;
    std::fill_n(sum, size, Element(0));
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const auto weight =
          static_cast<Element>(args.weights[static_cast<size_t>(rank * heads + head)]);
      if (weight == 0) continue;
      const Element* const state = args.states.data<Element>() + (rank * heads + head) * size;
      for (int64_t i = 0; i < size; ++i) sum[i] += weight * state[i];
    }
  });
}

}  // namespace

absl::Status LightningEndState(const ExecutionContext& context, const LightningEndStateArgs& args) {
  ForReal(args.key.dtype(), [&](auto real) { EndState<decltype(real)>(context, args); });
  return absl::OkStatus();
}

absl::Status LightningStateSum(const ExecutionContext&, const LightningStateSumArgs& args) {
  ForReal(args.states.dtype(), [&](auto real) { StateSum<decltype(real)>(args); });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
