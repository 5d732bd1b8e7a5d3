// Bump allocator for everything a step needs, so that a step makes no allocation call. On the CPU
// the address range is reserved at setup and memory is committed on first touch: a generous
// capacity costs nothing. On a device the memory itself is taken at setup.
#ifndef KERNELS_BASE_ARENA_H_
#define KERNELS_BASE_ARENA_H_

#include <cstdint>
#include <initializer_list>

#include "absl/status/statusor.h"

#include "kernels/base/tensor_view.h"

namespace salamander {

class Arena {
 public:
  // Four cache lines: what the widest loads, bulk copies and libraries of any device ask for.
  static constexpr int64_t kAlignment = 256;

  // Reserves `capacity_bytes` of the host's address space. Fails where the system refuses the
  // reservation.
  static absl::StatusOr<Arena> Reserve(int64_t capacity_bytes);

  // Takes over memory of any device; `release(base, capacity_bytes)` gives it back at the end.
  // Requires: base is aligned to kAlignment.
  using Release = void (*)(void* base, int64_t capacity_bytes);
  static Arena Adopt(void* base, int64_t capacity_bytes, Release release) {
    return Arena(static_cast<char*>(base), capacity_bytes, release);
  }

  // Addresses without memory behind them, as many as are asked for: for finding out how many that
  // is (DeviceSession::Plan).
  static Arena Planned();

  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena();

  // Uninitialised memory. Running past the capacity is fatal: whoever sized the arena was wrong
  // about what a step needs.
  void* Allocate(int64_t bytes);
  TensorView Tensor(DType dtype, std::initializer_list<int64_t> dims);
  template <typename Element>
  Element* Array(int64_t count) {
    return static_cast<Element*>(Allocate(count * static_cast<int64_t>(sizeof(Element))));
  }

  int64_t used_bytes() const { return used_; }
  int64_t peak_bytes() const { return peak_; }  // the most in use since ForgetPeak
  void ForgetPeak() { peak_ = used_; }
  int64_t capacity_bytes() const { return capacity_; }
  void RewindTo(int64_t used_bytes) { used_ = used_bytes; }

 private:
  Arena(char* base, int64_t capacity, Release release)
      : base_(base), capacity_(capacity), release_(release) {}

  char* base_ = nullptr;
  int64_t capacity_ = 0;
  Release release_ = nullptr;
  int64_t used_ = 0;
  int64_t peak_ = 0;
};

// Gives back on destruction everything allocated since construction.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.used_bytes()) {}
  ~ArenaScope() { arena_.RewindTo(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  int64_t mark_;
};

}  // namespace salamander

#endif  // KERNELS_BASE_ARENA_H_
