// A recipe: everything a run is made of. Plain structs with their defaults; the description of the
// fields in recipe.cc serves reading, the resolved copy stored with the run, and the comparison
// when a run goes on.
#ifndef TRAINER_CONFIG_RECIPE_H_
#define TRAINER_CONFIG_RECIPE_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#include "model/config.h"
#include "model/conversion/transfer.h"
#include "model/recomputation.h"
#include "trainer/config/config_node.h"
#include "trainer/config/device_choice.h"
#include "trainer/config/field_visitor.h"
#include "trainer/config/small_files.h"

namespace salamander {

enum class SourceKind { kTokens, kAssociativeRecall, kNeedle };

// Where sequences come from.
struct SourceConfig {
  SourceKind kind = SourceKind::kTokens;
  std::string path;   // token file; for associative recall: the file whose vocabulary it uses
  int64_t lanes = 1;  // token files: disjoint parts read side by side, so that a long document does
                      // not fill a batch
  double held_out = 0.0;      // share of the documents set aside for evaluation
  int64_t sample_length = 0;  // of a recall sample; 0: the sequence's
  int64_t pairs = 8;          // associative recall: key-value pairs, and as many questions
};

struct ParameterGroup {
  std::string match;  // part of a parameter's name, "*" for any text: "layers.*.mlp.*"
  double learning_rate_multiplier = 1.0;
  double weight_decay = -1.0;  // -1: the optimizer's
};

struct OptimizerConfig {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.0;  // of matrices; norms and embeddings have none unless a group says so
  double clip_norm = 1.0;
  std::vector<ParameterGroup> groups;  // the first that matches decides
};

enum class ObjectiveKind { kAlign, kDistill, kLm };
enum class ScheduleShape { kConstant, kCosine, kExponential, kLinear };

// Warm-up from 0 to the peak, then to `final` at the stage's last step
// (trainer/run/learning_rate.h).
struct ScheduleConfig {
  double peak = 0.0;
  double final = -1.0;       // -1: none, for a constant rate
  int64_t warmup_steps = 0;  // or in tokens, rounded up to whole batches
  int64_t warmup_tokens = 0;
  ScheduleShape shape = ScheduleShape::kConstant;
};

enum class TrainableSet { kAll, kMixers, kLightning, kCandidates, kMatching };
enum class OptimizerState { kKeep, kReset };

// What an entry of the list of stages does. Only the fields of its kind are read and written.
enum class StageKind { kTrain, kConvert, kSelect };

// `convert.keep` for the list of the select stage before it.
inline constexpr char kSelectedLayers[] = "selected";

struct ConvertStageConfig {
  // Which layers stay softmax: "" none is dropped yet, every layer gets a candidate; "selected";
  // else a keep.yaml or a list "0,3,11".
  std::string keep;
  GateInitialization gate = GateInitialization::kRandom;
  bool rope_in_kept_layers = false;
  SparseConfig sparse;  // of the kept layers
};

struct StageConfig {
  std::string name;
  StageKind kind = StageKind::kTrain;
  ConvertStageConfig convert;  // kind: convert
  SelectionConfig select;      // kind: select
  // kind: train, all that follows
  ObjectiveKind objective = ObjectiveKind::kLm;
  TrainableSet train = TrainableSet::kAll;
  std::vector<std::string> train_matching;  // name patterns, with train: matching
  int64_t sequence_length = 0;
  int64_t tokens = 0;              // the stage's budget, rounded up to whole batches
  int64_t batch_tokens = 0;        // of the global batch
  int64_t micro_batch_tokens = 0;  // of one pass on one rank; 0: one sequence
  ScheduleConfig learning_rate;
  std::map<std::string, double> mixture;  // source: weight
  bool keep_documents_whole = false;
  bool sparse = false;  // the kept layers' attention
  DenseRule dense_rule = DenseRule::kPerDocument;
  int64_t dense_length = -1;  // -1: the model's
  bool rope_in_kept_layers = false;
  OptimizerState optimizer_state = OptimizerState::kKeep;
  Recomputation recomputation = Recomputation::kNone;
  std::vector<int64_t> recomputed_layers;  // that it is for; empty: all
  // Ranks that share a sequence, and a model; all others share the batch out.
  int64_t context_parallel = 1;
  int64_t tensor_parallel = 1;

