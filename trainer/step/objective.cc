#include "trainer/step/objective.h"

#include <algorithm>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/layer_mse.h"
#include "kernels/memory.h"
#include "model/flops.h"
#include "model/parallel/sequence_shards.h"

namespace salamander {
namespace {

// 1 for every token of a document, 0 for padding: a document in which nothing is learnt.
std::vector<float> RealTokenWeights(const PackedStream& stream) {
  std::vector<float> weights(stream.tokens.size(), 0.0F);
  for (size_t index = 0; index < stream.segments.size(); ++index) {
    const Segment& segment = stream.segments[index];
    if (!stream.HasTargets(index)) continue;
    std::fill_n(weights.begin() + segment.query_begin, segment.query_count, 1.0F);
  }
  return weights;
}

// Runs an output head's loss between the model's forward and its backward: from the final hidden
// state of the rank's rows to its gradient, by way of all rows with the rank's part of the head.
class HeadLoss {
 public:
  HeadLoss(const Objective::Call& call, const ParallelContext* parallel)
      : call_(call), parallel_(parallel), split_(SplitOver(parallel)) {}

  // Null where one rank has the whole head.
  const VocabularySplit* split() const { return split_.has_value() ? &*split_ : nullptr; }

  // `run(hidden of all rows, gradients)` takes the loss. d_hidden is empty where no gradient is
  // wanted.
  template <typename Run>
  absl::Status Take(const TensorView& hidden, const TensorView& d_hidden, const Run& run) const {
    const ArenaScope scope(*call_.execution.arena);
    ASSIGN_OR_RETURN(const TensorView whole, GatheredRows(call_.execution, parallel_, hidden));
    if (call_.gradients == nullptr) return run(whole, HeadGradients{});
    const TensorView d_whole = WholeRows(call_.execution, parallel_, d_hidden);
    RETURN_IF_ERROR(run(whole, HeadGradients{.scale = call_.gradient_scale,
                                             .d_hidden = d_whole,
                                             .d_head = call_.gradients->head}));
    return SumRows(parallel_, d_whole, d_hidden);
  }

 private:
  const Objective::Call& call_;
  const ParallelContext* parallel_;
  std::optional<VocabularySplit> split_;
};

// Room for the gradient of the final hidden state, where one is wanted.
TensorView HiddenGradient(const Objective::Call& call, const TensorView& hidden) {
  if (call.gradients == nullptr) return {};
  return call.execution.arena->Tensor(hidden.dtype(), {hidden.dim(0), hidden.dim(1)});
}

class LanguageModel : public Objective {
 public:
  LanguageModel(const Transformer& model, std::vector<Recomputation> recomputation,
                const ParallelContext* parallel)
      : model_(model), recomputation_(std::move(recomputation)), parallel_(parallel) {}

  std::vector<float> RowWeights(const PackedStream& stream) const override {
    return stream.loss_weights;
  }

  absl::Status Accumulate(const Call& call) const override {
    const ArenaScope scope(*call.execution.arena);
    ASSIGN_OR_RETURN(ForwardPass pass, PassOver(call.execution, call.stream, parallel_));
    pass.recomputation = recomputation_;
    ASSIGN_OR_RETURN(const TensorView targets,
                     FromHost<int32_t>(call.execution, call.stream.targets));
    ASSIGN_OR_RETURN(const TensorView loss_weights,
                     FromHost<float>(call.execution, call.stream.loss_weights));
    Activations saved;
    ASSIGN_OR_RETURN(const TensorView hidden,
                     model_.Forward(pass, call.gradients == nullptr ? nullptr : &saved));
    const TensorView d_hidden = HiddenGradient(call, hidden);
    const HeadLoss loss(call, parallel_);
    RETURN_IF_ERROR(loss.Take(hidden, d_hidden, [&](TensorView all, HeadGradients gradients) {
      return HeadCrossEntropy(call.execution, {.hidden = all,
                                               .head = model_.weights().head,
                                               .logit_scale = model_.config().logit_scale,
                                               .targets = targets,
                                               .loss_weights = loss_weights,
                                               .gradients = gradients,
                                               .token_losses = {},
                                               .predictions = {},
                                               .loss_sum = call.loss_sum,
                                               .split = loss.split()});
    }));
    if (call.gradients == nullptr) return absl::OkStatus();
    return model_.Backward(pass, saved, d_hidden, *call.gradients);
  }

  double Flops(const PackedStream& stream, const ModelTensors& gradients) const override {
    return TrainingFlops(model_.config(), ForwardFlops(model_.config(), stream.segments), gradients,
                         stream.size());
  }

 private:
  const Transformer& model_;
  std::vector<Recomputation> recomputation_;
  const ParallelContext* parallel_;
};

class Distillation : public Objective {
 public:
  Distillation(const Transformer& student, const Transformer& teacher,
               std::vector<Recomputation> recomputation, const ParallelContext* parallel)
      : student_(student),
        teacher_(teacher),
        recomputation_(std::move(recomputation)),
        parallel_(parallel) {}

