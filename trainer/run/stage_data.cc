#include "trainer/run/stage_data.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// The held-out documents depend on the data alone, never on a run's seed: every run and every
// evaluation sets the same ones aside.
constexpr uint64_t kSplitSeed = 0;

// Ids below this are control tokens and single bytes of the tokenizers made here.
constexpr int32_t kFirstPlainId = 264;

// Distinct keys, and as many values: few enough that a small share of the training tokens shows
// each often.
constexpr int32_t kRecallIds = 32;

bool IsSameFile(const std::string& a, const std::string& b) {
  std::error_code ignored;
  return a == b || std::filesystem::equivalent(a, b, ignored);
}

SourcePosition PositionOf(const std::map<std::string, SourcePosition>& positions,
                          const std::string& name) {
  const auto found = positions.find(name);
  return found == positions.end() ? SourcePosition{} : found->second;
}

}  // namespace

SplitOptions HeldOutSplit(double fraction) {
  return {.held_out_fraction = fraction, .split_seed = kSplitSeed};
}

absl::StatusOr<std::unique_ptr<RecallTask>> MakeRecallTask(int64_t vocabulary, int64_t pairs,
                                                           uint64_t seed) {
  const int32_t first = vocabulary >= 2 * kFirstPlainId ? kFirstPlainId : 4;
  const auto third = static_cast<int32_t>((vocabulary - first) / 3);
  const int32_t ids = std::min(third, kRecallIds);
  return MakeAssociativeRecall({.pairs = pairs,
                                .queries = pairs,
                                .keys = {first, first + ids},
                                .values = {first + third, first + third + ids},
                                .fillers = {first + 2 * third, first + 3 * third},
                                .seed = seed},
                               vocabulary);
}

absl::StatusOr<RunData> RunData::Open(const Recipe& recipe) {
  RunData data;
  data.recipe_ = recipe;
  data.held_out_source_ = recipe.evaluation.source;
  for (const auto& [name, source] : recipe.data) {
    RETURN_IF_ERROR(Annotate(data.OpenSource(name, source), absl::StrCat("data.", name)));
    if (data.held_out_source_.empty() && source.kind == SourceKind::kTokens && source.held_out > 0)
      data.held_out_source_ = name;
  }
  return data;
}

absl::Status RunData::OpenSource(const std::string& name, const SourceConfig& source) {
  ASSIGN_OR_RETURN(std::shared_ptr<const TokenFileReader> file, TokenFileReader::Open(source.path));
  if (files_.empty()) {
    vocabulary_ = file->info().vocab_size;
    tokenizer_ = file->serialized_tokenizer();
  } else if (file->serialized_tokenizer() != tokenizer_) {
    return absl::InvalidArgumentError(
        absl::StrCat(source.path, ": made with tokenizer ", file->info().tokenizer_fingerprint,
                     ", the run's other sources with another; tokenise all with one"));
  }
  files_[name] = std::move(file);
  return absl::OkStatus();
}

SplitOptions RunData::TrainingSplit(const std::string& path) const {
  double fraction = 0.0;
  for (const auto& [name, source] : recipe_.data) {
    if (IsSameFile(source.path, path)) fraction = std::max(fraction, source.held_out);
  }
  return HeldOutSplit(fraction);
}

