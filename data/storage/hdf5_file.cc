#include "data/storage/hdf5_file.h"

#include <algorithm>
#include <mutex>
#include <utility>

#include <hdf5.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// HDF5 keeps one global state; so does this file, and nothing else: the lock that guards it.
std::recursive_mutex& LibraryMutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

// Held during every use of the library. Clears what an earlier call left on HDF5's error stack.
class LibraryLock {
 public:
  LibraryLock() : lock_(LibraryMutex()) {
    // After a close that failed on a full disk, the library's own exit handler uses freed memory.
    static const herr_t no_exit_handler = H5dont_atexit();
    static_cast<void>(no_exit_handler);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    H5Eclear2(H5E_DEFAULT);
  }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};

// An identifier of any kind with the function that closes it.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Handle() {
    if (id_ >= 0) close_(id_);
  }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  hid_t get() const { return id_; }
  bool ok() const { return id_ >= 0; }
  hid_t release() { return std::exchange(id_, -1); }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

herr_t KeepInnermost(unsigned, const H5E_error2_t* error, void* text) {
  if (error->desc != nullptr) *static_cast<std::string*>(text) = error->desc;
  return 0;
}

// The library's description of a system error holds the time, pointers and counts; the system's
// own words stand in quotes.
std::string SystemWords(const std::string& reason) {
  constexpr absl::string_view kBefore = "error message = '";
  const size_t begin = reason.find(kBefore.data(), 0, kBefore.size());
  if (begin == std::string::npos) return reason;
  const size_t end = reason.find('\'', begin + kBefore.size());
  return reason.substr(begin + kBefore.size(), end - begin - kBefore.size());
}

// Call right after the failure, with the lock held.
absl::Status LibraryError(const std::string& where, absl::string_view operation) {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_DOWNWARD, KeepInnermost, &reason);
  const std::string text = absl::StrCat(where, ": cannot ", operation, ": ",
                                        reason.empty() ? "HDF5 error" : SystemWords(reason));
  if (reason.find("No space left") != std::string::npos ||
      reason.find("File too large") != std::string::npos ||
      reason.find("Disk quota") != std::string::npos) {
    return absl::ResourceExhaustedError(
        absl::StrCat(text, "; free space (or raise the limit) and run again"));
  }
  return absl::DataLossError(text);
}

hid_t NativeType(StoredType type) {
  switch (type) {
    case StoredType::kUint8:
      return H5T_STD_U8LE;
    case StoredType::kUint16:
      return H5T_STD_U16LE;
    case StoredType::kUint32:
      return H5T_STD_U32LE;
    case StoredType::kUint64:
      return H5T_STD_U64LE;
    case StoredType::kInt32:
      return H5T_STD_I32LE;
    case StoredType::kInt64:
      return H5T_STD_I64LE;
    case StoredType::kFloat32:
      return H5T_IEEE_F32LE;
    case StoredType::kFloat64:
      return H5T_IEEE_F64LE;
  }
  return -1;
}

constexpr StoredType kAllTypes[] = {StoredType::kUint8,   StoredType::kUint16, StoredType::kUint32,
                                    StoredType::kUint64,  StoredType::kInt32,  StoredType::kInt64,
                                    StoredType::kFloat32, StoredType::kFloat64};

std::vector<hsize_t> Dims(absl::Span<const int64_t> dims) {
  return std::vector<hsize_t>(dims.begin(), dims.end());
}

absl::Status CheckDims(const std::string& where, absl::Span<const int64_t> dims) {
  if (dims.empty() || dims.size() > H5S_MAX_RANK ||
      std::any_of(dims.begin(), dims.end(), [](int64_t dim) { return dim < 0; })) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": found dims [",
                                                   absl::StrJoin(dims, ", "),
                                                   "], expected 1 to 32 of them, none negative"));
  }
  return absl::OkStatus();
}

hid_t SpaceOf(absl::Span<const int64_t> dims) {
  const std::vector<hsize_t> extents = Dims(dims);
  return H5Screate_simple(static_cast<int>(extents.size()), extents.data(), nullptr);
}

