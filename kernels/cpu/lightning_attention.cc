// Lightning attention in chunks. The backward is three more calls of the forward's product with the
// roles of the tensors exchanged (two of them walking backwards), so that one sweep serves all:
//            query   key        value   walks      state
//   out      scale q k          v       forwards   S^T
//   dq       scale do v         k       forwards   S
//   dv       k       scale q    do      backwards  dS^T
//   dk       v       scale do   q       backwards  dS
#include <algorithm>
#include <vector>

#include <omp.h>

#include "kernels/backend_ops.h"
#include "kernels/cpu/lightning_chunk.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

// What all products of one call share.
template <typename Element>
struct Layout {
  Segments segments;
  int64_t heads;
  int64_t dim;
  const Element* decay_tables;  // [heads, DecayTable::kSize]
  Arena& arena;

  DecayTable<Element> Decay(int64_t head) const {
    return DecayTable<Element>(const_cast<Element*>(decay_tables) +
                               head * DecayTable<Element>::kSize);
  }
};

template <typename Element>
struct DecayedProduct {
  const Element* query;
  const Element* key;
  const Element* value;
  Element* out;
  Element query_scale;
  Element key_scale;
  bool reversed;
  const Element* start_states;  // [slots, heads, dim, dim], or null: all zero
  Element* end_states;          // or null: dropped
  bool transposed;              // a stored state is [value dim, key dim]
};

int64_t ChunkCount(const Segment& segment) {
  return (segment.query_count + kLightningChunk - 1) / kLightningChunk;
}

template <typename Element>
class Sweep {
 public:
  Sweep(const Layout<Element>& layout, const DecayedProduct<Element>& product)
      : layout_(layout), product_(product) {}

  // Every segment but those that `is_done` marks.
  void Run(const std::vector<bool>& is_done) {
    const ArenaScope scope(layout_.arena);
    const int threads = omp_get_max_threads();
    MakeChunks(threads);
    int64_t all_chunks = 0;
    for (size_t i = 0; i < layout_.segments.size(); ++i) {
      if (!is_done[i]) all_chunks += ChunkCount(layout_.segments[i]) * layout_.heads;
    }
    std::vector<int64_t> whole;
    for (size_t i = 0; i < layout_.segments.size(); ++i) {
      if (is_done[i]) continue;
      if (!IsTooLongForOneThread(layout_.segments[i], all_chunks, threads)) {
        whole.push_back(static_cast<int64_t>(i));
        continue;
      }
      RunSplit(layout_.segments[i], threads);
    }
    std::vector<Element*> states;
    for (int i = 0; i < threads; ++i) states.push_back(NewState(2));
    const auto units = static_cast<int64_t>(whole.size()) * layout_.heads;
#pragma omp parallel for schedule(dynamic) if (units > 1)
    for (int64_t unit = 0; unit < units; ++unit) {
      RunWhole(layout_.segments[whole[unit / layout_.heads]], unit % layout_.heads,
               states[omp_get_thread_num()]);
    }
  }

 private:
  int64_t state_size() const {
    return LightningChunk<Element>::StateSize(layout_.dim);
  }
  int64_t query_offset() const {
    return product_.reversed ? 0 : 1;
  }
  LightningChunk<Element>& chunk() {
    return chunks_[omp_get_thread_num()];
  }
  Element* NewState(int64_t count) {
    return layout_.arena.template Array<Element>(count * state_size());
  }

  void MakeChunks(int threads) {
    chunks_.reserve(threads);
    for (int i = 0; i < threads; ++i) chunks_.emplace_back(layout_.arena, layout_.dim);
  }

  // Whether giving each of the segment's heads to one thread would leave others idle for more than
  // a quarter of the call. Only the time depends on the answer.
  bool IsTooLongForOneThread(const Segment& segment, int64_t all_chunks, int threads) const {
    const int64_t rounds = (layout_.heads + threads - 1) / threads;
    return threads > 1 && 4 * rounds * ChunkCount(segment) * threads > 5 * all_chunks;
  }

