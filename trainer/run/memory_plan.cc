#include "trainer/run/memory_plan.h"

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "model/parallel/parallel_context.h"
#include "model/parameters.h"
#include "model/shard_layout.h"
#include "model/shared_gradients.h"
#include "model/transformer.h"
#include "trainer/evaluate/token_scores.h"
#include "trainer/run/stage_model.h"
#include "trainer/step/objective.h"
#include "trainer/step/replica_exchange.h"
#include "trainer/step/train_step.h"

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
  PlannedModel(ParameterLayout of, DType dtype, DeviceSession& session)
      : layout(std::move(of)),
        buffer(ParameterBuffer::Planned(layout, dtype, session.PlannedMemory())) {}
  ModelTensors Bind(const ModelConfig& base) const { return BindTensors(base, layout, buffer); }

  ParameterLayout layout;
  ParameterBuffer buffer;
};

// Of the ranks that make a model together, those that may need the most. All hold as much of the
// weights and as many rows. Slices of a stream differ in what their attention has to do: the first
// one's keys are its own, the last one's are the longest, and between them the queries of a sparse
// layer that stay dense come to an end; so every slice is planned. Tensor ranks differ only in the
// rows whose blocks they select, and the last one's have the longest keys.
std::vector<MeshCoordinate> PlacesToPlan(const MeshShape& shape) {
  std::vector<MeshCoordinate> places;
  for (int slice = 0; slice < shape.context; ++slice)
    places.push_back({.context = slice, .tensor = shape.tensor - 1});
  return places;
}

PackedStream StreamOf(int64_t tokens, int64_t document) {
  PackedStream stream;
  const std::vector<int32_t> piece(static_cast<size_t>(document), 0);
  for (int64_t begin = 0; begin < tokens; begin += document) {
    const auto count = static_cast<size_t>(std::min(document, tokens - begin));
    AppendPiece(absl::MakeConstSpan(piece).first(count), 0, {}, &stream);
  }
  return stream;
}

// The passes of one rank in one stage, each through the code that will run it.
class StagePlanner {
 public:
  StagePlanner(const Recipe& recipe, const StageConfig& stage, const ParallelContext& parallel,
               DeviceSession& session)
      : recipe_(recipe),
        stage_(stage),
        parallel_(parallel),
        session_(session),
        arena_(session.PlannedMemory()),
        execution_(session.Context(arena_)) {}

  // What the rank takes of the arena, where it is more than `most` has.
  absl::Status Plan(const RunModels& models, MemoryPlan::Stage& most);

 private:
  TensorShard shard() const { return {parallel_.coordinate().tensor, parallel_.shape().tensor}; }

  // The arena's peak is the most that any pass took.
  absl::Status Pass(const std::function<absl::Status()>& enqueue) {
    const ArenaScope scope(arena_);
    return session_.Plan(enqueue);
  }
  absl::StatusOr<PackedStream> ShareOf(int64_t tokens, int64_t document) const {
    return ShareOfContext(StreamOf(tokens, document), parallel_);
  }
  absl::Status PlanTraining(const Transformer& model, const Transformer* teacher,
                            const ModelTensors& gradients, int64_t& activations);
  // What the model's forward keeps, where it is more than `most`.
  absl::Status AddKept(const Transformer& model, const PackedStream& stream, int64_t& most);
  absl::Status PlanExchange(const PlannedModel& gradients);
  absl::Status PlanEvaluation(const Transformer& model, const Transformer* teacher);

  const Recipe& recipe_;
  const StageConfig& stage_;
  const ParallelContext& parallel_;
  DeviceSession& session_;
  Arena arena_;
  ExecutionContext execution_;
};

absl::Status StagePlanner::PlanTraining(const Transformer& model, const Transformer* teacher,
                                        const ModelTensors& gradients, int64_t& activations) {
  const auto objective = ObjectiveFor(stage_, model, teacher, &parallel_);
  const int64_t tokens = std::max(stage_.micro_batch_tokens, stage_.sequence_length);
  for (const int64_t document : DocumentLengths(stage_.sequence_length)) {
    ASSIGN_OR_RETURN(const PackedStream stream, ShareOf(tokens, document));
    const auto accumulate = [&] {
      const TensorView loss_sum = arena_.Tensor(DType::kFloat64, {1});
      return objective->Accumulate({.execution = execution_,
                                    .stream = stream,
                                    .gradients = &gradients,
                                    .loss_sum = loss_sum});
    };
    RETURN_IF_ERROR(Pass(accumulate));
    if (stage_.objective == ObjectiveKind::kAlign) continue;  // keeps nothing between layers
    const auto forward = [&] { return AddKept(model, stream, activations); };
    RETURN_IF_ERROR(Pass(forward));
  }
  return absl::OkStatus();
}

