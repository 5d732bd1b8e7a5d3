#include <iostream>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/sequences/token_sequences.h"
#include "data/storage/atomic_path.h"
#include "kernels/base/status_macros.h"
#include "trainer/commands/commands.h"
#include "trainer/evaluate/recall_report.h"
#include "trainer/report/metrics_log.h"
#include "trainer/report/table.h"
#include "trainer/run/device_model.h"
#include "trainer/run/model_file.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/workspace.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

absl::StatusOr<double> KlToTeacher(const Transformer& teacher, const Scored& scored,
                                   const HeldOutSequences& held_out, int64_t count) {
  const auto objective = DistillationObjective(scored.model, teacher);
  double sum = 0.0, rows = 0.0;
  for (int64_t index = 0; index < count; ++index) {
    ASSIGN_OR_RETURN(const PackedStream stream, held_out.Sequence(index));
    ASSIGN_OR_RETURN(const LossSums sums,
                     SumLoss(scored.execution, *objective, absl::MakeConstSpan(&stream, 1)));
    sum += sums.loss;
    rows += sums.row_weights;
  }
  return sum / rows;
}

absl::Status AddRecall(const EvaluateCommand& command, const Scored& scored, int64_t vocabulary,
                       Communicator& world, Metrics& metrics) {
  if (command.recall_lengths.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(std::shared_ptr<const RecallTask> task,
                   MakeRecallTask(vocabulary, command.recall_pairs, 0));
  ASSIGN_OR_RETURN(const auto recall,
                   RecallEvaluation::Create(std::move(task), command.recall_lengths, {0.0},
                                            command.recall_samples));
  ASSIGN_OR_RETURN(const std::vector<RecallRow> rows,
                   MeasureRecall(scored, *recall, ScoringRanks(world)));
  for (const RecallRow& row : rows) {
    metrics.emplace_back(absl::StrCat("recall_accuracy_", row.cell.length), row.scores.accuracy());
    metrics.emplace_back(absl::StrCat("recall_probability_", row.cell.length),
                         row.scores.probability());
  }
  return absl::OkStatus();
}

absl::StatusOr<DeviceModel> LoadOnto(const Workspace& workspace, const std::string& path) {
  ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(path));
  return DeviceModel::Taking(std::move(loaded.weights), workspace);
}

// What a rank reads by itself, before the ranks work together.
struct Inputs {
  DeviceModel model;
  std::optional<DeviceModel> teacher;
  int64_t vocabulary;
  std::unique_ptr<HeldOutSequences> held_out;
};

absl::StatusOr<Inputs> ReadInputs(const EvaluateCommand& command, const Workspace& workspace) {
  ASSIGN_OR_RETURN(DeviceModel model, LoadOnto(workspace, command.from));
  std::optional<DeviceModel> teacher;
  if (!command.teacher.empty()) {
    ASSIGN_OR_RETURN(teacher, LoadOnto(workspace, command.teacher));
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const TokenFileReader> file,
                   TokenFileReader::Open(command.data));
  const int64_t vocabulary = file->info().vocab_size;
  ASSIGN_OR_RETURN(auto held_out, HeldOutSequences::Create(std::move(file),
                                                           HeldOutSplit(command.held_out_fraction),
                                                           command.sequence_length));
  return Inputs{std::move(model), std::move(teacher), vocabulary, std::move(held_out)};
}

absl::StatusOr<EvaluateCommand> WithCheckpoints(EvaluateCommand command, Communicator& world) {
  ASSIGN_OR_RETURN(command.from, ResolveCheckpoint(command.from, world));
  if (!command.teacher.empty()) {
    ASSIGN_OR_RETURN(command.teacher, ResolveCheckpoint(command.teacher, world));
  }
  return command;
}

absl::StatusOr<Metrics> Evaluate(const EvaluateCommand& asked, DeviceSession& session,
                                 Communicator& world) {
  ASSIGN_OR_RETURN(const EvaluateCommand command, WithCheckpoints(asked, world));
  Workspace workspace(session);
  const auto inputs = ReadInputs(command, workspace);
  RETURN_IF_ERROR(AgreeOnStatus(world, inputs.status()));
  RETURN_IF_ERROR(workspace.ReserveArena(world));
  const HeldOutSequences& held_out = *inputs->held_out;
  const Scored scored{.execution = workspace.execution(), .model = inputs->model.transformer()};

  const int64_t count = std::min(command.sequences, held_out.size());
  ASSIGN_OR_RETURN(
      const TokenScores scores,
      ScoreStreams(
          scored, [&](int64_t index) { return held_out.Sequence(index); }, count, world));
  Metrics metrics = {{"checkpoint", command.from},
                     {"sequences", count},
                     {"sequence_length", command.sequence_length},
                     {"loss", scores.loss()},
                     {"accuracy", scores.accuracy()}};
  if (inputs->teacher.has_value()) {
    const auto kl = KlToTeacher(inputs->teacher->transformer(), scored, held_out, count);
    RETURN_IF_ERROR(AgreeOnStatus(world, kl.status()));
    metrics.emplace_back("kl_to_teacher", *kl);
  }
  RETURN_IF_ERROR(AddRecall(command, scored, inputs->vocabulary, world, metrics));
  return metrics;
}

}  // namespace

absl::Status RunEvaluate(const EvaluateCommand& command, Communicator& world) {
  const bool writes = world.rank() == 0 && !command.json.empty();
  // Evaluation takes long: a file that cannot be written is told of before.
  RETURN_IF_ERROR(
      AgreeOnStatus(world, writes ? AtomicFile::Begin(command.json).status() : absl::OkStatus()));
  ASSIGN_OR_RETURN(const std::unique_ptr<DeviceSession> session, OpenDevice(command.device, world));
  const auto metrics = Evaluate(command, *session, world);
  RETURN_IF_ERROR(AgreeOnStatus(world, metrics.status()));
  if (world.rank() == 0) std::cout << JsonText(*metrics);
  return AgreeOnStatus(
      world, writes ? WriteFileAtomically(command.json, JsonText(*metrics)) : absl::OkStatus());
}

}  // namespace salamander