  // Of a validated train stage.
  int64_t sequences_per_batch() const { return batch_tokens / sequence_length; }
  int64_t steps() const { return (tokens + batch_tokens - 1) / batch_tokens; }
  // The schedule with its warm-up in steps, whichever way the recipe gives it.
  ScheduleConfig ScheduleInSteps() const {
    ScheduleConfig schedule = learning_rate;
    if (schedule.warmup_tokens > 0)
      schedule.warmup_steps = (schedule.warmup_tokens + batch_tokens - 1) / batch_tokens;
    return schedule;
  }
};

struct EvaluationConfig {
  int64_t every_steps = 0;      // 0: only at a stage's end
  std::string source;           // whose held-out documents; empty: the first token source
  int64_t sequence_length = 0;  // 0: the stage's
  int64_t sequences = 16;
  std::vector<int64_t> recall_lengths;  // none: no recall
  int64_t recall_samples = 8;           // a length
};

struct CheckpointConfig {
  int64_t every_steps = 0;     // 0: only at a stage's end and when asked to stop
  double every_seconds = 0.0;  // 0: as above; both may be given
  int64_t keep_last = 2;
  int64_t keep_every = 0;  // steps whose checkpoints stay for good; 0: none
  bool background = true;  // written from a copy in host memory while training goes on
};

// Where the weights come from: a checkpoint, or a shape and the seed.
struct ModelSource {
  std::string from;   // checkpoint or run
  std::string shape;  // model YAML, for training from scratch
};

struct Recipe {
  std::string name;
  std::string run_directory;
  int64_t seed = 0;
  DeviceChoice device = DeviceChoice::kAuto;
  bool deterministic = false;  // the same bits from run to run, where a faster way gives others
  ModelSource model;
  std::string teacher;  // checkpoint or run, for distill
  std::map<std::string, SourceConfig> data;
  OptimizerConfig optimizer;
  // Of stages that do not say.
  int64_t context_parallel = 1;
  int64_t tensor_parallel = 1;
  std::vector<StageConfig> stages;
  EvaluationConfig evaluation;
  CheckpointConfig checkpoint;
  int64_t log_every_steps = 10;

  ConfigPlaces places;  // where each key stands, for messages; empty for a recipe made in code

  // Refuses values that contradict each other or the number of ranks, as "file:line
  // stages[2].tokens: found; expected".
  absl::Status Validate(int ranks) const;
};

void VisitRecipe(FieldVisitor& visitor, Recipe& recipe);

// Reads, applies "key=value" overrides, and checks keys, types and ranges; Validate is the
// caller's. Whatever the text is, the answer is a status: ParseRecipe is what the fuzzer drives.
absl::StatusOr<Recipe> ReadRecipe(const std::string& path,
                                  const std::vector<std::string>& overrides);
absl::StatusOr<Recipe> ParseRecipe(absl::string_view text, const std::string& file,
                                   const std::vector<std::string>& overrides);

// The resolved recipe, every field with its value; reading it gives the same recipe.
std::string RecipeText(const Recipe& recipe);
// The same as (path, value), in order: "stages[1].peak_lr", "0.0001".
std::vector<std::pair<std::string, std::string>> FlattenRecipe(const Recipe& recipe);

// Whether a name matches a pattern in which * stands for any text.
bool MatchesPattern(absl::string_view name, absl::string_view pattern);

}  // namespace salamander

#endif  // TRAINER_CONFIG_RECIPE_H_