absl::Status StagePlanner::AddKept(const Transformer& model, const PackedStream& stream,
                                   int64_t& most) {
  const std::vector<Recomputation> recomputation = RecomputationOf(stage_, model.config());
  ASSIGN_OR_RETURN(ForwardPass pass, PassOver(execution_, stream, &parallel_));
  pass.recomputation = recomputation;
  Activations saved;
  RETURN_IF_ERROR(model.Forward(pass, &saved).status());
  most = std::max(most, arena_.used_bytes());
  return absl::OkStatus();
}

// What ranks tell each other behind the passes of a step, where it takes memory.
absl::Status StagePlanner::PlanExchange(const PlannedModel& gradients) {
  Communicator& replicas = parallel_.replicas();
  const ShardLayout shard(gradients.layout, replicas.rank(), replicas.size());
  const auto sum_shared = [&] {
    return SumSharedGradients(execution_, gradients.layout, shard, gradients.buffer, parallel_);
  };
  RETURN_IF_ERROR(Pass(sum_shared));
  return Pass(
      [&] { return SumShard(execution_, shard.buckets(), replicas, gradients.buffer.Flat()); });
}

// What TrainingRun::Evaluate runs.
absl::Status StagePlanner::PlanEvaluation(const Transformer& model, const Transformer* teacher) {
  const EvaluationConfig& evaluation = recipe_.evaluation;
  if (evaluation.sequences == 0) return absl::OkStatus();
  const int64_t length =
      evaluation.sequence_length > 0 ? evaluation.sequence_length : stage_.sequence_length;
  ASSIGN_OR_RETURN(const PackedStream held_out, ShareOf(length, length));
  const auto objective = ObjectiveFor(stage_, model, teacher, &parallel_);
  const auto sum_loss = [&] {
    return SumLoss(execution_, *objective, absl::MakeConstSpan(&held_out, 1)).status();
  };
  RETURN_IF_ERROR(Pass(sum_loss));
  if (stage_.objective == ObjectiveKind::kAlign) return absl::OkStatus();
  const Scored scored{.execution = execution_, .model = model, .parallel = &parallel_};
  std::vector<int64_t> lengths = evaluation.recall_lengths;
  lengths.push_back(length);
  for (const int64_t scored_length : lengths) {
    const auto stream_at = [&](int64_t) { return ShareOf(scored_length, scored_length); };
    const auto score = [&] {
      return ScoreStreams(scored, stream_at, 1, ScoringRanks(parallel_)).status();
    };
    RETURN_IF_ERROR(Pass(score));
  }
  return absl::OkStatus();
}

absl::Status StagePlanner::Plan(const RunModels& models, MemoryPlan::Stage& most) {
  ASSIGN_OR_RETURN(const ModelConfig config, StageModelConfig(models.base, stage_));
  const ParameterLayout layout(models.base, shard(), parallel_.replicas().size());
  const PlannedModel weights(layout, session_.activation_dtype(), session_);
  const PlannedModel gradients(layout, DType::kFloat32, session_);
  const Transformer model(config, weights.Bind(models.base));
  std::optional<PlannedModel> teacher_weights;
  std::optional<Transformer> teacher;
  if (models.teacher.has_value()) {
    teacher_weights.emplace(ParameterLayout(*models.teacher, shard()), session_.activation_dtype(),
                            session_);
    teacher.emplace(*models.teacher, teacher_weights->Bind(*models.teacher));
  }
  const Transformer* const learnt_from = teacher.has_value() ? &*teacher : nullptr;
  RETURN_IF_ERROR(
      PlanTraining(model, learnt_from,
                   BindTrainable(models.base, gradients.layout, gradients.buffer,
                                 [&](const ParameterSpec& spec) {
                                   return PolicyFor(stage_, recipe_.optimizer, spec).is_trainable;
                                 }),
                   most.activations));
  RETURN_IF_ERROR(PlanExchange(gradients));
  most.training = std::max(most.training, arena_.peak_bytes());
  arena_.ForgetPeak();
  RETURN_IF_ERROR(PlanEvaluation(model, learnt_from));
  most.evaluation = std::max(most.evaluation, arena_.peak_bytes());
  return absl::OkStatus();
}

// What RunState and TrainingRun::TakeBuffers take for a stage.
MemoryPlan::Stage HeldIn(const StageConfig& stage, const RunModels& models, const MeshShape& shape,
                         DType dtype) {
  const TensorShard part{0, shape.tensor};
  const int replicas = shape.data * shape.context;
  const auto bytes = [](int64_t elements, DType of) {
    return elements * static_cast<int64_t>(SizeOf(of));
  };
  const int64_t whole = ParameterLayout(models.base, part, replicas).total_size();
  const int64_t shard = whole / replicas;
  MemoryPlan::Stage held{.name = stage.name,
                         .moments = 2 * bytes(shard, DType::kFloat32),
                         .gradients = bytes(whole, DType::kFloat32)};
  // A device that computes in fp32 reads the masters.
  if (dtype == DType::kFloat32) {
    held.masters = bytes(whole, dtype);
  } else {
    held.masters = bytes(shard, DType::kFloat32);
    held.weights = bytes(whole, dtype);
  }
  if (models.teacher.has_value())
    held.teacher = bytes(ParameterLayout(*models.teacher, part).total_size(), dtype);
  return held;
}

