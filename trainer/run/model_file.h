// Models on disk: a checkpoint directory, or the newest one of a run.
#ifndef TRAINER_RUN_MODEL_FILE_H_
#define TRAINER_RUN_MODEL_FILE_H_

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

#include "data/text/tokenizer.h"
#include "model/checkpoint/checkpoint.h"
#include "model/conversion/transfer.h"
#include "model/transformer.h"

namespace salamander {

// Names of a checkpoint's texts. Files that came with a HuggingFace folder are texts of their own
// name behind the prefix.
inline constexpr char kModelText[] = "model.json";
inline constexpr char kTokenizerText[] = "tokenizer.bin";
inline constexpr char kSideFilePrefix[] = "hf-";

// The group of tensors that is the model itself.
inline constexpr char kWeightsGroup[] = "weights";

// What goes along with a model from checkpoint to checkpoint, by text name: tokenizer, side files.
using Baggage = std::map<std::string, std::string>;

struct LoadedModel {
  std::string path;  // of the checkpoint
  ModelWeights weights;
  Baggage baggage;
};

// The directory itself where it is a checkpoint, else the newest under <path>/checkpoints, else
// that of the last of <path>/steps (trainer/commands/road.h).
absl::StatusOr<std::string> ResolveCheckpoint(const std::string& path);
// The one that the first rank finds, on every rank: a run that trains meanwhile may publish its
// next one between two ranks' looks. Collective.
absl::StatusOr<std::string> ResolveCheckpoint(const std::string& path, Communicator& ranks);

// On the host: the whole model, or a tensor rank's part of it.
absl::StatusOr<LoadedModel> LoadModel(const std::string& path, const TensorShard& shard = {});

// All but the weights, none of which is read.
struct ModelDescription {
  std::string path;  // of the checkpoint
  ModelConfig config;
  Baggage baggage;
};
absl::StatusOr<ModelDescription> DescribeModel(const std::string& path);
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& path);

// The model at work on the host; borrows the weights.
Transformer TransformerOf(const ModelWeights& weights);

// The tokenizer a model carries. Fails, saying what to do, where it carries none.
absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerOf(const LoadedModel& model);

// A parameter's tensor in a group: "weights/layers.3.mlp.up.weight".
std::string TensorName(const std::string& group, const ParameterSpec& spec);

// Whether SaveModel could write there: nothing of the name is there yet and its folder can be
// written. For commands to ask before they compute. Collective.
absl::Status CheckCanSave(const std::string& path, Communicator& ranks);

// Writes weights, config and further texts. Collective; every rank holds the whole model.
absl::Status SaveModel(const std::string& path, const ModelWeights& model, const Baggage& texts,
                       Communicator& ranks);

}  // namespace salamander

#endif  // TRAINER_RUN_MODEL_FILE_H_
