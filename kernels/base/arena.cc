#include "kernels/base/arena.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/mman.h>

#include "absl/strings/str_cat.h"

namespace salamander {
namespace {

void Unmap(void* base, int64_t capacity_bytes) {
  munmap(base, static_cast<size_t>(capacity_bytes));
}

}  // namespace

absl::StatusOr<Arena> Arena::Reserve(int64_t capacity_bytes) {
  void* base = mmap(nullptr, static_cast<size_t>(capacity_bytes), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "cannot reserve ", capacity_bytes, " bytes of address space: ", std::strerror(errno),
        "; lower the tokens per micro-batch or raise `ulimit -v`"));
  }
  return Adopt(base, capacity_bytes, Unmap);
}

Arena Arena::Planned() {
  constexpr int64_t kNoLimit = int64_t{1} << 56;  // of an address on any device
  return Adopt(reinterpret_cast<void*>(kAlignment), kNoLimit, [](void*, int64_t) {});
}

Arena::Arena(Arena&& other) noexcept {
  *this = std::move(other);
}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(capacity_, other.capacity_);
  std::swap(release_, other.release_);
  std::swap(used_, other.used_);
  std::swap(peak_, other.peak_);
  return *this;
}

Arena::~Arena() {
  if (base_ != nullptr) release_(base_, capacity_);
}

void* Arena::Allocate(int64_t bytes) {
  const int64_t aligned = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  SALAMANDER_CHECK(used_ + aligned <= capacity_)
      << "arena of " << capacity_ << " bytes has " << used_ << " in use and was asked for " << bytes
      << "; use shorter sequences or smaller batches";
  void* memory = base_ + used_;
  used_ += aligned;
  peak_ = std::max(peak_, used_);
  return memory;
}

TensorView Arena::Tensor(DType dtype, std::initializer_list<int64_t> dims) {
  int64_t bytes = static_cast<int64_t>(SizeOf(dtype));
  for (const int64_t dim : dims) bytes *= dim;
  // A tensor of no rows still has an address, so that it is not taken for "not given".
  return TensorView(Allocate(std::max<int64_t>(bytes, 1)), dtype, dims);
}

}  // namespace salamander
