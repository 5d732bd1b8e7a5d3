#include "data/recall/recall.h"

#include <utility>

#include "absl/strings/str_cat.h"

#include "data/random.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr uint64_t kDepthKey = 0x64657074;

class RecallSequences : public SequenceStream {
 public:
  RecallSequences(std::shared_ptr<const RecallTask> task, const RecallSequencesOptions& options)
      : task_(std::move(task)),
        options_(options),
        samples_(options.sequence_length / options.sample_length) {}

  int64_t sequence_length() const override { return options_.sequence_length; }

  absl::StatusOr<PackedStream> Sequence(int64_t n) const override {
    SALAMANDER_CHECK(n >= 0) << n;
    PackedStream stream;
    const int64_t first = PositionAt(n).next_document;
    for (int64_t index = first; index < first + samples_; ++index) {
      CounterRandom random(DeriveKey({options_.seed, kDepthKey, static_cast<uint64_t>(index)}));
      const RecallRequest request = {.use = RecallUse::kTraining,
                                     .index = index,
                                     .length = options_.sample_length,
                                     .depth = random.Uniform()};
      ASSIGN_OR_RETURN(const PackedStream sample, task_->Sample(request));
      AppendStream(sample, &stream);
    }
    AppendPadding(options_.sequence_length - stream.size(), options_.padding_token, &stream);
    return stream;
  }

  SourcePosition PositionAt(int64_t n) const override {
    return {.pending = {}, .next_document = options_.start.next_document + n * samples_};
  }

 private:
  std::shared_ptr<const RecallTask> task_;
  const RecallSequencesOptions options_;
  const int64_t samples_;  // in a sequence
};

}  // namespace

absl::StatusOr<std::unique_ptr<SequenceStream>> MakeRecallSequences(
    std::shared_ptr<const RecallTask> task, const RecallSequencesOptions& options) {
  RecallSequencesOptions resolved = options;
  if (resolved.sample_length == 0) resolved.sample_length = resolved.sequence_length;
  if (resolved.sample_length < task->min_length() ||
      resolved.sample_length > resolved.sequence_length) {
    return absl::InvalidArgumentError(
        absl::StrCat("recall samples of ", resolved.sample_length, " tokens in sequences of ",
                     resolved.sequence_length, "; this task's samples have at least ",
                     task->min_length(), " and must fit into a sequence"));
  }
  if (!options.start.pending.empty() || options.start.next_document < 0) {
    return absl::InvalidArgumentError(
        "a recall source's position is a number of samples; the one given belongs to a token "
        "file: the order of the mixture's sources has changed");
  }
  return std::make_unique<RecallSequences>(std::move(task), resolved);
}

absl::StatusOr<std::unique_ptr<RecallEvaluation>> RecallEvaluation::Create(
    std::shared_ptr<const RecallTask> task, std::vector<int64_t> lengths,
    std::vector<double> depths, int64_t samples_per_cell) {
  if (lengths.empty() || depths.empty() || samples_per_cell < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "recall evaluation over ", lengths.size(), " lengths and ", depths.size(), " depths with ",
        samples_per_cell, " samples each; expected at least one of each"));
  }
  for (const int64_t length : lengths) {
    if (length < task->min_length()) {
      return absl::InvalidArgumentError(absl::StrCat("recall evaluation at length ", length,
                                                     "; this task's samples have at ", "least ",
                                                     task->min_length(), " tokens"));
    }
  }
  for (const double depth : depths) {
    if (!(depth >= 0 && depth <= 1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("recall evaluation at depth ", depth, "; expected 0 to 1"));
    }
  }
  auto evaluation = std::unique_ptr<RecallEvaluation>(new RecallEvaluation());
  evaluation->task_ = std::move(task);
  evaluation->lengths_ = std::move(lengths);
  evaluation->depths_ = std::move(depths);
  evaluation->samples_per_cell_ = samples_per_cell;
  return evaluation;
}

int64_t RecallEvaluation::size() const {
  return static_cast<int64_t>(lengths_.size() * depths_.size()) * samples_per_cell_;
}

RecallCell RecallEvaluation::Cell(int64_t i) const {
  const int64_t cell = i / samples_per_cell_;
  const int64_t depths = static_cast<int64_t>(depths_.size());
  return {.length = lengths_[cell / depths], .depth = depths_[cell % depths]};
}

absl::StatusOr<PackedStream> RecallEvaluation::Sample(int64_t i) const {
  SALAMANDER_CHECK(i >= 0 && i < size()) << i;
  const RecallCell cell = Cell(i);
  return task_->Sample(
      {.use = RecallUse::kEvaluation, .index = i, .length = cell.length, .depth = cell.depth});
}

std::vector<int64_t> AnswerPositions(const PackedStream& sample) {
  std::vector<int64_t> positions;
  for (int64_t t = 0; t < sample.size(); ++t) {
    if (sample.loss_weights[t] > 0) positions.push_back(t);
  }
  return positions;
}

}  // namespace salamander