  std::vector<float> RowWeights(const PackedStream& stream) const override {
    return RealTokenWeights(stream);
  }

  absl::Status Accumulate(const Call& call) const override {
    const ArenaScope scope(*call.execution.arena);
    ASSIGN_OR_RETURN(ForwardPass pass, PassOver(call.execution, call.stream, parallel_));
    ASSIGN_OR_RETURN(const TensorView loss_weights,
                     FromHost<float>(call.execution, RowWeights(call.stream)));
    ASSIGN_OR_RETURN(const TensorView teacher_hidden, teacher_.Forward(pass, nullptr));
    pass.recomputation = recomputation_;  // the student's layers alone have an entry
    Activations saved;
    ASSIGN_OR_RETURN(const TensorView hidden,
                     student_.Forward(pass, call.gradients == nullptr ? nullptr : &saved));
    const TensorView d_hidden = HiddenGradient(call, hidden);
    const HeadLoss loss(call, parallel_);
    const auto distill = [&](TensorView all, HeadGradients gradients) -> absl::Status {
      ASSIGN_OR_RETURN(const TensorView teacher_all,
                       GatheredRows(call.execution, parallel_, teacher_hidden));
      return HeadDistillation(call.execution, {.hidden = all,
                                               .head = student_.weights().head,
                                               .logit_scale = student_.config().logit_scale,
                                               .teacher_hidden = teacher_all,
                                               .teacher_head = teacher_.weights().head,
                                               .teacher_logit_scale = teacher_.config().logit_scale,
                                               .loss_weights = loss_weights,
                                               .gradients = gradients,
                                               .token_losses = {},
                                               .loss_sum = call.loss_sum,
                                               .split = loss.split()});
    };
    RETURN_IF_ERROR(loss.Take(hidden, d_hidden, distill));
    if (call.gradients == nullptr) return absl::OkStatus();
    return student_.Backward(pass, saved, d_hidden, *call.gradients);
  }

  double Flops(const PackedStream& stream, const ModelTensors& gradients) const override {
    return TrainingFlops(student_.config(), ForwardFlops(student_.config(), stream.segments),
                         gradients, stream.size()) +
           ForwardFlops(teacher_.config(), stream.segments).total();
  }

 private:
  const Transformer& student_;
  const Transformer& teacher_;
  std::vector<Recomputation> recomputation_;
  const ParallelContext* parallel_;
};

class Alignment : public Objective {
 public:
  Alignment(const Transformer& model, const ParallelContext* parallel)
      : model_(model), parallel_(parallel) {
    const auto& layers = model.config().layers;
    candidates_ = std::count_if(layers.begin(), layers.end(),
                                [](const LayerConfig& layer) { return layer.has_candidate; });
  }

  std::vector<float> RowWeights(const PackedStream& stream) const override {
    return RealTokenWeights(stream);
  }

  absl::Status Accumulate(const Call& call) const override {
    const ArenaScope scope(*call.execution.arena);
    ASSIGN_OR_RETURN(const TensorView row_weights,
                     FromHost<float>(call.execution, RowWeights(call.stream)));
    ASSIGN_OR_RETURN(ForwardPass pass, PassOver(call.execution, call.stream, parallel_));
    const TensorView own_weights = ShardOf(parallel_, row_weights);
    const bool is_sharded = TensorRanks(parallel_) > 1;
    const TensorView loss_sum =
        is_sharded ? call.execution.arena->Tensor(DType::kFloat64, {1}) : call.loss_sum;
    if (is_sharded) RETURN_IF_ERROR(Zero(call.execution, loss_sum));
    pass.tap = [&](const MixerCall& mixer) {
      return AlignLayer(call, mixer, own_weights, loss_sum);
    };
    RETURN_IF_ERROR(model_.Forward(pass, nullptr).status());
    if (!is_sharded) return absl::OkStatus();
    RETURN_IF_ERROR(parallel_->tensor().AllReduceSum(loss_sum));
    return Add(call.execution, loss_sum, call.loss_sum);
  }

  // The mean over layers and channels.
  double loss_unit() const override {
    return 1.0 / (static_cast<double>(std::max<int64_t>(candidates_, 1)) *
                  static_cast<double>(model_.config().width));
  }

  // The layers' own forward, the candidates' forward, and their backward, which ends at their own
  // projections: of those, output and gate alone have an input's gradient.
  double Flops(const PackedStream& stream, const ModelTensors& gradients) const override {
    ModelFlops own = ForwardFlops(model_.config(), stream.segments);
    own.head = 0;
    const ModelFlops candidate = LightningMixerFlops(model_.config(), stream.size());
    double weights = 0;
    double inputs = 0;
    for (const LayerTensors& layer : gradients.layers) {
      weights += WeightGradientFlops(model_.config(), MixerKind::kLightning, layer.candidate,
                                     stream.size());
      MixerTensors output;
      output.output = layer.candidate.output;
      inputs += WeightGradientFlops(model_.config(), MixerKind::kLightning, output, stream.size());
    }
    return own.total() + weights + inputs +
           static_cast<double>(candidates_) * (candidate.projections + 3 * candidate.lightning);
  }

