#include "model/layers/softmax_mixer.h"

#include <cmath>

#include "kernels/base/status_macros.h"
#include "kernels/block_selection.h"
#include "kernels/dense_attention.h"
#include "kernels/memory.h"
#include "kernels/sparse_attention.h"
#include "model/layers/attention_split.h"
#include "model/layers/block_selection_shape.h"
#include "model/layers/key_slices.h"
#include "model/layers/shared_selection.h"
#include "model/parallel/sequence_shards.h"

namespace salamander {
namespace {

// Puts the new keys and values of every sequence behind those it has.
absl::Status AppendToCache(const MixerPass& pass, const MixerActivations& saved) {
  for (const Segment& segment : pass.segments) {
    const int64_t row = segment.key_begin + segment.first_position;
    const auto append = [&](const TensorView& fresh, const TensorView& cached) {
      return Copy(*pass.execution, fresh.Rows(segment.query_begin, segment.query_count),
                  cached.Rows(row, segment.query_count));
    };
    RETURN_IF_ERROR(append(saved.key, pass.cache->keys));
    RETURN_IF_ERROR(append(saved.value, pass.cache->values));
  }
  return absl::OkStatus();
}

}  // namespace

SoftmaxMixer::SoftmaxMixer(const SoftmaxConfig& config, double norm_epsilon,
                           const MixerTensors& weights)
    : config_(config),
      shape_(ShapeOf(weights, config.head_dim, norm_epsilon)),
      weights_(weights),
      scale_(1.0 / std::sqrt(static_cast<double>(config.head_dim))) {}

int SoftmaxMixer::Holders(const MixerPass& pass) const {
  return static_cast<int>(TensorRanks(pass.parallel) * shape_.kv_heads / config_.kv_heads);
}

absl::Status SoftmaxMixer::Forward(const MixerPass& pass, TensorView input, TensorView output,
                                   MixerActivations& saved) const {
  RETURN_IF_ERROR(ProjectQkv(pass, shape_, weights_, input, saved));
  Arena& arena = *pass.execution->arena;
  const int64_t tokens = input.dim(0);
  saved.attention = arena.Tensor(input.dtype(), {tokens, shape_.heads, shape_.head_dim});
  saved.logsumexp = arena.Tensor(StatisticsType(input.dtype()), {tokens, shape_.heads});
  RETURN_IF_ERROR(AttentionForward(pass, saved));
  return ProjectOutput(pass, weights_, input,
                       saved.attention.Reshape({tokens, saved.attention.row_size()}), output,
                       saved);
}

absl::Status SoftmaxMixer::AttentionForward(const MixerPass& pass, MixerActivations& saved) const {
  Arena& arena = *pass.execution->arena;
  const AttentionSplit split = SplitAttention(config_, pass.segments);
  if (!split.sparse.empty()) {
    saved.blocks = arena.Tensor(DType::kInt32, {saved.query.dim(0), shape_.kv_heads,
                                                SelectionShape(config_.sparse).selected_blocks});
  }
  const ArenaScope scope(arena);
  KeysAndValues read;
  if (pass.cache != nullptr) {
    RETURN_IF_ERROR(AppendToCache(pass, saved));
    read = {pass.cache->keys, pass.cache->values};
  } else {
    ASSIGN_OR_RETURN(read, GatherSlices(pass, {saved.key, saved.value}));
  }
  if (!split.dense.empty()) {
    RETURN_IF_ERROR(DenseAttentionForward(*pass.execution, {.q = saved.query,
                                                            .k = read.keys,
                                                            .v = read.values,
                                                            .segments = split.dense,
                                                            .scale = scale_,
                                                            .out = saved.attention,
                                                            .logsumexp = saved.logsumexp}));
  }
  return SparseForward(pass, split.sparse, read.keys, read.values, saved);
}

absl::Status SoftmaxMixer::SparseForward(const MixerPass& pass, Segments segments, TensorView keys,
                                         TensorView values, const MixerActivations& saved) const {
  if (!config_.use_sparse) return absl::OkStatus();
  const bool has_cache = pass.cache != nullptr;
  if (segments.empty() && !has_cache) return absl::OkStatus();
  Arena& arena = *pass.execution->arena;
  const BlockSelectionShape selection = SelectionShape(config_.sparse);
  {
    const ArenaScope scope(arena);
    const auto pooled = [&](int64_t rows) {
      return arena.Tensor(keys.dtype(), {rows, shape_.kv_heads, shape_.head_dim});
    };
    const TensorView fine =
        has_cache ? pass.cache->fine_keys : pooled(FineKeyRows(keys.dim(0), selection));
    const TensorView coarse =
        has_cache ? pass.cache->coarse_keys : pooled(CoarseKeyRows(keys.dim(0), selection));
    // A cached sequence is pooled from its first token on, dense or not, so that it may turn sparse
    // at any step.
    RETURN_IF_ERROR(PoolKeys(*pass.execution, {.k = keys,
                                               .segments = has_cache ? pass.segments : segments,
                                               .shape = selection,
                                               .only_new = has_cache,
                                               .fine_keys = fine,
                                               .coarse_keys = coarse}));
    if (segments.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(SelectSharedBlocks(pass, Holders(pass),
                                       {.q = saved.query,
                                        .fine_keys = fine,
                                        .coarse_keys = coarse,
                                        .segments = segments,
                                        .shape = selection,
                                        .scale = scale_,
                                        .blocks = saved.blocks}));
  }
  return SparseAttentionForward(*pass.execution, {.q = saved.query,
                                                  .k = keys,
                                                  .v = values,
                                                  .segments = segments,
                                                  .blocks = saved.blocks,
                                                  .block_size = selection.block_size,
                                                  .scale = scale_,
                                                  .out = saved.attention,
                                                  .logsumexp = saved.logsumexp});
}

absl::Status SoftmaxMixer::AttentionBackward(const MixerPass& pass, const MixerActivations& saved,
                                             TensorView d_attention, const QkvGradients& d) const {
  // Gathered again rather than kept: few bytes to send, many to keep for every layer.
  const ArenaScope scope(*pass.execution->arena);
  ASSIGN_OR_RETURN(const KeysAndValues read, GatherSlices(pass, {saved.key, saved.value}));
  ASSIGN_OR_RETURN(const KeysAndValues d_read, ZeroGradients(pass, {d.key, d.value}));
  RETURN_IF_ERROR(Zero(*pass.execution, d.query));
  const AttentionSplit split = SplitAttention(config_, pass.segments);
  if (!split.dense.empty()) {
    RETURN_IF_ERROR(DenseAttentionBackward(*pass.execution, {.q = saved.query,
                                                             .k = read.keys,
                                                             .v = read.values,
                                                             .segments = split.dense,
                                                             .scale = scale_,
                                                             .out = saved.attention,
                                                             .logsumexp = saved.logsumexp,
                                                             .d_out = d_attention,
                                                             .dq = d.query,
                                                             .dk = d_read.keys,
                                                             .dv = d_read.values}));
  }
  if (!split.sparse.empty()) {
    RETURN_IF_ERROR(
        SparseAttentionBackward(*pass.execution, {.q = saved.query,
                                                  .k = read.keys,
                                                  .v = read.values,
                                                  .segments = split.sparse,
                                                  .blocks = saved.blocks,
                                                  .block_size = config_.sparse.block_size,
                                                  .scale = scale_,
                                                  .out = saved.attention,
                                                  .logsumexp = saved.logsumexp,
                                                  .d_out = d_attention,
                                                  .dq = d.query,
                                                  .dk = d_read.keys,
                                                  .dv = d_read.values}));
  }
  return ScatterGradients(pass, d_read, {d.key, d.value});
}

absl::Status SoftmaxMixer::Backward(const MixerPass& pass, TensorView input,
                                    const MixerActivations& saved, TensorView d_output,
                                    TensorView d_input, const MixerTensors& gradients) const {
  SALAMANDER_CHECK(pass.cache == nullptr) << "there is no backward through a generation cache";
  Arena& arena = *pass.execution->arena;
  const ArenaScope scope(arena);
  const int64_t tokens = input.dim(0);
  const TensorView d_attention =
      arena.Tensor(input.dtype(), {tokens, shape_.heads, shape_.head_dim});
  const TensorView d_mixed = d_attention.Reshape({tokens, d_attention.row_size()});
  RETURN_IF_ERROR(ProjectOutputBackward(
      pass, {.weights = weights_,
             .gradients = gradients,
             .input = input,
             .mixed = saved.attention.Reshape({tokens, d_attention.row_size()}),
             .saved = saved,
             .d_output = d_output,
             .d_mixed = d_mixed,
             .d_input = d_input}));
  const QkvGradients d{arena.Tensor(input.dtype(), {tokens, shape_.heads, shape_.head_dim}),
                       arena.Tensor(input.dtype(), {tokens, shape_.kv_heads, shape_.head_dim}),
                       arena.Tensor(input.dtype(), {tokens, shape_.kv_heads, shape_.head_dim})};
  RETURN_IF_ERROR(AttentionBackward(pass, saved, d_attention, d));
  return ProjectQkvBackward(pass, {.shape = shape_,
                                   .weights = weights_,
                                   .gradients = gradients,
                                   .input = input,
                                   .saved = saved,
                                   .d = d,
                                   .d_input = d_input});
}

}  // namespace salamander
