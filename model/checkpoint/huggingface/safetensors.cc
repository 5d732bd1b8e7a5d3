#include "model/checkpoint/huggingface/safetensors.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/bfloat16.h"
#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/half_float.h"

namespace salamander {
namespace {

constexpr char kSingleName[] = "model.safetensors";
constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr int64_t kLargestIndex = 256 << 20;

template <typename Stored>
Stored LoadAt(const char* bytes, int64_t index) {
  Stored value;
  std::memcpy(&value, bytes + index * static_cast<int64_t>(sizeof(Stored)), sizeof(Stored));
  return value;
}

// out[i] = convert(stored[i]); tensors of a file need not be aligned.
template <typename Stored, typename Element, typename Convert>
void ConvertAll(const char* bytes, Element* out, int64_t size, Convert convert) {
#pragma omp parallel for schedule(static) if (size > (1 << 16))
  for (int64_t index = 0; index < size; ++index) {
    out[index] = static_cast<Element>(convert(LoadAt<Stored>(bytes, index)));
  }
}

template <typename Element>
bool ReadFloats(const std::string& dtype, const char* bytes, Element* out, int64_t size) {
  if (dtype == "F32") {
    ConvertAll<float>(bytes, out, size, [](float value) { return value; });
  } else if (dtype == "BF16") {
    ConvertAll<uint16_t>(bytes, out, size, FloatOfBfloat16);
  } else if (dtype == "F16") {
    ConvertAll<uint16_t>(bytes, out, size, FloatOfHalf);
  } else if (dtype == "F64" && sizeof(Element) == sizeof(double)) {
    ConvertAll<double>(bytes, out, size, [](double value) { return value; });
  } else {
    return false;
  }
  return true;
}

bool ReadIntegers(const std::string& dtype, const char* bytes, int32_t* out, int64_t size) {
  if (dtype == "I32") {
    std::memcpy(out, bytes, static_cast<size_t>(size) * sizeof(int32_t));
    return true;
  }
  if (dtype != "I64") return false;
  for (int64_t index = 0; index < size; ++index) {
    const auto value = LoadAt<int64_t>(bytes, index);
    if (value < std::numeric_limits<int32_t>::min() ||
        value > std::numeric_limits<int32_t>::max()) {
      return false;
    }
    out[index] = static_cast<int32_t>(value);
  }
  return true;
}

bool HasShape(const SafetensorsEntry& entry, const TensorView& view) {
  if (static_cast<int>(entry.shape.size()) != view.rank()) return false;
  for (int axis = 0; axis < view.rank(); ++axis) {
    if (entry.shape[static_cast<size_t>(axis)] != view.dim(axis)) return false;
  }
  return true;
}

// A folder without safetensors: what it holds instead decides what to do.
absl::Status NoSafetensors(const std::string& directory) {
  std::error_code ignored;
  const bool has_pickles =
      std::filesystem::exists(directory + "/pytorch_model.bin", ignored) ||
      std::filesystem::exists(directory + "/pytorch_model.bin.index.json", ignored);
  return absl::NotFoundError(
      absl::StrCat(directory, ": has neither ", kSingleName, " nor ", kIndexName, "; ",
                   has_pickles ? "it holds pytorch_model.bin: save the model as safetensors first"
                               : "expected a HuggingFace model folder, check the path"));
}

}  // namespace

void SafetensorsFile::Unmap::operator()(const char* address) const {
  munmap(const_cast<char*>(address), static_cast<size_t>(size));
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t size, FileSize(path));
  SafetensorsFile file;
  file.path_ = path;
  if (size > 0) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return ErrnoStatus(errno, "open for reading", path);
    void* const address =
        mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int error = errno;
    close(descriptor);
    if (address == MAP_FAILED) return ErrnoStatus(error, "map into memory", path);
    file.bytes_ =
        std::unique_ptr<const char, Unmap>(static_cast<const char*>(address), Unmap{size});
  }
  ASSIGN_OR_RETURN(
      file.header_,
      ParseSafetensorsHeader(path, absl::string_view(file.bytes_.get(), static_cast<size_t>(size)),
                             size));
  for (size_t index = 0; index < file.header_.entries.size(); ++index) {
    file.index_[file.header_.entries[index].name] = index;
  }
  return file;
}