absl::StatusOr<MemoryPlan::Stage> PlanStage(const Recipe& recipe, const StageConfig& stage,
                                            const RunModels& models, int ranks,
                                            DeviceSession& session) {
  ASSIGN_OR_RETURN(const MeshShape shape, MeshOf(stage, ranks));
  RETURN_IF_ERROR(CheckTensorShards(models.base, shape.tensor));
  if (models.teacher.has_value()) RETURN_IF_ERROR(CheckTensorShards(*models.teacher, shape.tensor));
  MemoryPlan::Stage planned = HeldIn(stage, models, shape, session.activation_dtype());
  for (const MeshCoordinate& at : PlacesToPlan(shape)) {
    const ParallelContext parallel =
        ParallelContext::Planned(shape, at, HolderCountsOf(models, shape.tensor));
    RETURN_IF_ERROR(StagePlanner(recipe, stage, parallel, session).Plan(models, planned));
  }
  return planned;
}

std::string Gibibytes(int64_t bytes) {
  return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30));
}

const MemoryPlan::Stage* LargestOf(const MemoryPlan& plan) {
  const auto largest = std::max_element(
      plan.stages.begin(), plan.stages.end(),
      [](const MemoryPlan::Stage& a, const MemoryPlan::Stage& b) { return a.total() < b.total(); });
  return largest == plan.stages.end() ? nullptr : &*largest;
}

}  // namespace

const MemoryPlan::Stage& MemoryPlan::Of(const std::string& stage) const {
  const auto planned = std::find_if(stages.begin(), stages.end(), [&](const Stage& candidate) {
    return candidate.name == stage;
  });
  SALAMANDER_CHECK(planned != stages.end()) << stage << " was not planned";
  return *planned;
}

int64_t MemoryPlan::total() const {
  const Stage* const largest = LargestOf(*this);
  return largest == nullptr ? 0 : largest->total();
}

absl::StatusOr<MemoryPlan> PlanMemory(const Recipe& recipe, const RunModels& models,
                                      int64_t first_stage, int ranks, DeviceSession& session) {
  MemoryPlan plan;
  for (auto index = static_cast<size_t>(first_stage); index < recipe.stages.size(); ++index) {
    const StageConfig& stage = recipe.stages[index];
    if (stage.kind != StageKind::kTrain) continue;
    ASSIGN_OR_RETURN(MemoryPlan::Stage planned, PlanStage(recipe, stage, models, ranks, session));
    plan.stages.push_back(std::move(planned));
  }
  return plan;
}

absl::Status CheckFits(const MemoryPlan& plan, int64_t bytes, const std::string& device) {
  const MemoryPlan::Stage* const stage = LargestOf(plan);
  if (stage == nullptr || stage->total() <= bytes) return absl::OkStatus();
  const std::string held = absl::StrCat(
      "fp32 masters ", Gibibytes(stage->masters), ", moments ", Gibibytes(stage->moments),
      ", gradients ", Gibibytes(stage->gradients), ", weights ", Gibibytes(stage->weights),
      stage->teacher > 0 ? absl::StrCat(", teacher ", Gibibytes(stage->teacher)) : "");
  if (stage->held() >= bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("stage ", stage->name, ": the model's state needs ", Gibibytes(stage->held()),
                     " a rank (", held, ") and ", device, " has ", Gibibytes(bytes),
                     " for it; take a smaller model or a larger device, or raise tensor_parallel"));
  }
  const bool by_evaluation = stage->evaluation > stage->training;
  const std::string passes =
      by_evaluation ? absl::StrCat("evaluation ", Gibibytes(stage->evaluation))
                    : absl::StrCat("activations ", Gibibytes(stage->activations), ", scratch ",
                                   Gibibytes(stage->training - stage->activations));
  return absl::ResourceExhaustedError(absl::StrCat(
      "stage ", stage->name, " needs ", Gibibytes(stage->total()), " a rank (", held, ", ", passes,
      ") and ", device, " has ", Gibibytes(bytes), " for it; ",
      by_evaluation ? "lower evaluation.sequence_length or evaluation.recall_lengths"
                    : "lower micro_batch_tokens or sequence_length, set recomputation: full, or "
                      "raise context_parallel or tensor_parallel"));
}

}  // namespace salamander
