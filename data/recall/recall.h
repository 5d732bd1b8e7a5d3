// Synthetic recall: samples whose answers are known exactly. They feed training, as a source of
// a mixture, and evaluation, as a fixed list by length and depth. A sample is a pure function of
// (seed, use, index, length, depth). Each is one document, and only its answers carry loss
// weight: a position with weight 1 is right where the argmax of its logits equals its target.
//
//   associative  k1 v1 k2 v2 ... kP vP  then key-value slots in which Q of the keys are asked in
//                random order, the others being filler. The position of an asked key carries
//                weight; its target is that key's value (multi-query associative recall; Arora et
//                al. 2023, "Zoology", with the answers left in the stream).
//   needle       text [before key between value after] text ... [before key between] value
//                Key and value are random ids. The asked needle lies at `depth` of the text
//                (0 its first token, 1 its last), distractors anywhere; only the values after the
//                question carry weight.
#ifndef DATA_RECALL_RECALL_H_
#define DATA_RECALL_RECALL_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "data/sequences/document_order.h"
#include "data/sequences/packed_stream.h"
#include "data/sequences/sequence_stream.h"
#include "data/tokens/token_file.h"

namespace salamander {

// Token ids [begin, end).
struct IdRange {
  int32_t begin = 0;
  int32_t end = 0;

  int64_t size() const { return int64_t{end} - begin; }
};

// Samples of training and of evaluation with the same index have nothing in common.
enum class RecallUse : uint64_t { kTraining = 1, kEvaluation = 2 };

struct RecallRequest {
  RecallUse use = RecallUse::kTraining;
  int64_t index = 0;
  int64_t length = 0;  // tokens of the sample, all of them
  double depth = 0;    // [0, 1]; a task without a depth ignores it
};

class RecallTask {
 public:
  virtual ~RecallTask() = default;

  // The shortest sample that holds what has to be in it.
  virtual int64_t min_length() const = 0;

  // Exactly request.length tokens in one segment. Thread-safe.
  virtual absl::StatusOr<PackedStream> Sample(const RecallRequest& request) const = 0;
};

struct AssociativeRecallOptions {
  int64_t pairs = 8;
  int64_t queries = 8;  // of distinct keys, at most `pairs`
  IdRange keys = {};    // distinct keys are drawn from it: at least `pairs` ids
  IdRange values = {};
  IdRange fillers = {};
  uint64_t seed = 0;
};

// An error where ranges overlap (a filler or value could be taken for a key), are too small or
// leave the vocabulary.
absl::StatusOr<std::unique_ptr<RecallTask>> MakeAssociativeRecall(
    const AssociativeRecallOptions& options, int64_t vocab_size);

struct NeedleRecallOptions {
  std::vector<int32_t> before_key =
      {};  // the fixed words of a needle and of the question; may be empty
  std::vector<int32_t> between = {};
  std::vector<int32_t> after = {};
  int64_t key_tokens = 2;
  int64_t value_tokens = 2;
  int64_t distractors = 0;  // further needles, with other keys
  IdRange ids = {};         // of key and value tokens
  SplitOptions split = {};
  DataSplit part = DataSplit::kTraining;  // of the file, that the text comes from
  uint64_t seed = 0;
};

// The text is consecutive documents of the file's part from a random token on, joined as they
// are. Where a key, with its words, occurs in it by chance the sample's ids are drawn again.
absl::StatusOr<std::unique_ptr<RecallTask>> MakeNeedleRecall(
    std::shared_ptr<const TokenFileReader> text, const NeedleRecallOptions& options);

struct RecallSequencesOptions {
  int64_t sequence_length = 0;
  int64_t sample_length = 0;  // at most sequence_length; 0 takes sequence_length
  uint64_t seed = 0;          // of the depths
  int32_t padding_token = 0;
  SourcePosition start = {};  // next_document counts samples
};

// A recall task as a training source: each sequence holds as many samples as fit, each a segment
// of its own, at depths drawn uniformly, and padding.
absl::StatusOr<std::unique_ptr<SequenceStream>> MakeRecallSequences(
    std::shared_ptr<const RecallTask> task, const RecallSequencesOptions& options);

struct RecallCell {
  int64_t length = 0;
  double depth = 0;
};

// The fixed evaluation set: samples_per_cell samples for each length and depth, lengths outermost.
class RecallEvaluation {
 public:
  static absl::StatusOr<std::unique_ptr<RecallEvaluation>> Create(
      std::shared_ptr<const RecallTask> task, std::vector<int64_t> lengths,
      std::vector<double> depths, int64_t samples_per_cell);

  int64_t size() const;
  RecallCell Cell(int64_t i) const;
  absl::StatusOr<PackedStream> Sample(int64_t i) const;

 private:
  RecallEvaluation() = default;

  std::shared_ptr<const RecallTask> task_;
  std::vector<int64_t> lengths_;
  std::vector<double> depths_;
  int64_t samples_per_cell_ = 0;
};

// The positions whose argmax must equal their target.
std::vector<int64_t> AnswerPositions(const PackedStream& sample);

}  // namespace salamander

#endif  // DATA_RECALL_RECALL_H_
