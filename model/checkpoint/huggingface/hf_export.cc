#include "model/checkpoint/huggingface/hf_export.h"

#include <algorithm>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "data/storage/atomic_path.h"
#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/hf_config.h"
#include "model/checkpoint/huggingface/hf_names.h"

namespace salamander {

absl::Status ExportHfFolder(const std::string& directory, const ModelConfig& config,
                            absl::Span<const NamedTensor> parameters,
                            const HfExportOptions& options) {
  const bool has_remote_code =
      std::any_of(options.side_files.begin(), options.side_files.end(),
                  [](const auto& file) { return absl::StartsWith(file.first, "modeling_"); });
  ASSIGN_OR_RETURN(const std::string config_text,
                   HfConfigText(config, {.is_bfloat16 = options.weights.precision ==
                                                        SafetensorsPrecision::kBfloat16,
                                         .has_remote_code = has_remote_code}));
  std::vector<NamedTensor> tensors;
  for (const NamedTensor& parameter : parameters) {
    ASSIGN_OR_RETURN(std::string name, HfTensorName(config, parameter.name));
    tensors.push_back({std::move(name), parameter.view});
  }
  ASSIGN_OR_RETURN(AtomicDirectory folder, AtomicDirectory::Begin(directory));
  const auto write = [&](const std::string& path) -> absl::Status {
    RETURN_IF_ERROR(WriteSafetensorsFolder(path, tensors, options.weights));
    RETURN_IF_ERROR(WriteFileBytes(absl::StrCat(path, "/config.json"), config_text));
    for (const auto& [name, bytes] : options.side_files)
      RETURN_IF_ERROR(WriteFileBytes(absl::StrCat(path, "/", name), bytes));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(
      WithFinalName(write(folder.temporary_path()), folder.temporary_path(), directory));
  return folder.Commit();
}

}  // namespace salamander