absl::StatusOr<std::unique_ptr<SequenceStream>> RunData::MakeStream(
    const std::string& name, const StageConfig& stage, const Lane& lane,
    const SourcePosition& start) const {
  const SourceConfig& source = recipe_.data.at(name);
  const auto& file = files_.at(name);
  const auto seed = static_cast<uint64_t>(recipe_.seed);
  if (source.kind == SourceKind::kTokens) {
    ASSIGN_OR_RETURN(
        std::unique_ptr<SequenceStream> stream,
        TokenSequences::Create(file, {.sequence_length = stage.sequence_length,
                                      .keep_documents_whole = stage.keep_documents_whole,
                                      .split = TrainingSplit(source.path),
                                      .seed = seed,
                                      .start = start,
                                      .lane = lane}));
    return stream;
  }
  std::shared_ptr<const RecallTask> task;
  if (source.kind == SourceKind::kAssociativeRecall) {
    ASSIGN_OR_RETURN(task, MakeRecallTask(vocabulary_, source.pairs, seed));
  } else {
    ASSIGN_OR_RETURN(const auto tokenizer, DeserializeTokenizer(tokenizer_));
    const auto words = [&](const char* text) { return tokenizer->Encode(text); };
    ASSIGN_OR_RETURN(const std::vector<int32_t> before, words("\n#define KEY_"));
    ASSIGN_OR_RETURN(const std::vector<int32_t> between, words(" VALUE_"));
    ASSIGN_OR_RETURN(const std::vector<int32_t> after, words("\n"));
    const int32_t first = vocabulary_ >= 2 * kFirstPlainId ? kFirstPlainId : 4;
    ASSIGN_OR_RETURN(task,
                     MakeNeedleRecall(file, {.before_key = before,
                                             .between = between,
                                             .after = after,
                                             .ids = {first, static_cast<int32_t>(vocabulary_)},
                                             .split = TrainingSplit(source.path),
                                             .part = DataSplit::kTraining,
                                             .seed = seed}));
  }
  return MakeRecallSequences(
      task, {.sequence_length = stage.sequence_length,
             .sample_length = std::min(source.sample_length, stage.sequence_length),
             .seed = seed,
             .padding_token = 0,
             .start = start});
}

std::vector<RunData::Component> RunData::ComponentsOf(const StageConfig& stage) const {
  std::vector<Component> components;
  for (const auto& [name, weight] : stage.mixture) {
    const SourceConfig& source = recipe_.data.at(name);
    const int64_t lanes = source.kind == SourceKind::kTokens ? source.lanes : 1;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      components.push_back({.source = name,
                            .position_name = lanes == 1 ? name : absl::StrCat(name, "#", lane),
                            .lane = {.index = lane, .count = lanes},
                            .weight = weight / static_cast<double>(lanes)});
    }
  }
  return components;
}

absl::StatusOr<std::unique_ptr<SequenceMixture>> RunData::StageSequences(
    const StageConfig& stage, const std::map<std::string, SourcePosition>& start) const {
  std::vector<MixtureComponent> components;
  for (const Component& component : ComponentsOf(stage)) {
    auto stream = MakeStream(component.source, stage, component.lane,
                             PositionOf(start, component.position_name));
    RETURN_IF_ERROR(Annotate(stream.status(), absl::StrCat("data.", component.source)));
    components.push_back({.name = component.position_name,
                          .weight = component.weight,
                          .stream = *std::move(stream)});
  }
  return SequenceMixture::Create(std::move(components));
}

std::map<std::string, SourcePosition> RunData::PositionsAfter(
    const StageConfig& stage, const SequenceMixture& sequences, int64_t n,
    const std::map<std::string, SourcePosition>& start) const {
  std::map<std::string, SourcePosition> positions = start;
  const std::vector<SourcePosition> after = sequences.PositionsAt(n);
  size_t index = 0;
  for (const Component& component : ComponentsOf(stage))
    positions[component.position_name] = after[index++];
  return positions;
}

absl::StatusOr<std::unique_ptr<HeldOutSequences>> RunData::HeldOut(int64_t sequence_length) const {
  if (held_out_source_.empty()) {
    return absl::InvalidArgumentError(
        "evaluation needs held-out documents; give a source of kind tokens held_out: 0.02, say");
  }
  return HeldOutSequences::Create(files_.at(held_out_source_),
                                  HeldOutSplit(recipe_.data.at(held_out_source_).held_out),
                                  sequence_length);
}

absl::StatusOr<std::unique_ptr<RecallEvaluation>> RunData::Recall() const {
  const EvaluationConfig& evaluation = recipe_.evaluation;
  if (evaluation.recall_lengths.empty()) return std::unique_ptr<RecallEvaluation>();
  int64_t pairs = SourceConfig().pairs;
  for (const auto& [name, source] : recipe_.data) {
    if (source.kind == SourceKind::kAssociativeRecall) pairs = source.pairs;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const RecallTask> task,
                   MakeRecallTask(vocabulary_, pairs, static_cast<uint64_t>(recipe_.seed)));
  return RecallEvaluation::Create(std::move(task), evaluation.recall_lengths, {0.0},
                                  evaluation.recall_samples);
}

}  // namespace salamander