  ChunkRows Rows(const Segment& segment, int64_t head, int64_t index) const {
    const int64_t step = layout_.heads * layout_.dim;
    const int64_t begin = index * kLightningChunk;
    const int64_t first_row = product_.reversed
                                  ? segment.query_begin + segment.query_count - 1 - begin
                                  : segment.query_begin + begin;
    return {first_row * step + head * layout_.dim, product_.reversed ? -step : step,
            std::min(kLightningChunk, segment.query_count - begin)};
  }

  // Where the sweep's start and end states are stored, null if they are not.
  const Element* StartState(const Segment& segment, int64_t head) const {
    const int32_t slot = product_.reversed ? segment.state_out : segment.state_in;
    if (product_.start_states == nullptr || slot < 0) return nullptr;
    return product_.start_states + (slot * layout_.heads + head) * layout_.dim * layout_.dim;
  }
  Element* EndState(const Segment& segment, int64_t head) const {
    const int32_t slot = product_.reversed ? segment.state_in : segment.state_out;
    if (product_.end_states == nullptr || slot < 0) return nullptr;
    return product_.end_states + (slot * layout_.heads + head) * layout_.dim * layout_.dim;
  }

  void LoadState(const Element* stored, Element* state) const {
    std::fill_n(state, state_size(), Element(0));
    if (stored == nullptr) return;
    const int64_t dim = layout_.dim, stride = Simd<Element>::Pad(dim);
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t j = 0; j < dim; ++j) {
        state[i * stride + j] = product_.transposed ? stored[j * dim + i] : stored[i * dim + j];
      }
    }
  }
  void StoreState(const Element* state, Element* stored) const {
    const int64_t dim = layout_.dim, stride = Simd<Element>::Pad(dim);
    for (int64_t i = 0; i < dim; ++i) {
      for (int64_t j = 0; j < dim; ++j) {
        stored[i * dim + j] = product_.transposed ? state[j * stride + i] : state[i * stride + j];
      }
    }
  }

  void EmitChunk(const Segment& segment, int64_t head, int64_t index, const Element* state) {
    const ChunkRows rows = Rows(segment, head, index);
    const bool is_zero = index == 0 && StartState(segment, head) == nullptr;
    chunk().LoadQueries(product_.query, rows, product_.query_scale);
    chunk().LoadKeysAndValues(product_.key, product_.value, rows, product_.key_scale);
    chunk().Emit(is_zero ? nullptr : state, layout_.Decay(head), query_offset(), rows,
                 product_.out);
  }

  // One head of one segment from its first chunk to its last. `states`: room for two.
  void RunWhole(const Segment& segment, int64_t head, Element* states) {
    const DecayTable<Element> decay = layout_.Decay(head);
    Element* const state = states;
    Element* const update = states + state_size();
    Element* const end_state = EndState(segment, head);
    LoadState(StartState(segment, head), state);
    for (int64_t index = 0; index < ChunkCount(segment); ++index) {
      EmitChunk(segment, head, index, state);
      if (index + 1 == ChunkCount(segment) && end_state == nullptr) return;
      const int64_t count = Rows(segment, head, index).count;
      chunk().Contribute(decay, query_offset(), count, update);
      AdvanceState(decay.Power(count), state_size(), state, update);
    }
    StoreState(state, end_state);
  }

  // One segment by all threads, in waves of chunks: every chunk's contribution, then the states
  // between chunks in order, then every chunk's output. Rounds exactly as RunWhole does.
  void RunSplit(const Segment& segment, int threads) {
    const ArenaScope scope(layout_.arena);
    constexpr int64_t kWaveBytes = int64_t{16} << 20;
    const int64_t bytes_per_chunk =
        layout_.heads * state_size() * static_cast<int64_t>(sizeof(Element));
    const int64_t wave = std::min(
        ChunkCount(segment),
        std::max(kWaveBytes / bytes_per_chunk, (4 * threads + layout_.heads - 1) / layout_.heads));
    Element* const carried = NewState(layout_.heads);
    Element* const updates = NewState(layout_.heads * wave);
    for (int64_t head = 0; head < layout_.heads; ++head) {
      LoadState(StartState(segment, head), carried + head * state_size());
    }
    for (int64_t begin = 0; begin < ChunkCount(segment); begin += wave) {
      const int64_t count = std::min(wave, ChunkCount(segment) - begin);
      RunWave(segment, begin, count, carried, updates);
    }
    for (int64_t head = 0; head < layout_.heads; ++head) {
      Element* const end_state = EndState(segment, head);
      if (end_state != nullptr) StoreState(carried + head * state_size(), end_state);
    }
  }

  // Chunks [begin, begin + count) of a split segment.
  void RunWave(const Segment& segment, int64_t begin, int64_t count, Element* carried,
               Element* updates) {
    const int64_t heads = layout_.heads, stride = Simd<Element>::Pad(layout_.dim);
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < count; ++i) {
        const ChunkRows rows = Rows(segment, head, begin + i);
        chunk().LoadKeysAndValues(product_.key, product_.value, rows, product_.key_scale);
        chunk().Contribute(layout_.Decay(head), query_offset(), rows.count,
                           updates + (head * count + i) * state_size());
      }
    }
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t row = 0; row < stride; ++row) {
        for (int64_t i = 0; i < count; ++i) {
          const Element power = layout_.Decay(head).Power(Rows(segment, head, begin + i).count);
          AdvanceState(power, stride, carried + head * state_size() + row * stride,
                       updates + (head * count + i) * state_size() + row * stride);
        }
      }
    }
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t head = 0; head < heads; ++head) {
      for (int64_t i = 0; i < count; ++i) {
        EmitChunk(segment, head, begin + i, updates + (head * count + i) * state_size());
      }
    }
  }

  const Layout<Element>& layout_;
  const DecayedProduct<Element>& product_;
  std::vector<LightningChunk<Element>> chunks_;  // one per thread
};