// Selects rows [begin, begin + count) of a dataspace that has these dims; of them, `columns` from
// `column_begin` on, unless `columns` is 0.
bool SelectRows(hid_t space, absl::Span<const int64_t> dims, int64_t begin, int64_t count,
                int64_t column_begin = 0, int64_t columns = 0) {
  std::vector<hsize_t> start(dims.size(), 0);
  std::vector<hsize_t> extent = Dims(dims);
  start[0] = static_cast<hsize_t>(begin);
  extent[0] = static_cast<hsize_t>(count);
  if (columns != 0) {
    start[1] = static_cast<hsize_t>(column_begin);
    extent[1] = static_cast<hsize_t>(columns);
  }
  return H5Sselect_hyperslab(space, H5S_SELECT_SET, start.data(), nullptr, extent.data(),
                             nullptr) >= 0;
}

hid_t AccessList() {
  const hid_t list = H5Pcreate(H5P_FILE_ACCESS);
  if (list < 0) return list;
  H5Pset_fclose_degree(list, H5F_CLOSE_STRONG);  // Close leaves nothing open and unflushed
  H5Pset_file_locking(list, false, true);
  return list;
}

hid_t LinkList() {
  const hid_t list = H5Pcreate(H5P_LINK_CREATE);
  if (list >= 0) H5Pset_create_intermediate_group(list, 1);
  return list;
}

}  // namespace

int64_t SizeOf(StoredType type) {
  switch (type) {
    case StoredType::kUint8:
      return 1;
    case StoredType::kUint16:
      return 2;
    case StoredType::kUint32:
    case StoredType::kInt32:
    case StoredType::kFloat32:
      return 4;
    case StoredType::kUint64:
    case StoredType::kInt64:
    case StoredType::kFloat64:
      return 8;
  }
  return 0;
}

const char* Name(StoredType type) {
  switch (type) {
    case StoredType::kUint8:
      return "uint8";
    case StoredType::kUint16:
      return "uint16";
    case StoredType::kUint32:
      return "uint32";
    case StoredType::kUint64:
      return "uint64";
    case StoredType::kInt32:
      return "int32";
    case StoredType::kInt64:
      return "int64";
    case StoredType::kFloat32:
      return "float32";
    case StoredType::kFloat64:
      return "float64";
  }
  return "unknown";
}

Hdf5Dataset::Hdf5Dataset(int64_t id, std::string where, StoredType type, std::vector<int64_t> dims)
    : id_(id), where_(std::move(where)), type_(type), dims_(std::move(dims)) {}

Hdf5Dataset::Hdf5Dataset(Hdf5Dataset&& other) noexcept
    : id_(std::exchange(other.id_, -1)),
      where_(std::move(other.where_)),
      type_(other.type_),
      dims_(std::move(other.dims_)) {}

Hdf5Dataset& Hdf5Dataset::operator=(Hdf5Dataset&& other) noexcept {
  std::swap(id_, other.id_);
  where_ = std::move(other.where_);
  type_ = other.type_;
  dims_ = std::move(other.dims_);
  return *this;
}

Hdf5Dataset::~Hdf5Dataset() {
  const LibraryLock lock;
  if (id_ >= 0 && H5Iis_valid(id_) > 0) H5Dclose(id_);
}

int64_t Hdf5Dataset::row_size() const {
  int64_t size = 1;
  for (size_t axis = 1; axis < dims_.size(); ++axis) size *= dims_[axis];
  return size;
}

absl::Status Hdf5Dataset::CheckRange(StoredType type, int64_t begin, int64_t count) const {
  if (type != type_) {
    return absl::InvalidArgumentError(
        absl::StrCat(where_, ": holds ", Name(type_), ", expected ", Name(type)));
  }
  if (begin < 0 || count < 0 || begin > rows() || count > rows() - begin) {
    return absl::OutOfRangeError(absl::StrCat(where_, ": asked for rows [", begin, ", ",
                                              begin + count, "), the dataset has ", rows()));
  }
  return absl::OkStatus();
}

absl::Status Hdf5Dataset::Write(StoredType type, int64_t begin, int64_t count, const void* data) {
  RETURN_IF_ERROR(CheckRange(type, begin, count));
  if (count * row_size() == 0) return absl::OkStatus();
  const LibraryLock lock;
  std::vector<int64_t> block = dims_;
  block[0] = count;
  const Handle file_space(SpaceOf(dims_), H5Sclose);
  const Handle memory_space(SpaceOf(block), H5Sclose);
  if (!file_space.ok() || !memory_space.ok() ||
      !SelectRows(file_space.get(), dims_, begin, count) ||
      H5Dwrite(id_, NativeType(type), memory_space.get(), file_space.get(), H5P_DEFAULT, data) <
          0) {
    return LibraryError(where_, "write");
  }
  return absl::OkStatus();
}

