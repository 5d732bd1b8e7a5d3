// A HuggingFace model folder: config.json, safetensors and the files beside them.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_HF_IMPORT_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_HF_IMPORT_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "model/checkpoint/huggingface/hf_config.h"
#include "model/checkpoint/huggingface/safetensors.h"
#include "model/checkpoint/named_tensor.h"

namespace salamander {

enum class TensorFate {
  kLoaded,
  kTied,    // the head of a model whose head is its embedding
  kBuffer,  // a stored table that is computed here, such as rotary frequencies
  kUnused   // of no part of this model
};

const char* Name(TensorFate fate);  // "loaded" ...

// What became of one tensor of the folder.
struct TensorReport {
  std::string tensor;     // HuggingFace's name
  std::string found;      // "BF16[128, 64]"
  std::string parameter;  // ours; empty unless loaded
  TensorFate fate = TensorFate::kUnused;
};

// The tokenizer, generation defaults and model code: files that an export gives back unchanged, by
// name.
using HfSideFiles = std::map<std::string, std::string>;

class HfFolder {
 public:
  // Reads config.json and every safetensors header.
  static absl::StatusOr<HfFolder> Open(const std::string& directory);

  const ModelConfig& config() const { return config_.model; }
  const std::vector<std::string>& ignored_config_keys() const { return config_.ignored_keys; }

  // Fills every parameter, float32 or float64, from its tensor and reports each tensor of the
  // folder, sorted by name. Before it reads, it fails with a list of all tensors that are missing,
  // misshaped, or part of a layer and yet of no parameter (a bias that would be lost).
  // Requires: `parameters` are those of config().
  absl::StatusOr<std::vector<TensorReport>> Load(absl::Span<const NamedTensor> parameters) const;

  absl::StatusOr<HfSideFiles> ReadSideFiles() const;

 private:
  HfFolder(std::string directory, HfConfig config, SafetensorsFolder tensors)
      : directory_(std::move(directory)),
        config_(std::move(config)),
        tensors_(std::move(tensors)) {}

  std::string directory_;
  HfConfig config_;
  SafetensorsFolder tensors_;
};

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_HF_IMPORT_H_