template <typename Element>
Layout<Element> MakeLayout(const TensorView& q, absl::Span<const double> slopes, Segments segments,
                           Arena& arena) {
  const int64_t heads = q.dim(1);
  auto* const tables = arena.Array<Element>(heads * DecayTable<Element>::kSize);
  for (int64_t head = 0; head < heads; ++head) {
    const auto slope = static_cast<Element>(slopes[static_cast<size_t>(head)]);
    SALAMANDER_CHECK(slope >= 0) << "slope " << slope << " of head " << head;
    DecayTable<Element>(tables + head * DecayTable<Element>::kSize).Fill(slope);
  }
  return {segments, heads, q.dim(2), tables, arena};
}

// A decoding step, by the recurrence itself: every state is read and written once.
template <typename Element>
void Step(const LightningForwardArgs& args, const Segment& segment, int64_t head, Element decay,
          Element* spare_rows) {
  const int64_t dim = args.q.dim(2), state_size = dim * dim;
  const int64_t offset = (segment.query_begin * args.q.dim(1) + head) * dim;
  const Element* const query = args.q.data<Element>() + offset;
  const Element* const key = args.k.data<Element>() + offset;
  const Element* const values = args.v.data<Element>() + offset;
  Element* const out = args.out.data<Element>() + offset;
  Element* const states = args.states.data<Element>() + head * state_size;
  const int64_t slot_size = args.q.dim(1) * state_size;
  std::fill_n(spare_rows, dim, Element(0));
  for (int64_t row = 0; row < dim; ++row) {
    const Element* const before =
        segment.state_in < 0 ? spare_rows : states + segment.state_in * slot_size + row * dim;
    Element* const after = segment.state_out < 0
                               ? spare_rows + dim
                               : states + segment.state_out * slot_size + row * dim;
    const Element value = values[row];
    Element sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < dim; ++d) {
      const Element state = decay * before[d] + value * key[d];
      after[d] = state;
      sum += state * query[d];
    }
    out[row] = static_cast<Element>(args.scale) * sum;
  }
}