absl::Status Hdf5Dataset::Read(StoredType type, int64_t begin, int64_t count, void* data) const {
  RETURN_IF_ERROR(CheckRange(type, begin, count));
  if (count * row_size() == 0) return absl::OkStatus();
  const LibraryLock lock;
  std::vector<int64_t> block = dims_;
  block[0] = count;
  const Handle file_space(SpaceOf(dims_), H5Sclose);
  const Handle memory_space(SpaceOf(block), H5Sclose);
  if (!file_space.ok() || !memory_space.ok() ||
      !SelectRows(file_space.get(), dims_, begin, count) ||
      H5Dread(id_, NativeType(type), memory_space.get(), file_space.get(), H5P_DEFAULT, data) < 0) {
    return LibraryError(where_, "read");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Hdf5Dataset::FileOffset() const {
  const LibraryLock lock;
  const haddr_t offset = H5Dget_offset(id_);
  if (offset == HADDR_UNDEF) return LibraryError(where_, "tell where the data lies");
  return static_cast<int64_t>(offset);
}

Hdf5File::Hdf5File(int64_t id, std::string path) : id_(id), path_(std::move(path)) {}

Hdf5File::Hdf5File(Hdf5File&& other) noexcept
    : id_(std::exchange(other.id_, -1)), path_(std::move(other.path_)) {}

Hdf5File& Hdf5File::operator=(Hdf5File&& other) noexcept {
  std::swap(id_, other.id_);
  std::swap(path_, other.path_);
  return *this;
}

Hdf5File::~Hdf5File() {
  const LibraryLock lock;
  if (id_ >= 0) H5Fclose(id_);
}

std::string Hdf5File::Where(const std::string& object) const {
  return absl::StrCat(path_, ": ", object);
}

absl::StatusOr<Hdf5File> Hdf5File::Create(const std::string& path) {
  const LibraryLock lock;
  const Handle access(AccessList(), H5Pclose);
  const hid_t id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access.get());
  if (id < 0) return LibraryError(path, "create the HDF5 file");
  return Hdf5File(id, path);
}

absl::StatusOr<Hdf5File> Hdf5File::OpenForReading(const std::string& path) {
  RETURN_IF_ERROR(FileSize(path).status());  // plain words for a missing file or a directory
  const LibraryLock lock;
  const Handle access(AccessList(), H5Pclose);
  const hid_t id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get());
  if (id < 0) return LibraryError(path, "open as an HDF5 file");
  return Hdf5File(id, path);
}

absl::Status Hdf5File::Close() {
  if (id_ < 0) return absl::OkStatus();
  const LibraryLock lock;
  if (H5Fclose(std::exchange(id_, -1)) < 0) return LibraryError(path_, "finish writing");
  return absl::OkStatus();
}

absl::Status Hdf5File::CreateGroup(const std::string& name) {
  const LibraryLock lock;
  const Handle links(LinkList(), H5Pclose);
  const Handle group(H5Gcreate2(id_, name.c_str(), links.get(), H5P_DEFAULT, H5P_DEFAULT),
                     H5Gclose);
  if (!group.ok()) return LibraryError(Where(name), "create the group");
  return absl::OkStatus();
}

absl::StatusOr<Hdf5Dataset> Hdf5File::CreateDataset(const std::string& name, StoredType type,
                                                    absl::Span<const int64_t> dims) {
  const std::string where = Where(absl::StrCat("dataset ", name));
  RETURN_IF_ERROR(CheckDims(where, dims));
  const LibraryLock lock;
  const Handle space(SpaceOf(dims), H5Sclose);
  const Handle links(LinkList(), H5Pclose);
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  if (!space.ok() || !links.ok() || !creation.ok() ||
      H5Pset_layout(creation.get(), H5D_CONTIGUOUS) < 0 ||
      H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY) < 0 ||
      H5Pset_obj_track_times(creation.get(), false) < 0 ||  // the same data gives the same bytes
      H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER) < 0) {
    return LibraryError(where, "create");
  }
  const hid_t id = H5Dcreate2(id_, name.c_str(), NativeType(type), space.get(), links.get(),
                              creation.get(), H5P_DEFAULT);
  if (id < 0) return LibraryError(where, "create");
  return Hdf5Dataset(id, where, type, std::vector<int64_t>(dims.begin(), dims.end()));
}

