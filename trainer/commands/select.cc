#include <cmath>
#include <iostream>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "data/sequences/token_sequences.h"
#include "data/storage/atomic_path.h"
#include "data/storage/file_bytes.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "model/conversion/layer_scores.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/conversion_steps.h"
#include "trainer/config/small_files.h"
#include "trainer/evaluate/recall_report.h"
#include "trainer/report/table.h"
#include "trainer/run/device_model.h"
#include "trainer/run/model_file.h"
#include "trainer/run/stage_data.h"
#include "trainer/run/workspace.h"

namespace salamander {
namespace {

constexpr int64_t kLargestTable = int64_t{64} << 20;

// What a rank reads by itself, before the ranks work together.
struct Inputs {
  std::string checkpoint;
  DeviceModel model;
  std::unique_ptr<HeldOutSequences> held_out;
  std::unique_ptr<RecallEvaluation> recall;
};

absl::StatusOr<Inputs> ReadInputs(const SelectionConfig& config, const Workspace& workspace) {
  ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(config.candidates));
  ASSIGN_OR_RETURN(DeviceModel model, DeviceModel::Taking(std::move(loaded.weights), workspace));
  ASSIGN_OR_RETURN(std::shared_ptr<const TokenFileReader> file, TokenFileReader::Open(config.data));
  ASSIGN_OR_RETURN(auto held_out, HeldOutSequences::Create(file, HeldOutSplit(config.held_out),
                                                           config.sequence_length));
  ASSIGN_OR_RETURN(std::shared_ptr<const RecallTask> task,
                   MakeRecallTask(file->info().vocab_size, config.recall_pairs,
                                  static_cast<uint64_t>(config.seed)));
  ASSIGN_OR_RETURN(auto recall, RecallEvaluation::Create(task, {config.recall_length}, {0.0},
                                                         config.recall_samples));
  return Inputs{loaded.path, std::move(model), std::move(held_out), std::move(recall)};
}

// Scores each layer's candidate swapped in alone.
absl::StatusOr<ScoreTable> MeasureLayers(const SelectionConfig& asked, DeviceSession& session,
                                         Communicator& world) {
  SelectionConfig config = asked;
  ASSIGN_OR_RETURN(config.candidates, ResolveCheckpoint(asked.candidates, world));
  Workspace workspace(session);
  const auto inputs = ReadInputs(config, workspace);
  RETURN_IF_ERROR(AgreeOnStatus(world, inputs.status()));
  RETURN_IF_ERROR(workspace.ReserveArena(world));
  const auto& [checkpoint, model, held_out, recall] = *inputs;
  const StreamAt held_out_at = [&held_out = held_out](int64_t index) {
    return held_out->Sequence(index);
  };
  const StreamAt recall_at = [&recall = recall](int64_t index) { return recall->Sample(index); };

  ScoreTable table;
  const auto layers = static_cast<size_t>(model.config().layer_count());
  for (size_t layer = 0; layer < layers; ++layer) {
    if (!model.config().layers[layer].has_candidate) {
      return absl::FailedPreconditionError(absl::StrCat(
          checkpoint, ": layer ", layer, " has no candidate; run convert --all and align first"));
    }
    const std::unique_ptr<bool[]> swapped(new bool[layers]());
    swapped[layer] = true;
    const Scored scored{.execution = workspace.execution(),
                        .model = model.transformer(),
                        .use_candidate = absl::MakeConstSpan(swapped.get(), layers)};
    const int64_t count = std::min(config.sequences, held_out->size());
    ASSIGN_OR_RETURN(const TokenScores common, ScoreStreams(scored, held_out_at, count, world));
    ASSIGN_OR_RETURN(const TokenScores answers,
                     ScoreStreams(scored, recall_at, recall->size(), world));
    table.push_back({.recall = answers.probability(), .common = common.probability()});
    LogInfo(absl::StrCat("layer ", layer, " swapped: recall ", Short(table.back().recall),
                         ", common ", Short(table.back().common)));
  }
  return table;
}

absl::StatusOr<ScoreTable> TableOf(const SelectionConfig& config, DeviceSession& session,
                                   Communicator& world) {
  if (config.scores.empty()) return MeasureLayers(config, session, world);
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(config.scores, kLargestTable));
  auto table =
      ParseScoreTable(text, {config.recall_columns, config.common_columns}, config.layer_count);
  RETURN_IF_ERROR(Annotate(table.status(), config.scores));
  return table;
}

// What select found: the list, and how every layer did.
struct Selection {
  KeptLayers kept;
  ScoreTable table;            // empty for uniform and explicit
  std::vector<double> scores;  // of the chosen scorer
  std::vector<double> recall_drop;
};

SelectionOptions OptionsOf(const SelectionConfig& config, int64_t layers) {
  return {.keep_count = KeptCount(config, layers),
          .force_first = config.force_first,
          .force_last = config.force_last};
}

absl::StatusOr<int64_t> LayerCountOf(const SelectionConfig& config) {
  if (config.layer_count > 0) return config.layer_count;
  if (config.candidates.empty())
    return absl::InvalidArgumentError(
        "select: say how many layers there are, by layer_count or candidates");
  ASSIGN_OR_RETURN(const LoadedModel model, LoadModel(config.candidates));
  return model.weights.config.layer_count();
}