const SafetensorsEntry* SafetensorsFile::Find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[found->second];
}

absl::Status SafetensorsFile::Read(const std::string& name, TensorView out) const {
  const SafetensorsEntry* const entry = Find(name);
  if (entry == nullptr) {
    return absl::NotFoundError(absl::StrCat(path_, ": has no tensor \"", name, "\""));
  }
  const std::string where = absl::StrCat(path_, ": tensor \"", name, "\"");
  if (!HasShape(*entry, out)) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": found ", entry->ShapeString(),
                                                   ", expected the shape of ", out.ShapeString()));
  }
  const char* const bytes = bytes_.get() + header_.data_begin + entry->begin;
  bool is_read = false;
  if (out.dtype() == DType::kFloat32) {
    is_read = ReadFloats(entry->dtype, bytes, out.data<float>(), out.size());
  } else if (out.dtype() == DType::kFloat64) {
    is_read = ReadFloats(entry->dtype, bytes, out.data<double>(), out.size());
  } else if (out.dtype() == DType::kInt32) {
    is_read = ReadIntegers(entry->dtype, bytes, out.data<int32_t>(), out.size());
  }
  if (is_read) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      where, ": found ", entry->dtype, ", expected ",
      out.dtype() == DType::kInt32 ? "I32, or I64 with values of 32 bits" : "F32, BF16 or F16",
      "; quantised and integer weights are not read"));
}

absl::StatusOr<SafetensorsFolder> SafetensorsFolder::Open(const std::string& directory) {
  std::error_code ignored;
  std::map<std::string, std::string> claimed;  // by the index
  std::set<std::string> file_names;
  const std::string index_path = absl::StrCat(directory, "/", kIndexName);
  if (std::filesystem::exists(index_path, ignored)) {
    ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(index_path, kLargestIndex));
    ASSIGN_OR_RETURN(claimed, ParseSafetensorsIndex(index_path, text));
    for (const auto& [name, file] : claimed) file_names.insert(file);
  } else if (std::filesystem::exists(absl::StrCat(directory, "/", kSingleName), ignored)) {
    file_names.insert(kSingleName);
  } else {
    return NoSafetensors(directory);
  }
  SafetensorsFolder folder;
  folder.directory_ = directory;
  for (const std::string& name : file_names) {
    ASSIGN_OR_RETURN(SafetensorsFile file,
                     SafetensorsFile::Open(absl::StrCat(directory, "/", name)));
    for (const SafetensorsEntry& entry : file.entries()) {
      const auto [place, is_first] = folder.file_of_.emplace(entry.name, folder.files_.size());
      if (!is_first) {
        return absl::InvalidArgumentError(
            absl::StrCat(file.path(), ": tensor \"", entry.name, "\" is in ",
                         folder.files_[place->second].path(), " too; expected it in one file"));
      }
    }
    folder.files_.push_back(std::move(file));
  }
  for (const auto& [name, file] : claimed) {
    const auto found = folder.file_of_.find(name);
    if (found == folder.file_of_.end() ||
        folder.files_[found->second].path() != absl::StrCat(directory, "/", file)) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": says that tensor \"", name, "\" is in ", file,
                       ", which does not hold it; download both again"));
    }
  }
  return folder;
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

const SafetensorsEntry* SafetensorsFolder::Find(const std::string& name) const {
  const auto found = file_of_.find(name);
  return found == file_of_.end() ? nullptr : files_[found->second].Find(name);
}

absl::Status SafetensorsFolder::Read(const std::string& name, TensorView out) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end()) {
    return absl::NotFoundError(absl::StrCat(directory_, ": has no tensor \"", name, "\""));
  }
  return files_[found->second].Read(name, out);
}

}  // namespace salamander
