// Writes a model as a HuggingFace folder: config.json, safetensors in shards, and the side files
// that its import read. Dense families load in transformers.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_HF_EXPORT_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_HF_EXPORT_H_

#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "model/checkpoint/huggingface/hf_import.h"
#include "model/checkpoint/huggingface/safetensors.h"
#include "model/checkpoint/named_tensor.h"
#include "model/config.h"

namespace salamander {

struct HfExportOptions {
  SafetensorsWriteOptions weights;
  HfSideFiles side_files;
};

// Complete or absent; an existing `directory` is an error. Requires: `parameters` are those of
// `config`, float32 or float64.
absl::Status ExportHfFolder(const std::string& directory, const ModelConfig& config,
                            absl::Span<const NamedTensor> parameters,
                            const HfExportOptions& options);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_HF_EXPORT_H_