// Runs the segments of one token that have a state and returns which they are.
template <typename Element>
std::vector<bool> RunSteps(const LightningForwardArgs& args, const Layout<Element>& layout) {
  const ArenaScope scope(layout.arena);
  std::vector<bool> is_step(args.segments.size());
  std::vector<int64_t> steps;
  for (size_t i = 0; i < args.segments.size(); ++i) {
    const Segment& segment = args.segments[i];
    is_step[i] = segment.query_count == 1 && (segment.state_in >= 0 || segment.state_out >= 0);
    if (is_step[i]) steps.push_back(static_cast<int64_t>(i));
  }
  auto* const spare_rows =
      layout.arena.template Array<Element>(2 * layout.dim * omp_get_max_threads());
  const auto units = static_cast<int64_t>(steps.size()) * layout.heads;
#pragma omp parallel for schedule(static) if (units > 1)
  for (int64_t unit = 0; unit < units; ++unit) {
    const int64_t head = unit % layout.heads;
    Step<Element>(args, args.segments[steps[unit / layout.heads]], head,
                  layout.Decay(head).Power(1), spare_rows + 2 * layout.dim * omp_get_thread_num());
  }
  return is_step;
}

template <typename Element>
void Forward(const ExecutionContext& context, const LightningForwardArgs& args) {
  const ArenaScope scope(*context.arena);
  const auto layout = MakeLayout<Element>(args.q, args.slopes, args.segments, *context.arena);
  Element* const states = DataOrNull<Element>(args.states);
  const std::vector<bool> is_step = RunSteps<Element>(args, layout);
  const DecayedProduct<Element> out = {.query = args.q.data<Element>(),
                                       .key = args.k.data<Element>(),
                                       .value = args.v.data<Element>(),
                                       .out = args.out.data<Element>(),
                                       .query_scale = static_cast<Element>(args.scale),
                                       .key_scale = 1,
                                       .reversed = false,
                                       .start_states = states,
                                       .end_states = states,
                                       .transposed = true};
  Sweep<Element>(layout, out).Run(is_step);
}

template <typename Element>
void Backward(const ExecutionContext& context, const LightningBackwardArgs& args) {
  const ArenaScope scope(*context.arena);
  const auto layout = MakeLayout<Element>(args.q, args.slopes, args.segments, *context.arena);
  const auto scale = static_cast<Element>(args.scale);
  const Element* const q = args.q.data<Element>();
  const Element* const k = args.k.data<Element>();
  const Element* const v = args.v.data<Element>();
  const Element* const d_out = args.d_out.data<Element>();
  Element* const d_states = DataOrNull<Element>(args.d_states);
  const DecayedProduct<Element> dq = {.query = d_out,
                                      .key = v,
                                      .value = k,
                                      .out = args.dq.data<Element>(),
                                      .query_scale = scale,
                                      .key_scale = 1,
                                      .reversed = false,
                                      .start_states = DataOrNull<Element>(args.states),
                                      .end_states = nullptr,
                                      .transposed = false};
  const DecayedProduct<Element> dv = {.query = k,
                                      .key = q,
                                      .value = d_out,
                                      .out = args.dv.data<Element>(),
                                      .query_scale = 1,
                                      .key_scale = scale,
                                      .reversed = true,
                                      .start_states = d_states,
                                      .end_states = nullptr,
                                      .transposed = true};
  const DecayedProduct<Element> dk = {.query = v,
                                      .key = d_out,
                                      .value = q,
                                      .out = args.dk.data<Element>(),
                                      .query_scale = 1,
                                      .key_scale = scale,
                                      .reversed = true,
                                      .start_states = d_states,
                                      .end_states = d_states,
                                      .transposed = false};
  const std::vector<bool> none(args.segments.size(), false);
  for (const DecayedProduct<Element>& product : {dq, dv, dk}) {
    Sweep<Element>(layout, product).Run(none);
  }
}

}  // namespace

absl::Status LightningForward(const ExecutionContext& context, const LightningForwardArgs& args) {
  ForReal(args.q.dtype(), [&](auto real) { Forward<decltype(real)>(context, args); });
  return absl::OkStatus();
}

absl::Status LightningBackward(const ExecutionContext& context, const LightningBackwardArgs& args) {
  ForReal(args.q.dtype(), [&](auto real) { Backward<decltype(real)>(context, args); });
  return absl::OkStatus();
}

}  // namespace salamander::cpu