absl::StatusOr<Hdf5Dataset> Hdf5File::OpenDataset(const std::string& name) const {
  const std::string where = Where(absl::StrCat("dataset ", name));
  const LibraryLock lock;
  Handle dataset(H5Dopen2(id_, name.c_str(), H5P_DEFAULT), H5Dclose);
  if (!dataset.ok()) return LibraryError(where, "open");
  const Handle stored(H5Dget_type(dataset.get()), H5Tclose);
  const Handle space(H5Dget_space(dataset.get()), H5Sclose);
  if (!stored.ok() || !space.ok()) return LibraryError(where, "read the type and shape");
  const StoredType* const type = std::find_if(
      std::begin(kAllTypes), std::end(kAllTypes),
      [&](StoredType candidate) { return H5Tequal(stored.get(), NativeType(candidate)) > 0; });
  if (type == std::end(kAllTypes)) {
    return absl::DataLossError(absl::StrCat(
        where, ": has a type that no file of ours has; expected a little-endian integer or float"));
  }
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 1) return absl::DataLossError(absl::StrCat(where, ": is a scalar, expected an array"));
  std::vector<hsize_t> extents(static_cast<size_t>(rank));
  if (H5Sget_simple_extent_dims(space.get(), extents.data(), nullptr) < 0) {
    return LibraryError(where, "read the shape");
  }
  std::vector<int64_t> dims;
  for (const hsize_t extent : extents) dims.push_back(static_cast<int64_t>(extent));
  return Hdf5Dataset(dataset.release(), where, *type, std::move(dims));
}

bool Hdf5File::HasObject(const std::string& name) const {
  const LibraryLock lock;
  const Handle object(H5Oopen(id_, name.c_str(), H5P_DEFAULT), H5Oclose);
  return object.ok();
}

absl::StatusOr<std::vector<std::string>> Hdf5File::ListGroup(const std::string& name) const {
  const LibraryLock lock;
  const Handle group(H5Gopen2(id_, name.c_str(), H5P_DEFAULT), H5Gclose);
  H5G_info_t info = {};
  if (!group.ok() || H5Gget_info(group.get(), &info) < 0) {
    return LibraryError(Where(name), "list the group");
  }
  std::vector<std::string> names;
  for (hsize_t index = 0; index < info.nlinks; ++index) {
    const auto name_at = [&](char* text, size_t size) {
      return H5Lget_name_by_idx(group.get(), ".", H5_INDEX_NAME, H5_ITER_INC, index, text, size,
                                H5P_DEFAULT);
    };
    const ssize_t length = name_at(nullptr, 0);
    if (length < 0) return LibraryError(Where(name), "list the group");
    std::string link(static_cast<size_t>(length) + 1, '\0');  // HDF5 ends it with a NUL
    if (name_at(link.data(), link.size()) < 0) return LibraryError(Where(name), "list the group");
    link.pop_back();
    names.push_back(std::move(link));
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status Hdf5File::CreateVirtualDataset(const std::string& name, StoredType type,
                                            absl::Span<const int64_t> dims,
                                            absl::Span<const VirtualSource> sources) {
  const std::string where = Where(absl::StrCat("virtual dataset ", name));
  RETURN_IF_ERROR(CheckDims(where, dims));
  const LibraryLock lock;
  const Handle space(SpaceOf(dims), H5Sclose);
  const Handle links(LinkList(), H5Pclose);
  const Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  if (!space.ok() || !links.ok() || !creation.ok()) return LibraryError(where, "create");
  for (const VirtualSource& source : sources) {
    std::vector<int64_t> source_dims(dims.begin(), dims.end());
    source_dims[0] = source.source_rows;
    if (source.columns != 0 && dims.size() != 2) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": found columns of ", dims.size(), " axes, expected 2"));
    }
    if (source.columns != 0) source_dims[1] = source.columns;
    const Handle source_space(SpaceOf(source_dims), H5Sclose);
    if (!source_space.ok() ||
        !SelectRows(source_space.get(), source_dims, source.source_begin, source.count) ||
        !SelectRows(space.get(), dims, source.target_begin, source.count, source.column_begin,
                    source.columns) ||
        H5Pset_virtual(creation.get(), space.get(), source.file.c_str(), source.dataset.c_str(),
                       source_space.get()) < 0) {
      return LibraryError(where, absl::StrCat("map ", source.dataset, " of ", source.file));
    }
  }
  H5Sselect_all(space.get());
  const Handle dataset(H5Dcreate2(id_, name.c_str(), NativeType(type), space.get(), links.get(),
                                  creation.get(), H5P_DEFAULT),
                       H5Dclose);
  if (!dataset.ok()) return LibraryError(where, "create");
  return absl::OkStatus();
}

