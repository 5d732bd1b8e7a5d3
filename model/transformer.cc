#include "model/transformer.h"

#include <memory>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"
#include "model/layers/lightning_mixer.h"
#include "model/layers/softmax_mixer.h"
#include "model/parallel/sequence_shards.h"

namespace salamander {

namespace {

Recomputation RecomputationOf(const ForwardPass& pass, int64_t layer) {
  return pass.recomputation.empty() ? Recomputation::kNone
                                    : pass.recomputation[static_cast<size_t>(layer)];
}

// The rows that the rank's part of the embedding has.
EmbeddingPart PartOf(const ForwardPass& pass, const ModelConfig& config) {
  return {.first_token = TensorRank(pass.parallel) * config.vocabulary / TensorRanks(pass.parallel),
          .vocabulary = config.vocabulary};
}

}  // namespace

// h and the branch still to be added to it.
struct Transformer::Stream {
  TensorView residual;      // [N, C]
  TensorView branch;        // [N, C]
  bool has_branch = false;  // whether branch holds something yet
  bool in_place = false;    // nothing is kept for a backward: h is updated where it stands
  TensorView carried = {};  // [N, C] h behind a layer that is computed again; one for all of them
  TensorView whole = {};    // [T, C] scratch for all rows; empty where the rank has all
};

// The gradients of both. A mixer or MLP finds its input and d_output for all rows in the scratch,
// and leaves its part of d_input in place of d_output.
struct Transformer::GradientStream {
  TensorView residual, branch;      // [N, C]
  TensorView d_input;               // [N, C] of a mixer or MLP
  TensorView whole_input, d_whole;  // [T, C] scratch; empty where the rank has all rows

  TensorView WholeInput(const TensorView& input) const {
    return whole_input.empty() ? input : whole_input;
  }
  TensorView WholeBranch() const { return d_whole.empty() ? branch : d_whole; }
  TensorView WholeDInput() const { return d_whole.empty() ? d_input : d_whole; }
};

struct Transformer::Half {
  TensorView residual;      // [N, C]
  TensorView branch;        // [N, C] or empty
  TensorView hidden;        // [N, C] receives their sum where there is a branch; may be `residual`
  TensorView output;        // [N, C] of the mixer or MLP; may be `branch`; empty (MLP): not wanted
  bool keeps_inner = true;  // what the mixer saved for its backward
  TensorView whole = {};    // as in Stream

