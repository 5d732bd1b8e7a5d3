// HDF5 files as absl::Status and RAII: groups, contiguous datasets of fixed-size little-endian
// numbers, ranges of rows, attributes and virtual datasets. Types are exact: reading a dataset as
// another type is an error, never a conversion.
//
// The serial HDF5 library is not thread-safe; every call here holds one process-wide lock, so that
// a data reader and a checkpoint writer may run on different threads. HDF5's own error printing is
// off; its innermost message is part of ours. HDF5's file locks are off as well: files of ours are
// written once, under a temporary name, and locks only fail on cluster file systems.
#ifndef DATA_STORAGE_HDF5_FILE_H_
#define DATA_STORAGE_HDF5_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace salamander {

enum class StoredType { kUint8, kUint16, kUint32, kUint64, kInt32, kInt64, kFloat32, kFloat64 };

int64_t SizeOf(StoredType type);
const char* Name(StoredType type);  // "uint8" ...

// What of another file's dataset stands where in a virtual one, in rows of the first axis; of a
// dataset of two axes, it may be some of the columns.
struct VirtualSource {
  std::string file;     // relative to the folder of the virtual dataset's file
  std::string dataset;  // "/name"
  int64_t source_begin = 0;
  int64_t source_rows = 0;  // all the rows of the source dataset
  int64_t target_begin = 0;
  int64_t count = 0;
  int64_t column_begin = 0;  // in the virtual dataset
  int64_t columns = 0;       // all those of the source dataset; 0: as many as the virtual one has
};

// A dataset of an open file. It must not outlive the file; after the file's Close every call is an
// error.
class Hdf5Dataset {
 public:
  Hdf5Dataset(Hdf5Dataset&& other) noexcept;
  Hdf5Dataset& operator=(Hdf5Dataset&& other) noexcept;
  ~Hdf5Dataset();

  StoredType type() const { return type_; }
  const std::vector<int64_t>& dims() const { return dims_; }
  int64_t row_size() const;  // elements under one index of the first axis
  int64_t rows() const { return dims_.empty() ? 1 : dims_[0]; }

  // Rows [begin, begin + count) of the first axis; a range past the end is an error.
  absl::Status Write(StoredType type, int64_t begin, int64_t count, const void* data);
  absl::Status Read(StoredType type, int64_t begin, int64_t count, void* data) const;

  // Where the data lies in the file, in bytes; an error unless contiguous.
  absl::StatusOr<int64_t> FileOffset() const;

 private:
  friend class Hdf5File;
  Hdf5Dataset(int64_t id, std::string where, StoredType type, std::vector<int64_t> dims);
  absl::Status CheckRange(StoredType type, int64_t begin, int64_t count) const;

  int64_t id_ = -1;
  std::string where_;  // "file.h5: dataset /name"
  StoredType type_ = StoredType::kUint8;
  std::vector<int64_t> dims_;
};

class Hdf5File {
 public:
  // Replaces an existing file.
  static absl::StatusOr<Hdf5File> Create(const std::string& path);
  static absl::StatusOr<Hdf5File> OpenForReading(const std::string& path);

  Hdf5File(Hdf5File&& other) noexcept;
  Hdf5File& operator=(Hdf5File&& other) noexcept;
  ~Hdf5File();

  const std::string& path() const { return path_; }

  // Flushes and closes; a writer that skips it does not learn of a full disk.
  absl::Status Close();

  absl::Status CreateGroup(const std::string& name);

  // Contiguous, of fixed size; rows that are never written hold unspecified values. Missing groups
  // of the name are created. Its place in the file is taken at once, so that others can write there
  // after Close (Hdf5Dataset::FileOffset).
  absl::StatusOr<Hdf5Dataset> CreateDataset(const std::string& name, StoredType type,
                                            absl::Span<const int64_t> dims);
  absl::StatusOr<Hdf5Dataset> OpenDataset(const std::string& name) const;
  bool HasObject(const std::string& name) const;  // a group or dataset
  absl::StatusOr<std::vector<std::string>> ListGroup(const std::string& name) const;  // sorted

  // For other programs' eyes: a missing source file reads as fill values, so ours reads sources.
  absl::Status CreateVirtualDataset(const std::string& name, StoredType type,
                                    absl::Span<const int64_t> dims,
                                    absl::Span<const VirtualSource> sources);

  // Attributes of a group or dataset ("/" is the file). Strings are any bytes, at most 60,000 (an
  // HDF5 attribute ends at 64 KiB; longer texts are uint8 datasets).
  absl::Status SetString(const std::string& object, const std::string& attribute,
                         const std::string& value);
  absl::StatusOr<std::string> GetString(const std::string& object,
                                        const std::string& attribute) const;
  absl::Status SetInteger(const std::string& object, const std::string& attribute, int64_t value);
  absl::StatusOr<int64_t> GetInteger(const std::string& object, const std::string& attribute) const;

 private:
  Hdf5File(int64_t id, std::string path);
  std::string Where(const std::string& object) const;

  int64_t id_ = -1;
  std::string path_;
};

}  // namespace salamander

#endif  // DATA_STORAGE_HDF5_FILE_H_