absl::Status Hdf5File::SetString(const std::string& object, const std::string& attribute,
                                 const std::string& value) {
  const std::string where = Where(absl::StrCat(object, " attribute ", attribute));
  constexpr size_t kMostBytes = 60000;
  if (value.size() > kMostBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": has ", value.size(), " bytes, at most ", kMostBytes, " fit"));
  }
  const LibraryLock lock;
  const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  if (!type.ok() || !space.ok() || H5Tset_size(type.get(), value.size() + 1) < 0) {
    return LibraryError(where, "create");
  }
  const Handle created(H5Acreate_by_name(id_, object.c_str(), attribute.c_str(), type.get(),
                                         space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                       H5Aclose);
  if (!created.ok() || H5Awrite(created.get(), type.get(), value.c_str()) < 0) {
    return LibraryError(where, "write");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Hdf5File::GetString(const std::string& object,
                                                const std::string& attribute) const {
  const std::string where = Where(absl::StrCat(object, " attribute ", attribute));
  const LibraryLock lock;
  const Handle found(
      H5Aopen_by_name(id_, object.c_str(), attribute.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!found.ok()) return LibraryError(where, "open");
  const Handle type(H5Aget_type(found.get()), H5Tclose);
  const Handle space(H5Aget_space(found.get()), H5Sclose);
  if (!type.ok() || !space.ok()) return LibraryError(where, "read the type");
  if (H5Tget_class(type.get()) != H5T_STRING || H5Tis_variable_str(type.get()) != 0 ||
      H5Sget_simple_extent_npoints(space.get()) != 1) {
    return absl::DataLossError(absl::StrCat(where, ": expected one string of fixed size"));
  }
  std::string value(H5Tget_size(type.get()), '\0');
  if (value.empty() || H5Aread(found.get(), type.get(), value.data()) < 0) {
    return LibraryError(where, "read");
  }
  value.pop_back();  // the terminator
  return value;
}

absl::Status Hdf5File::SetInteger(const std::string& object, const std::string& attribute,
                                  int64_t value) {
  const std::string where = Where(absl::StrCat(object, " attribute ", attribute));
  const LibraryLock lock;
  const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Handle created(H5Acreate_by_name(id_, object.c_str(), attribute.c_str(), H5T_STD_I64LE,
                                         space.get(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT),
                       H5Aclose);
  if (!created.ok() || H5Awrite(created.get(), H5T_NATIVE_INT64, &value) < 0) {
    return LibraryError(where, "write");
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> Hdf5File::GetInteger(const std::string& object,
                                             const std::string& attribute) const {
  const std::string where = Where(absl::StrCat(object, " attribute ", attribute));
  const LibraryLock lock;
  const Handle found(
      H5Aopen_by_name(id_, object.c_str(), attribute.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  if (!found.ok()) return LibraryError(where, "open");
  const Handle type(H5Aget_type(found.get()), H5Tclose);
  const Handle space(H5Aget_space(found.get()), H5Sclose);
  if (!type.ok() || !space.ok()) return LibraryError(where, "read the type");
  if (H5Tget_class(type.get()) != H5T_INTEGER || H5Sget_simple_extent_npoints(space.get()) != 1) {
    return absl::DataLossError(absl::StrCat(where, ": expected one integer"));
  }
  int64_t value = 0;
  if (H5Aread(found.get(), H5T_NATIVE_INT64, &value) < 0) return LibraryError(where, "read");
  return value;
}

}  // namespace salamander
