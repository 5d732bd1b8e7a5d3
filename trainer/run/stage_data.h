// A recipe's sources opened: training sequences of a stage, held-out sequences, recall sets.
#ifndef TRAINER_RUN_STAGE_DATA_H_
#define TRAINER_RUN_STAGE_DATA_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "data/recall/recall.h"
#include "data/sequences/mixture.h"
#include "data/sequences/token_sequences.h"
#include "data/tokens/token_file.h"
#include "trainer/config/recipe.h"

namespace salamander {

class RunData {
 public:
  // Opens every file of the recipe. Files of one run share one tokenizer; others are refused.
  static absl::StatusOr<RunData> Open(const Recipe& recipe);

  int64_t vocabulary() const { return vocabulary_; }
  const std::string& serialized_tokenizer() const { return tokenizer_; }

  // The sequences of a stage, each source going on from its position.
  absl::StatusOr<std::unique_ptr<SequenceMixture>> StageSequences(
      const StageConfig& stage, const std::map<std::string, SourcePosition>& start) const;

  // Each source's position after sequences 0 to n - 1 of the stage; sources outside the mixture
  // stay where they were.
  std::map<std::string, SourcePosition> PositionsAfter(
      const StageConfig& stage, const SequenceMixture& sequences, int64_t n,
      const std::map<std::string, SourcePosition>& start) const;

  absl::StatusOr<std::unique_ptr<HeldOutSequences>> HeldOut(int64_t sequence_length) const;

  // Associative recall over the run's vocabulary; null where the recipe asks for no recall.
  absl::StatusOr<std::unique_ptr<RecallEvaluation>> Recall() const;

 private:
  // One stream of a stage: a source, or one lane of it.
  struct Component {
    std::string source;
    std::string position_name;  // "text", or "text#3" for a lane
    Lane lane;
    double weight = 0.0;
  };

  RunData() = default;
  // What training leaves out of a file: the largest part that any source of the run holds out of
  // it. Smaller parts lie inside larger ones.
  SplitOptions TrainingSplit(const std::string& path) const;
  std::vector<Component> ComponentsOf(const StageConfig& stage) const;
  absl::Status OpenSource(const std::string& name, const SourceConfig& source);
  absl::StatusOr<std::unique_ptr<SequenceStream>> MakeStream(const std::string& name,
                                                             const StageConfig& stage,
                                                             const Lane& lane,
                                                             const SourcePosition& start) const;

  Recipe recipe_;
  std::map<std::string, std::shared_ptr<const TokenFileReader>> files_;
  std::string held_out_source_;
  int64_t vocabulary_ = 0;
  std::string tokenizer_;
};

// The split every run and every evaluation makes of a token file: it depends on the data alone,
// never on a run's seed.
SplitOptions HeldOutSplit(double fraction);

// Pairs of keys and values drawn from disjoint parts of a vocabulary, with fillers from a third.
absl::StatusOr<std::unique_ptr<RecallTask>> MakeRecallTask(int64_t vocabulary, int64_t pairs,
                                                           uint64_t seed);

}  // namespace salamander

#endif  // TRAINER_RUN_STAGE_DATA_H_
