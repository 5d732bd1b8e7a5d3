#include "model/checkpoint/huggingface/hf_import.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/hf_names.h"

namespace salamander {
namespace {

constexpr int64_t kLargestConfig = 16 << 20;
constexpr int64_t kLargestSideFile = 256 << 20;

constexpr const char* kSideFileNames[] = {
    "added_tokens.json", "chat_template.jinja",     "generation_config.json",
    "merges.txt",        "special_tokens_map.json", "tokenizer.json",
    "tokenizer.model",   "tokenizer_config.json",   "vocab.json"};

bool IsModelCode(const std::string& name) {
  return absl::EndsWith(name, ".py") &&
         (absl::StartsWith(name, "configuration_") || absl::StartsWith(name, "modeling_") ||
          absl::StartsWith(name, "tokenization_"));
}

bool HasShape(const SafetensorsEntry& entry, const TensorView& view) {
  bool same = static_cast<int>(entry.shape.size()) == view.rank();
  for (int axis = 0; same && axis < view.rank(); ++axis) {
    same = entry.shape[static_cast<size_t>(axis)] == view.dim(axis);
  }
  return same;
}

TensorFate FateOfUnclaimed(const std::string& tensor, const ModelConfig& config) {
  if (tensor == "lm_head.weight" && config.tie_embeddings) return TensorFate::kTied;
  if (absl::EndsWith(tensor, ".rotary_emb.inv_freq")) return TensorFate::kBuffer;
  return TensorFate::kUnused;
}

// Up to ten faults, so that a wrong folder does not fill the screen.
absl::Status Faults(const std::string& directory, const std::vector<std::string>& faults) {
  constexpr size_t kShown = 10;
  const size_t shown = std::min(faults.size(), kShown);
  return absl::InvalidArgumentError(absl::StrCat(
      directory, ": ", faults.size(), " of its tensors do not fit its config.json:\n  ",
      absl::StrJoin(faults.begin(), faults.begin() + static_cast<std::ptrdiff_t>(shown), "\n  "),
      shown < faults.size() ? "\n  ..." : "",
      "\ndownload the folder again, or correct the config"));
}

}  // namespace

const char* Name(TensorFate fate) {
  switch (fate) {
    case TensorFate::kLoaded:
      return "loaded";
    case TensorFate::kTied:
      return "tied to the embedding";
    case TensorFate::kBuffer:
      return "computed, not read";
    case TensorFate::kUnused:
      return "unused";
  }
  return "unknown";
}

absl::StatusOr<HfFolder> HfFolder::Open(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/config.json");
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path, kLargestConfig));
  ASSIGN_OR_RETURN(HfConfig config, ParseHfConfig(path, text));
  ASSIGN_OR_RETURN(SafetensorsFolder tensors, SafetensorsFolder::Open(directory));
  return HfFolder(directory, std::move(config), std::move(tensors));
}

absl::StatusOr<std::vector<TensorReport>> HfFolder::Load(
    absl::Span<const NamedTensor> parameters) const {
  std::vector<std::string> faults;
  std::map<std::string, const NamedTensor*> claimed;  // by tensor
  for (const NamedTensor& parameter : parameters) {
    ASSIGN_OR_RETURN(const std::string tensor, HfTensorName(config_.model, parameter.name));
    claimed[tensor] = &parameter;
    const SafetensorsEntry* const entry = tensors_.Find(tensor);
    if (entry == nullptr) {
      faults.push_back(
          absl::StrCat(tensor, ": missing, expected the shape of ", parameter.view.ShapeString()));
    } else if (!HasShape(*entry, parameter.view)) {
      faults.push_back(absl::StrCat(tensor, ": found ", entry->ShapeString(),
                                    ", expected the shape of ", parameter.view.ShapeString()));
    }
  }
  std::vector<TensorReport> reports;
  for (const std::string& tensor : tensors_.names()) {
    const auto found = claimed.find(tensor);
    TensorReport report{tensor, tensors_.Find(tensor)->ShapeString(), "", TensorFate::kLoaded};
    if (found != claimed.end()) {
      report.parameter = found->second->name;
    } else {
      report.fate = FateOfUnclaimed(tensor, config_.model);
    }
    if (report.fate == TensorFate::kUnused && absl::StartsWith(tensor, "model.layers.")) {
      faults.push_back(
          absl::StrCat(tensor, ": found ", report.found, ", but the config has no use for it"));
    }
    reports.push_back(std::move(report));
  }
  if (!faults.empty()) return Faults(directory_, faults);
  for (const auto& [tensor, parameter] : claimed) {
    RETURN_IF_ERROR(tensors_.Read(tensor, parameter->view));
  }
  return reports;
}

absl::StatusOr<HfSideFiles> HfFolder::ReadSideFiles() const {
  HfSideFiles files;
  std::error_code error;
  std::filesystem::directory_iterator entry(directory_, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const bool is_wanted = IsModelCode(name) ||
                           std::find(std::begin(kSideFileNames), std::end(kSideFileNames), name) !=
                               std::end(kSideFileNames);
    if (!is_wanted) continue;
    ASSIGN_OR_RETURN(files[name], ReadFileBytes(entry->path().string(), kLargestSideFile));
  }
  if (error) return ErrnoStatus(error.value(), "list", directory_);
  return files;
}

}  // namespace salamander
