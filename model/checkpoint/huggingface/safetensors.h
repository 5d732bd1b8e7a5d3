// Safetensors, the file format of HuggingFace checkpoints: 8 bytes little-endian header length N,
// N bytes of JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {..}},
// then the tensors' bytes, to the end of the file, without gaps. A model in several files has a
// "model.safetensors.index.json" whose "weight_map" says which tensor lies where.
//
// Everything a header claims is checked against the file before a byte of data is used.
#ifndef MODEL_CHECKPOINT_HUGGINGFACE_SAFETENSORS_H_
#define MODEL_CHECKPOINT_HUGGINGFACE_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "kernels/base/tensor_view.h"
#include "model/checkpoint/named_tensor.h"

namespace salamander {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;           // "F32", "BF16", "I64" ... one of the format's own
  std::vector<int64_t> shape;  // empty for a scalar
  int64_t begin = 0;           // bytes after the header
  int64_t end = 0;

  std::string ShapeString() const;  // "BF16[128, 64]"
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // in the order of the data
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;  // in the file
};

// `prefix` is the file's beginning, at least its header; a shorter one is a truncated file.
// `file_size` is what the offsets are checked against.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view where,
                                                         absl::string_view prefix,
                                                         int64_t file_size);

// The "weight_map" of an index: tensor name to file name. A file name with a folder in it is
// refused.
absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(absl::string_view where,
                                                                         absl::string_view text);

// One file, mapped into memory.
class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  absl::Span<const SafetensorsEntry> entries() const { return header_.entries; }
  const SafetensorsEntry* Find(const std::string& name) const;  // null where there is none

  // Copies a tensor into a view of the same shape: F32, F16, BF16 into float32 or float64, F64 into
  // float64, I32 and I64 into int32 (a value that does not fit is an error).
  absl::Status Read(const std::string& name, TensorView out) const;

 private:
  struct Unmap {
    Unmap() : size(0) {}
    explicit Unmap(int64_t mapped_bytes) : size(mapped_bytes) {}
    int64_t size;
    void operator()(const char* address) const;
  };

  std::string path_;
  SafetensorsHeader header_;
  std::map<std::string, size_t> index_;
  std::unique_ptr<const char, Unmap> bytes_;
};

// The safetensors of one folder: model.safetensors, or the files its index names.
class SafetensorsFolder {
 public:
  // Checks that every tensor of the index is in the file it names, and no tensor in two files.
  static absl::StatusOr<SafetensorsFolder> Open(const std::string& directory);

  std::vector<std::string> names() const;  // sorted
  const SafetensorsEntry* Find(const std::string& name) const;
  absl::Status Read(const std::string& name, TensorView out) const;

 private:
  std::string directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;
};

enum class SafetensorsPrecision { kFloat32, kBfloat16 };

struct SafetensorsWriteOptions {
  SafetensorsPrecision precision = SafetensorsPrecision::kBfloat16;
  int64_t max_shard_bytes = int64_t{5} << 30;  // a larger tensor gets a file of its own
};

// Writes float32 or float64 tensors into `directory`, in their order, as model.safetensors or as
// model-0000i-of-0000n.safetensors with an index. Files are synced; use a temporary directory.
absl::Status WriteSafetensorsFolder(const std::string& directory,
                                    absl::Span<const NamedTensor> tensors,
                                    const SafetensorsWriteOptions& options);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_HUGGINGFACE_SAFETENSORS_H_