absl::StatusOr<Selection> Select(const SelectionConfig& config, DeviceSession& session,
                                 Communicator& world) {
  Selection selection;
  selection.kept.candidates = config.candidates;
  if (config.scorer == ScorerKind::kExplicit) {
    selection.kept.scorer = "explicit";
    selection.kept.layers = config.layers;
    if (config.layers.empty())
      return absl::InvalidArgumentError("select: scorer explicit needs layers: [0, 3, ...]");
    return selection;
  }
  if (config.scorer == ScorerKind::kUniform) {
    selection.kept.scorer = "uniform";
    ASSIGN_OR_RETURN(const int64_t layers, LayerCountOf(config));
    ASSIGN_OR_RETURN(selection.kept.layers, UniformLayers(layers, OptionsOf(config, layers)));
    return selection;
  }
  if (config.scores.empty() == (config.candidates.empty() || config.data.empty())) {
    return absl::InvalidArgumentError(
        "select: give scores: a table, or candidates: and data: to measure on, one of the two");
  }
  ASSIGN_OR_RETURN(selection.table, TableOf(config, session, world));
  const auto scorer = config.scorer == ScorerKind::kHaloRatio
                          ? HaloRatioScorer({config.epsilon, config.cap})
                          : RecallDropScorer();
  selection.kept.scorer = scorer->name();
  ASSIGN_OR_RETURN(selection.scores, scorer->Score(selection.table));
  ASSIGN_OR_RETURN(selection.recall_drop, RecallDropScorer()->Score(selection.table));
  const auto layers = static_cast<int64_t>(selection.table.size());
  ASSIGN_OR_RETURN(selection.kept.layers,
                   SelectLayers(selection.scores, OptionsOf(config, layers)));
  return selection;
}

// The score as a bar, so that the shape over the layers is seen at once.
std::string Bar(double score, double highest) {
  constexpr double kWidth = 30.0;
  return highest > 0 && score > 0 ? std::string(static_cast<size_t>(kWidth * score / highest), '#')
                                  : "";
}

void PrintSelection(const Selection& selection) {
  const auto is_kept = [&](size_t layer) {
    const auto& layers = selection.kept.layers;
    return std::find(layers.begin(), layers.end(), static_cast<int64_t>(layer)) != layers.end();
  };
  Table table({"layer", "recall", "common", "score", "recall_drop", "kept", "plot"});
  double highest = 0.0;
  for (const double score : selection.scores) highest = std::max(highest, score);
  for (size_t layer = 0; layer < selection.table.size(); ++layer) {
    table.AddRow({absl::StrCat(layer), Short(selection.table[layer].recall),
                  Short(selection.table[layer].common), Short(selection.scores[layer]),
                  Short(selection.recall_drop[layer]), is_kept(layer) ? "yes" : "",
                  Bar(selection.scores[layer], highest)});
  }
  if (!selection.table.empty()) std::cout << table.Text();
  std::cout << "softmax stays in layers " << absl::StrJoin(selection.kept.layers, ", ") << " ("
            << selection.kept.scorer << ")\n";
}

absl::Status WriteScores(const Selection& selection, const std::string& out) {
  std::string csv = "layer,recall,common\n";
  for (size_t layer = 0; layer < selection.table.size(); ++layer) {
    // Every digit: a table that is replayed selects the same layers.
    absl::StrAppendFormat(&csv, "%d,%.17g,%.17g\n", layer, selection.table[layer].recall,
                          selection.table[layer].common);
  }
  return WriteFileAtomically(absl::StrCat(absl::StripSuffix(out, ".yaml"), "_scores.csv"), csv);
}

// The list comes last: where it is, the table is too.
absl::Status WriteSelection(const Selection& selection, const std::string& out) {
  if (!selection.table.empty()) RETURN_IF_ERROR(WriteScores(selection, out));
  return WriteFileAtomically(out, KeptLayersText(selection.kept));
}

}  // namespace

int64_t KeptCount(const SelectionConfig& config, int64_t layers) {
  if (config.keep_count > 0) return config.keep_count;
  return static_cast<int64_t>(
      std::floor(config.keep_fraction * static_cast<double>(layers) + 1e-9));
}

absl::Status SelectInto(const SelectionConfig& config, const std::string& where,
                        const std::string& out, DeviceSession& session, Communicator& world) {
  // Measuring takes long: a list that cannot be written is told of before.
  RETURN_IF_ERROR(
      AgreeOnStatus(world, world.rank() == 0 ? AtomicFile::Begin(out).status() : absl::OkStatus()));
  const auto selection = Select(config, session, world);
  RETURN_IF_ERROR(AgreeOnStatus(world, Annotate(selection.status(), where)));
  if (world.rank() == 0) PrintSelection(*selection);
  return AgreeOnStatus(world,
                       world.rank() == 0 ? WriteSelection(*selection, out) : absl::OkStatus());
}

absl::Status RunSelect(const SelectCommand& command, Communicator& world) {
  ASSIGN_OR_RETURN(const SelectionConfig config, ReadSelection(command.config));
  ASSIGN_OR_RETURN(const std::unique_ptr<DeviceSession> session, OpenDevice(command.device, world));
  return SelectInto(config, command.config, command.out, *session, world);
}

}  // namespace salamander