 private:
  // The candidate's forward and backward right beside the layer it imitates: layers are
  // independent, so nothing is kept. The error is taken of the rank's rows.
  absl::Status AlignLayer(const Call& call, const MixerCall& mixer, const TensorView& row_weights,
                          const TensorView& loss_sum) const {
    const auto layer = static_cast<size_t>(mixer.layer);
    if (!model_.config().layers[layer].has_candidate) return absl::OkStatus();
    Arena& arena = *call.execution.arena;
    const ArenaScope scope(arena);
    const TensorView output =
        arena.Tensor(mixer.output.dtype(), {mixer.output.dim(0), mixer.output.dim(1)});
    const TensorView whole_input = WholeRows(call.execution, parallel_, mixer.input);
    const TensorView whole_output = WholeRows(call.execution, parallel_, output);
    MixerActivations saved;
    const Mixer& candidate = model_.candidate(mixer.layer);
    RETURN_IF_ERROR(GatherRows(parallel_, mixer.input, whole_input));
    RETURN_IF_ERROR(candidate.Forward(mixer.candidate_pass, whole_input, whole_output, saved));
    RETURN_IF_ERROR(SumRows(parallel_, whole_output, output));
    RETURN_IF_ERROR(
        LayerMse(call.execution, {.output = output,
                                  .target = mixer.output,
                                  .row_weights = row_weights,
                                  .gradient_scale = call.gradient_scale * loss_unit(),
                                  .d_output = call.gradients == nullptr ? TensorView() : output,
                                  .loss_sum = loss_sum,
                                  .moments = {}}));
    if (call.gradients == nullptr) return absl::OkStatus();
    RETURN_IF_ERROR(GatherRows(parallel_, output, whole_output));
    return candidate.Backward(mixer.candidate_pass, whole_input, saved, whole_output, {},
                              call.gradients->layers[layer].candidate);
  }

  const Transformer& model_;
  const ParallelContext* parallel_;
  int64_t candidates_;
};

}  // namespace

absl::StatusOr<ForwardPass> PassOver(const ExecutionContext& execution, const PackedStream& stream,
                                     const ParallelContext* parallel) {
  ASSIGN_OR_RETURN(const TensorView tokens, FromHost<int32_t>(execution, stream.tokens));
  return ForwardPass{.execution = &execution,
                     .tokens = tokens,
                     .segments = stream.segments,
                     .cache = nullptr,
                     .use_candidate = {},
                     .tap = {},
                     .recomputation = {},
                     .parallel = parallel};
}

std::optional<VocabularySplit> SplitOver(const ParallelContext* parallel) {
  if (TensorRanks(parallel) == 1) return std::nullopt;
  return VocabularySplit{.rank = TensorRank(parallel),
                         .ranks = TensorRanks(parallel),
                         .gather = [parallel](const TensorView& mine, const TensorView& all) {
                           return parallel->tensor().AllGather(mine, all);
                         }};
}

absl::StatusOr<LossSums> SumLoss(const ExecutionContext& execution, const Objective& objective,
                                 absl::Span<const PackedStream> streams) {
  const ArenaScope scope(*execution.arena);
  const TensorView loss_sum = execution.arena->Tensor(DType::kFloat64, {1});
  RETURN_IF_ERROR(Zero(execution, loss_sum));
  LossSums sums;
  for (const PackedStream& stream : streams) {
    RETURN_IF_ERROR(
        objective.Accumulate({.execution = execution, .stream = stream, .loss_sum = loss_sum}));
    for (const float weight : objective.RowWeights(stream))
      sums.row_weights += static_cast<double>(weight);
  }
  RETURN_IF_ERROR(CopyToHost(execution, loss_sum, &sums.loss));
  sums.loss *= objective.loss_unit();
  return sums;
}

std::unique_ptr<Objective> LanguageModelObjective(const Transformer& model,
                                                  std::vector<Recomputation> recomputation,
                                                  const ParallelContext* parallel) {
  return std::make_unique<LanguageModel>(model, std::move(recomputation), parallel);
}

std::unique_ptr<Objective> DistillationObjective(const Transformer& student,
                                                 const Transformer& teacher,
                                                 std::vector<Recomputation> recomputation,
                                                 const ParallelContext* parallel) {
  return std::make_unique<Distillation>(student, teacher, std::move(recomputation), parallel);
}

std::unique_ptr<Objective> AlignmentObjective(const Transformer& model,
                                              const ParallelContext* parallel) {
  return std::make_unique<Alignment>(model, parallel);
}

}  // namespace salamander
