#include "trainer/run/memory_plan.h"

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/parallel/communicator.h"
#include "model/parameters.h"
#include "model/transformer.h"
#include "trainer/evaluate/token_scores.h"
#include "trainer/run/stage_model.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

// Many short documents take longer tables than a few long ones, and less of everything that grows
// with a document's square or is kept per split of one.
constexpr int64_t kShortDocument = 32;

std::array<int64_t, 3> DocumentLengths(int64_t sequence_length) {
  return {sequence_length, sequence_length / 2 + 1, kShortDocument};
}

// Parameters that have addresses and no memory.
struct PlannedModel {
  PlannedModel(const ModelConfig& base, DType dtype)
      : layout(base), buffer(ParameterBuffer::Planned(layout, dtype)) {}
  ModelTensors Bind(const ModelConfig& base) const { return BindTensors(base, layout, buffer); }

  ParameterLayout layout;
  ParameterBuffer buffer;
};

PackedStream StreamOf(int64_t tokens, int64_t document) {
  PackedStream stream;
  const std::vector<int32_t> piece(static_cast<size_t>(document), 0);
  for (int64_t begin = 0; begin < tokens; begin += document) {
    const auto count = static_cast<size_t>(std::min(document, tokens - begin));
    AppendPiece(absl::MakeConstSpan(piece).first(count), 0, {}, &stream);
  }
  return stream;
}

class StagePlanner {
 public:
  StagePlanner(const Recipe& recipe, const StageConfig& stage, DeviceSession& session)
      : recipe_(recipe), stage_(stage), session_(session), execution_(session.Context(arena_)) {}

  absl::StatusOr<MemoryPlan::Stage> Plan(const RunModels& models);

 private:
  // The arena's peak is the most that any pass took.
  absl::Status Pass(const std::function<absl::Status()>& enqueue) {
    const ArenaScope scope(arena_);
    return session_.Plan(enqueue);
  }
  absl::Status PlanTraining(const Transformer& model, const Transformer* teacher,
                            const ModelTensors& gradients, MemoryPlan::Stage& plan);
  // What the model's forward keeps, where it is more than `most`.
  absl::Status AddKept(const Transformer& model, const PackedStream& stream, int64_t& most);
  absl::Status PlanEvaluation(const Transformer& model, const Transformer* teacher);

  const Recipe& recipe_;
  const StageConfig& stage_;
  DeviceSession& session_;
  Arena arena_ = Arena::Planned();
  ExecutionContext execution_;
};

absl::Status StagePlanner::PlanTraining(const Transformer& model, const Transformer* teacher,
                                        const ModelTensors& gradients, MemoryPlan::Stage& plan) {
  const auto objective = ObjectiveFor(stage_, model, teacher);
  const int64_t tokens = std::max(stage_.micro_batch_tokens, stage_.sequence_length);
  for (const int64_t document : DocumentLengths(stage_.sequence_length)) {
    const PackedStream stream = StreamOf(tokens, document);
    const auto accumulate = [&] {
      const TensorView loss_sum = arena_.Tensor(DType::kFloat64, {1});
      return objective->Accumulate({.execution = execution_,
                                    .stream = stream,
                                    .gradients = &gradients,
                                    .loss_sum = loss_sum});
    };
    RETURN_IF_ERROR(Pass(accumulate));
    if (stage_.objective == ObjectiveKind::kAlign) continue;  // keeps nothing between layers
    const auto forward = [&] { return AddKept(model, stream, plan.activations); };
    RETURN_IF_ERROR(Pass(forward));
  }
  return absl::OkStatus();
}

absl::Status StagePlanner::AddKept(const Transformer& model, const PackedStream& stream,
                                   int64_t& most) {
  const std::vector<Recomputation> recomputation = RecomputationOf(stage_, model.config());
  ASSIGN_OR_RETURN(ForwardPass pass, PassOver(execution_, stream));
  pass.recomputation = recomputation;
  Activations saved;
  RETURN_IF_ERROR(model.Forward(pass, &saved).status());
  most = std::max(most, arena_.used_bytes());
  return absl::OkStatus();
}

// What TrainingRun::Evaluate runs.
absl::Status StagePlanner::PlanEvaluation(const Transformer& model, const Transformer* teacher) {
  const EvaluationConfig& evaluation = recipe_.evaluation;
  if (evaluation.sequences == 0) return absl::OkStatus();
  const int64_t length =
      evaluation.sequence_length > 0 ? evaluation.sequence_length : stage_.sequence_length;
  const PackedStream held_out = StreamOf(length, length);
  const auto objective = ObjectiveFor(stage_, model, teacher);
  const auto sum_loss = [&] {
    return SumLoss(execution_, *objective, absl::MakeConstSpan(&held_out, 1)).status();
  };
  RETURN_IF_ERROR(Pass(sum_loss));
  if (stage_.objective == ObjectiveKind::kAlign) return absl::OkStatus();
  const Scored scored{.execution = execution_, .model = model};
  const std::unique_ptr<Communicator> alone = SingleRankCommunicator();
  std::vector<int64_t> lengths = evaluation.recall_lengths;
  lengths.push_back(length);
  for (const int64_t scored_length : lengths) {
    const PackedStream stream = StreamOf(scored_length, scored_length);
    const auto score = [&] {
      return ScoreStreams(
                 scored, [&](int64_t) { return stream; }, 1, *alone)
          .status();
    };
    RETURN_IF_ERROR(Pass(score));
  }
  return absl::OkStatus();
}