  // What the mixer or MLP reads and writes, for all rows.
  TensorView WholeInput(const TensorView& input) const { return whole.empty() ? input : whole; }
  TensorView WholeOutput() const { return whole.empty() || output.empty() ? output : whole; }
};

Transformer::Transformer(const ModelConfig& config, ModelTensors weights)
    : config_(config), weights_(std::move(weights)), candidates_(config.layers.size()) {
  for (size_t layer = 0; layer < config_.layers.size(); ++layer) {
    const LayerTensors& tensors = weights_.layers[layer];
    if (config_.layers[layer].mixer == MixerKind::kSoftmax) {
      mixers_.push_back(
          std::make_unique<SoftmaxMixer>(config_.softmax, config_.norm_epsilon, tensors.mixer));
    } else {
      mixers_.push_back(
          std::make_unique<LightningMixer>(config_.lightning, config_.norm_epsilon, tensors.mixer));
    }
    if (config_.layers[layer].has_candidate) {
      candidates_[layer] = std::make_unique<LightningMixer>(config_.lightning, config_.norm_epsilon,
                                                            tensors.candidate);
    }
  }
}

bool Transformer::RunsCandidate(const ForwardPass& pass, int64_t layer) const {
  return !pass.use_candidate.empty() && pass.use_candidate[static_cast<size_t>(layer)];
}

const Mixer& Transformer::candidate(int64_t layer) const {
  const std::unique_ptr<Mixer>& found = candidates_[static_cast<size_t>(layer)];
  SALAMANDER_CHECK(found != nullptr) << "layer " << layer << " has no candidate";
  return *found;
}

const Mixer& Transformer::MixerOf(const ForwardPass& pass, int64_t layer) const {
  return RunsCandidate(pass, layer) ? candidate(layer) : *mixers_[static_cast<size_t>(layer)];
}

MixerKind Transformer::KindOf(const ForwardPass& pass, int64_t layer) const {
  return RunsCandidate(pass, layer) ? MixerKind::kLightning
                                    : config_.layers[static_cast<size_t>(layer)].mixer;
}

MixerPass Transformer::PassOf(const ForwardPass& pass, const Activations& tables, int64_t layer,
                              MixerKind kind) const {
  return {.execution = pass.execution,
          .segments = pass.segments,
          .rope = kind == MixerKind::kLightning ? tables.lightning_rope : tables.softmax_rope,
          .cache = pass.cache == nullptr ? nullptr : &pass.cache->layer(layer),
          .parallel = pass.parallel};
}

absl::Status Transformer::MakeTables(const ForwardPass& pass, DType dtype,
                                     Activations& tables) const {
  const int64_t tokens = pass.tokens.dim(0);
  const auto make = [&](int64_t head_dim) {
    return MakeRopeTables(*pass.execution, config_, head_dim, dtype, pass.segments, tokens);
  };
  tables.softmax_rope = tables.lightning_rope = {};
  if (config_.softmax.use_rope && config_.has_mixer(MixerKind::kSoftmax)) {
    ASSIGN_OR_RETURN(tables.softmax_rope, make(config_.softmax.head_dim));
  }
  if (!config_.lightning.use_rope || !config_.has_mixer(MixerKind::kLightning))
    return absl::OkStatus();
  const bool same = !tables.softmax_rope.cosines.empty() &&
                    config_.softmax.head_dim == config_.lightning.head_dim;
  if (same) {
    tables.lightning_rope = tables.softmax_rope;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(tables.lightning_rope, make(config_.lightning.head_dim));
  return absl::OkStatus();
}

absl::Status Transformer::MixerHalf(const ForwardPass& pass, int64_t layer,
                                    const Activations& tables, const Half& half,
                                    LayerActivations& saved) const {
  const ExecutionContext& execution = *pass.execution;
  const DType dtype = half.residual.dtype();
  const int64_t tokens = half.residual.dim(0);
  saved.input_inverse_rms = execution.arena->Tensor(StatisticsType(dtype), {tokens});
  saved.mixer_input = execution.arena->Tensor(dtype, {tokens, config_.width});
  RETURN_IF_ERROR(Normalise(execution, half, weights_.layers[static_cast<size_t>(layer)].input_norm,
                            saved.input_inverse_rms, saved.mixer_input));
  const int64_t mark = execution.arena->used_bytes();
  const TensorView input = half.WholeInput(saved.mixer_input);
  RETURN_IF_ERROR(GatherRows(pass.parallel, saved.mixer_input, input));
  RETURN_IF_ERROR(MixerOf(pass, layer)
                      .Forward(PassOf(pass, tables, layer, KindOf(pass, layer)), input,
                               half.WholeOutput(), saved.mixer));
  RETURN_IF_ERROR(SumRows(pass.parallel, half.WholeOutput(), half.output));
  if (half.keeps_inner) return absl::OkStatus();
  saved.mixer = {};
  execution.arena->RewindTo(mark);
  return absl::OkStatus();
}

absl::Status Transformer::MlpHalf(const ForwardPass& pass, int64_t layer, const Half& half,
                                  LayerActivations& saved) const {
  const ExecutionContext& execution = *pass.execution;
  const LayerTensors& weights = weights_.layers[static_cast<size_t>(layer)];
  const DType dtype = half.residual.dtype();
  const int64_t tokens = half.residual.dim(0);
  saved.post_inverse_rms = execution.arena->Tensor(StatisticsType(dtype), {tokens});
  saved.mlp_input = execution.arena->Tensor(dtype, {tokens, config_.width});
  RETURN_IF_ERROR(
      Normalise(execution, half, weights.post_norm, saved.post_inverse_rms, saved.mlp_input));
  const TensorView input = half.WholeInput(saved.mlp_input);
  RETURN_IF_ERROR(GatherRows(pass.parallel, saved.mlp_input, input));
  RETURN_IF_ERROR(MlpForward(execution, weights.mlp, input, half.WholeOutput(), saved.mlp));
  if (half.output.empty()) return absl::OkStatus();
  return SumRows(pass.parallel, half.WholeOutput(), half.output);
}

absl::Status Transformer::Normalise(const ExecutionContext& execution, const Half& half,
                                    TensorView weight, TensorView inverse_rms,
                                    TensorView output) const {
  return RmsNormForward(execution, {.residual = half.residual,
                                    .branch = half.branch,
                                    .branch_scale = config_.residual_scale,
                                    .weight = weight,
                                    .epsilon = config_.norm_epsilon,
                                    .hidden = half.branch.empty() ? TensorView() : half.hidden,
                                    .output = output,
                                    .inverse_rms = inverse_rms});
}

absl::Status Transformer::LayerForward(const ForwardPass& pass, int64_t layer,
                                       const Activations& tables, Stream& stream,
                                       LayerActivations& saved) const {
  Arena& arena = *pass.execution->arena;
  const int64_t tokens = stream.residual.dim(0);
  const auto activation = [&] {
    return arena.Tensor(stream.residual.dtype(), {tokens, config_.width});
  };
  const Recomputation recomputation = RecomputationOf(pass, layer);
  saved.input_hidden = stream.in_place || !stream.has_branch ? stream.residual : activation();
  const int64_t layer_mark = arena.used_bytes();
  RETURN_IF_ERROR(MixerHalf(pass, layer, tables,
                            {.residual = stream.residual,
                             .branch = stream.has_branch ? stream.branch : TensorView(),
                             .hidden = saved.input_hidden,
                             .output = stream.branch,
                             .keeps_inner = recomputation != Recomputation::kAttention,
                             .whole = stream.whole},
                            saved));
  stream.has_branch = true;
  if (pass.tap) {
    RETURN_IF_ERROR(
        pass.tap({.layer = layer,
                  .input = saved.mixer_input,
                  .output = stream.branch,
                  .candidate_pass = PassOf(pass, tables, layer, MixerKind::kLightning)}));
  }

  saved.post_hidden = stream.in_place                         ? saved.input_hidden
                      : recomputation == Recomputation::kFull ? stream.carried
                                                              : activation();
  RETURN_IF_ERROR(MlpHalf(pass, layer,
                          {.residual = saved.input_hidden,
                           .branch = stream.branch,
                           .hidden = saved.post_hidden,
                           .output = stream.branch,
                           .whole = stream.whole},
                          saved));
  stream.residual = saved.post_hidden;
  if (recomputation == Recomputation::kFull) {
    const TensorView input = saved.input_hidden;
    saved = {};
    saved.input_hidden = input;
    arena.RewindTo(layer_mark);
  }
  return absl::OkStatus();
}

absl::Status Transformer::RecomputeMixer(const ForwardPass& pass, int64_t layer,
                                         const Activations& tables, TensorView input,
                                         LayerActivations& saved) const {
  const TensorView unwanted =
      pass.execution->arena->Tensor(input.dtype(), {input.dim(0), config_.width});
  return MixerOf(pass, layer)
      .Forward(PassOf(pass, tables, layer, KindOf(pass, layer)), input, unwanted, saved.mixer);
}

absl::Status Transformer::RecomputeLayer(const ForwardPass& pass, int64_t layer,
                                         const Activations& tables, TensorView whole,
                                         LayerActivations& saved) const {
  Arena& arena = *pass.execution->arena;
  const TensorView input = saved.input_hidden;
  const TensorView branch = arena.Tensor(input.dtype(), {input.dim(0), config_.width});
  RETURN_IF_ERROR(MixerHalf(
      pass, layer, tables,
      {.residual = input, .branch = {}, .hidden = {}, .output = branch, .whole = whole}, saved));
  saved.post_hidden = arena.Tensor(input.dtype(), {input.dim(0), config_.width});
  return MlpHalf(pass, layer,
                 {.residual = input,
                  .branch = branch,
                  .hidden = saved.post_hidden,
                  .output = {},
                  .whole = whole},
                 saved);
}

absl::StatusOr<TensorView> Transformer::Forward(const ForwardPass& pass, Activations* saved) const {
  Arena& arena = *pass.execution->arena;
  const int64_t tokens = ShardRows(pass.parallel, pass.tokens.dim(0));
  const DType dtype = weights_.embedding.dtype();
  const TensorView result = arena.Tensor(dtype, {tokens, config_.width});
  const int64_t mark = arena.used_bytes();
  SALAMANDER_CHECK(pass.recomputation.empty() || pass.recomputation.size() == config_.layers.size())
      << pass.recomputation.size() << " choices of recomputation for " << config_.layers.size()
      << " layers";
  Activations discarded;
  Activations& kept = saved == nullptr ? discarded : *saved;
  RETURN_IF_ERROR(MakeTables(pass, dtype, kept));
  kept.layers.assign(config_.layers.size(), {});

  Stream stream{.residual = arena.Tensor(dtype, {tokens, config_.width}),
                .branch = arena.Tensor(dtype, {tokens, config_.width}),
                .in_place = saved == nullptr};
  if (saved != nullptr && !pass.recomputation.empty())
    stream.carried = arena.Tensor(dtype, {tokens, config_.width});
  if (TensorRanks(pass.parallel) > 1)
    stream.whole = arena.Tensor(dtype, {pass.tokens.dim(0), config_.width});
  const TensorView embedded = stream.whole.empty() ? stream.residual : stream.whole;
  RETURN_IF_ERROR(EmbeddingForward(*pass.execution, {.tokens = pass.tokens,
                                                     .table = weights_.embedding,
                                                     .output = embedded,
                                                     .scale = config_.embedding_scale,
                                                     .part = PartOf(pass, config_)}));
  RETURN_IF_ERROR(SumRows(pass.parallel, embedded, stream.residual));
  for (int64_t layer = 0; layer < config_.layer_count(); ++layer) {
    const int64_t layer_mark = arena.used_bytes();
    RETURN_IF_ERROR(
        LayerForward(pass, layer, kept, stream, kept.layers[static_cast<size_t>(layer)]));
    if (saved == nullptr) arena.RewindTo(layer_mark);
  }
  kept.final_hidden =
      stream.in_place ? stream.residual : arena.Tensor(dtype, {tokens, config_.width});
  kept.final_inverse_rms = arena.Tensor(StatisticsType(dtype), {tokens});
  RETURN_IF_ERROR(RmsNormForward(*pass.execution, {.residual = stream.residual,
                                                   .branch = stream.branch,
                                                   .branch_scale = config_.residual_scale,
                                                   .weight = weights_.final_norm,
                                                   .epsilon = config_.norm_epsilon,
                                                   .hidden = kept.final_hidden,
                                                   .output = result,
                                                   .inverse_rms = kept.final_inverse_rms}));
  if (saved == nullptr) arena.RewindTo(mark);
  return result;
}

absl::Status Transformer::MlpHalfBackward(const ForwardPass& pass, int64_t layer,
                                          const LayerActivations& saved,
                                          const GradientStream& stream,
                                          const LayerTensors& gradients) const {
  const LayerTensors& weights = weights_.layers[static_cast<size_t>(layer)];
  const TensorView input = stream.WholeInput(saved.mlp_input);
  if (RecomputationOf(pass, layer) != Recomputation::kFull)  // which left it there
    RETURN_IF_ERROR(GatherRows(pass.parallel, saved.mlp_input, input));
  RETURN_IF_ERROR(GatherRows(pass.parallel, stream.branch, stream.WholeBranch()));
  RETURN_IF_ERROR(MlpBackward(*pass.execution, {.weights = weights.mlp,
                                                .gradients = gradients.mlp,
                                                .input = input,
                                                .saved = saved.mlp,
                                                .d_output = stream.WholeBranch(),
                                                .d_input = stream.WholeDInput()}));
  RETURN_IF_ERROR(SumRows(pass.parallel, stream.WholeDInput(), stream.d_input));
  return RmsNormBackward(*pass.execution, {.hidden = saved.post_hidden,
                                           .weight = weights.post_norm,
                                           .inverse_rms = saved.post_inverse_rms,
                                           .d_output = stream.d_input,
                                           .d_hidden = stream.residual,
                                           .branch_scale = config_.residual_scale,
                                           .d_residual = stream.residual,
                                           .d_branch = stream.branch,
                                           .d_weight = gradients.post_norm});
}

absl::Status Transformer::MixerHalfBackward(const ForwardPass& pass, int64_t layer,
                                            Activations& saved, const GradientStream& stream,
                                            const LayerTensors& gradients) const {
  LayerActivations& activations = saved.layers[static_cast<size_t>(layer)];
  const TensorView input = stream.WholeInput(activations.mixer_input);
  RETURN_IF_ERROR(GatherRows(pass.parallel, activations.mixer_input, input));
  if (RecomputationOf(pass, layer) == Recomputation::kAttention)
    RETURN_IF_ERROR(RecomputeMixer(pass, layer, saved, input, activations));
  RETURN_IF_ERROR(GatherRows(pass.parallel, stream.branch, stream.WholeBranch()));
  RETURN_IF_ERROR(
      MixerOf(pass, layer)
          .Backward(PassOf(pass, saved, layer, KindOf(pass, layer)), input, activations.mixer,
                    stream.WholeBranch(), stream.WholeDInput(),
                    RunsCandidate(pass, layer) ? gradients.candidate : gradients.mixer));
  RETURN_IF_ERROR(SumRows(pass.parallel, stream.WholeDInput(), stream.d_input));
  return RmsNormBackward(*pass.execution,
                         {.hidden = activations.input_hidden,
                          .weight = weights_.layers[static_cast<size_t>(layer)].input_norm,
                          .inverse_rms = activations.input_inverse_rms,
                          .d_output = stream.d_input,
                          .d_hidden = stream.residual,
                          .branch_scale = config_.residual_scale,
                          .d_residual = stream.residual,
                          .d_branch = layer == 0 ? TensorView() : stream.branch,
                          .d_weight = gradients.input_norm});
}

absl::Status Transformer::LayerBackward(const ForwardPass& pass, int64_t layer, Activations& saved,
                                        const GradientStream& stream,
                                        const LayerTensors& gradients) const {
  LayerActivations& activations = saved.layers[static_cast<size_t>(layer)];
  const ArenaScope scope(*pass.execution->arena);
  if (RecomputationOf(pass, layer) == Recomputation::kFull)
    RETURN_IF_ERROR(RecomputeLayer(pass, layer, saved, stream.whole_input, activations));
  RETURN_IF_ERROR(MlpHalfBackward(pass, layer, activations, stream, gradients));
  return MixerHalfBackward(pass, layer, saved, stream, gradients);
}

absl::Status Transformer::Backward(const ForwardPass& pass, Activations& saved, TensorView d_hidden,
                                   const ModelTensors& gradients) const {
  const ExecutionContext& execution = *pass.execution;
  const ArenaScope scope(*execution.arena);
  const auto rows = [&](int64_t count) {
    return execution.arena->Tensor(d_hidden.dtype(), {count, config_.width});
  };
  GradientStream gradient{.residual = rows(d_hidden.dim(0)),
                          .branch = rows(d_hidden.dim(0)),
                          .d_input = rows(d_hidden.dim(0)),
                          .whole_input = {},
                          .d_whole = {}};
  if (TensorRanks(pass.parallel) > 1) {
    gradient.whole_input = rows(pass.tokens.dim(0));
    gradient.d_whole = rows(pass.tokens.dim(0));
  }
  RETURN_IF_ERROR(RmsNormBackward(execution, {.hidden = saved.final_hidden,
                                              .weight = weights_.final_norm,
                                              .inverse_rms = saved.final_inverse_rms,
                                              .d_output = d_hidden,
                                              .d_hidden = {},
                                              .branch_scale = config_.residual_scale,
                                              .d_residual = gradient.residual,
                                              .d_branch = gradient.branch,
                                              .d_weight = gradients.final_norm}));
  for (int64_t layer = config_.layer_count() - 1; layer >= 0; --layer) {
    RETURN_IF_ERROR(
        LayerBackward(pass, layer, saved, gradient, gradients.layers[static_cast<size_t>(layer)]));
  }
  if (gradients.embedding.empty()) return absl::OkStatus();
  const TensorView d_embedded = gradient.d_whole.empty() ? gradient.residual : gradient.d_whole;
  RETURN_IF_ERROR(GatherRows(pass.parallel, gradient.residual, d_embedded));
  return EmbeddingBackward(execution, {.tokens = pass.tokens,
                                       .d_output = d_embedded,
                                       .d_table = gradients.embedding,
                                       .scale = config_.embedding_scale,
                                       .part = PartOf(pass, config_)});
}

}  // namespace salamander
