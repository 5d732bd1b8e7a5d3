#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/sequences/token_sequences.h"
#include "data/storage/atomic_path.h"
#include "kernels/base/status_macros.h"
#include "trainer/commands/commands.h"
#include "trainer/evaluate/recall_report.h"
#include "trainer/report/metrics_log.h"
#include "trainer/report/table.h"
#include "trainer/run/model_file.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/step_arena.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

absl::StatusOr<double> KlToTeacher(const EvaluateCommand& command, const Scored& scored,
                                   const HeldOutSequences& held_out, int64_t count) {
  ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(command.teacher));
  const Transformer teacher = TransformerOf(loaded.weights);
  const auto objective = DistillationObjective(scored.model, teacher);
  double sum = 0.0, rows = 0.0;
  for (int64_t index = 0; index < count; ++index) {
    ASSIGN_OR_RETURN(const PackedStream stream, held_out.Sequence(index));
    ASSIGN_OR_RETURN(const double loss,
                     objective->Accumulate({.execution = scored.execution, .stream = stream}));
    sum += loss;
    for (const float weight : objective->RowWeights(stream)) rows += static_cast<double>(weight);
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
  ASSIGN_OR_RETURN(const std::vector<RecallRow> rows, MeasureRecall(scored, *recall, world));
  for (const RecallRow& row : rows) {
    metrics.emplace_back(absl::StrCat("recall_accuracy_", row.cell.length), row.scores.accuracy());
    metrics.emplace_back(absl::StrCat("recall_probability_", row.cell.length),
                         row.scores.probability());
  }
  return absl::OkStatus();
}

absl::StatusOr<Metrics> Evaluate(const EvaluateCommand& command, Communicator& world) {
  ASSIGN_OR_RETURN(const LoadedModel loaded, LoadModel(command.from));
  const Transformer model = TransformerOf(loaded.weights);
  ASSIGN_OR_RETURN(std::shared_ptr<const TokenFileReader> file,
                   TokenFileReader::Open(command.data));
  const int64_t vocabulary = file->info().vocab_size;
  ASSIGN_OR_RETURN(
      const auto held_out,
      HeldOutSequences::Create(std::move(file), HeldOutSplit(command.held_out_fraction),
                               command.sequence_length));
  ASSIGN_OR_RETURN(Arena arena, ReserveStepArena());
  const ExecutionContext execution{.device = {}, .stream = nullptr, .arena = &arena};
  const Scored scored{.execution = execution, .model = model};

  const int64_t count = std::min(command.sequences, held_out->size());
  ASSIGN_OR_RETURN(
      const TokenScores scores,
      ScoreStreams(
          scored, [&](int64_t index) { return held_out->Sequence(index); }, count, world));
  Metrics metrics = {{"checkpoint", loaded.path},
                     {"sequences", count},
                     {"sequence_length", command.sequence_length},
                     {"loss", scores.loss()},
                     {"accuracy", scores.accuracy()}};
  if (!command.teacher.empty()) {
    ASSIGN_OR_RETURN(const double kl, KlToTeacher(command, scored, *held_out, count));
    metrics.emplace_back("kl_to_teacher", kl);
  }
  RETURN_IF_ERROR(AddRecall(command, scored, vocabulary, world, metrics));
  return metrics;
}

}  // namespace

absl::Status RunEvaluate(const EvaluateCommand& command, Communicator& world) {
  const bool writes = world.rank() == 0 && !command.json.empty();
  // Evaluation takes long: a file that cannot be written is told of before.
  RETURN_IF_ERROR(
      AgreeOnStatus(world, writes ? AtomicFile::Begin(command.json).status() : absl::OkStatus()));
  const auto metrics = Evaluate(command, world);
  RETURN_IF_ERROR(AgreeOnStatus(world, metrics.status()));
  if (world.rank() == 0) std::cout << JsonText(*metrics);
  return AgreeOnStatus(
      world, writes ? WriteFileAtomically(command.json, JsonText(*metrics)) : absl::OkStatus());
}

}  // namespace salamander