absl::StatusOr<MemoryPlan::Stage> StagePlanner::Plan(const RunModels& models) {
  ASSIGN_OR_RETURN(const ModelConfig config, StageModelConfig(models.base, stage_));
  const PlannedModel weights(models.base, session_.activation_dtype());
  const PlannedModel gradients(models.base, DType::kFloat32);
  const Transformer model(config, weights.Bind(models.base));
  std::optional<PlannedModel> teacher_weights;
  std::optional<Transformer> teacher;
  if (models.teacher.has_value()) {
    teacher_weights.emplace(*models.teacher, session_.activation_dtype());
    teacher.emplace(*models.teacher, teacher_weights->Bind(*models.teacher));
  }
  const Transformer* const learnt_from = teacher.has_value() ? &*teacher : nullptr;
  MemoryPlan::Stage plan{.name = stage_.name};
  RETURN_IF_ERROR(
      PlanTraining(model, learnt_from,
                   BindTrainable(models.base, gradients.layout, gradients.buffer,
                                 [&](const ParameterSpec& spec) {
                                   return PolicyFor(stage_, recipe_.optimizer, spec).is_trainable;
                                 }),
                   plan));
  plan.training = arena_.peak_bytes();
  arena_.ForgetPeak();
  RETURN_IF_ERROR(PlanEvaluation(model, learnt_from));
  plan.evaluation = arena_.peak_bytes();
  return plan;
}

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30));
}

// What a rank holds for a stage, which may lay the ranks out in its own way.
absl::Status HoldFor(const StageConfig& stage, const RunModels& models, int ranks, DType dtype,
                     MemoryPlan& plan) {
  ASSIGN_OR_RETURN(const MeshShape shape, MeshOf(stage, ranks));
  const TensorShard part{0, shape.tensor};
  RETURN_IF_ERROR(CheckTensorShards(models.base, part.ranks));
  const int replicas = shape.data * shape.context;
  const ParameterLayout layout(models.base, part, replicas);
  const auto bytes = [](int64_t elements, DType of) {
    return elements * static_cast<int64_t>(SizeOf(of));
  };
  const auto hold = [](int64_t& most, int64_t needed) { most = std::max(most, needed); };
  const int64_t shard = layout.total_size() / replicas;
  hold(plan.moments, 2 * bytes(shard, DType::kFloat32));
  hold(plan.gradients, bytes(layout.total_size(), DType::kFloat32));
  // A device that computes in fp32 reads the masters.
  if (dtype == DType::kFloat32) {
    hold(plan.masters, bytes(layout.total_size(), dtype));
  } else {
    hold(plan.masters, bytes(shard, DType::kFloat32));
    hold(plan.weights, bytes(layout.total_size(), dtype));
  }
  if (!models.teacher.has_value()) return absl::OkStatus();
  RETURN_IF_ERROR(CheckTensorShards(*models.teacher, part.ranks));
  hold(plan.teacher, bytes(ParameterLayout(*models.teacher, part).total_size(), dtype));
  return absl::OkStatus();
}

}  // namespace

int64_t MemoryPlan::arena() const {
  int64_t most = 0;
  for (const Stage& stage : stages) most = std::max(most, stage.arena());
  return most;
}

absl::StatusOr<MemoryPlan> PlanMemory(const Recipe& recipe, const RunModels& models,
                                      int64_t first_stage, int ranks, DeviceSession& session) {
  MemoryPlan plan;
  for (auto index = static_cast<size_t>(first_stage); index < recipe.stages.size(); ++index) {
    const StageConfig& stage = recipe.stages[index];
    if (stage.kind != StageKind::kTrain) continue;
    RETURN_IF_ERROR(HoldFor(stage, models, ranks, session.activation_dtype(), plan));
    ASSIGN_OR_RETURN(MemoryPlan::Stage planned, StagePlanner(recipe, stage, session).Plan(models));
    plan.stages.push_back(std::move(planned));
  }
  return plan;
}

absl::Status CheckFits(const MemoryPlan& plan, int64_t bytes, const std::string& device) {
  if (plan.total() <= bytes) return absl::OkStatus();
  const std::string held =
      absl::StrCat("fp32 masters ", Gibibytes(plan.masters), ", moments ", Gibibytes(plan.moments),
                   ", gradients ", Gibibytes(plan.gradients), ", weights ", Gibibytes(plan.weights),
                   plan.teacher > 0 ? absl::StrCat(", teacher ", Gibibytes(plan.teacher)) : "");
  if (plan.held() >= bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the model's state needs ", Gibibytes(plan.held()), " a rank (", held, ") and ", device,
        " has ", Gibibytes(bytes), " for it; take a smaller model or a larger device"));
  }
  const auto stage = std::max_element(
      plan.stages.begin(), plan.stages.end(),
      [](const MemoryPlan::Stage& a, const MemoryPlan::Stage& b) { return a.arena() < b.arena(); });
  const bool by_evaluation = stage->evaluation > stage->training;
  const std::string passes =
      by_evaluation ? absl::StrCat("evaluation ", Gibibytes(stage->evaluation))
                    : absl::StrCat("activations ", Gibibytes(stage->activations), ", scratch ",
                                   Gibibytes(stage->training - stage->activations));
  return absl::ResourceExhaustedError(absl::StrCat(
      "stage ", stage->name, " needs ", Gibibytes(plan.total()), " a rank (", held, ", ", passes,
      ") and ", device, " has ", Gibibytes(bytes), " for it; ",
      by_evaluation ? "lower evaluation.sequence_length or evaluation.recall_lengths"
                    : "lower micro_batch_tokens or sequence_length, or set recomputation: full"));
}

}  // namespace salamander
