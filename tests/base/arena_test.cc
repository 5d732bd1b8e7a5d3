#include "kernels/base/arena.h"

#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/status/statusor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace salamander {
namespace {

Arena ReserveArena(int64_t capacity_bytes) {
  absl::StatusOr<Arena> arena = Arena::Reserve(capacity_bytes);
  SALAMANDER_CHECK(arena.ok()) << arena.status().ToString();
  return *std::move(arena);
}

TEST(ArenaTest, AllocationsAreAlignedAndDisjoint) {
  Arena arena = ReserveArena(1 << 20);
  auto* first = static_cast<char*>(arena.Allocate(1));
  auto* second = static_cast<char*>(arena.Allocate(65));
  auto* third = arena.Array<double>(3);
  for (const void* address :
       {static_cast<void*>(first), static_cast<void*>(second), static_cast<void*>(third)}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(address) % Arena::kAlignment, 0U);
  }
  EXPECT_GE(second - first, 1);
  EXPECT_GE(reinterpret_cast<char*>(third) - second, 65);
  std::memset(first, 1, 1);
  std::memset(second, 2, 65);
  third[2] = 3.0;
  EXPECT_EQ(*first, 1);
  EXPECT_EQ(second[64], 2);
}

TEST(ArenaTest, ScopeGivesBackWhatItTookAndKeepsThePeak) {
  Arena arena = ReserveArena(1 << 20);
  arena.Allocate(100);
  const int64_t before = arena.used_bytes();
  {
    const ArenaScope outer(arena);
    arena.Allocate(1000);
    {
      const ArenaScope inner(arena);
      arena.Allocate(5000);
    }
    EXPECT_LT(arena.used_bytes(), before + 2000);
  }
  EXPECT_EQ(arena.used_bytes(), before);
  EXPECT_GE(arena.peak_bytes(), before + 6000);
}

TEST(ArenaTest, RewoundMemoryIsHandedOutAgain) {
  Arena arena = ReserveArena(1 << 20);
  const int64_t mark = arena.used_bytes();
  void* first = arena.Allocate(256);
  arena.RewindTo(mark);
  EXPECT_EQ(arena.Allocate(256), first);
}

TEST(ArenaTest, TensorOfNoRowsIsNotTheEmptyView) {
  Arena arena = ReserveArena(1 << 20);
  const TensorView tensor = arena.Tensor(DType::kFloat32, {0, 8});
  EXPECT_FALSE(tensor.empty());
  EXPECT_EQ(tensor.size(), 0);
}

TEST(ArenaTest, TensorHoldsItsElements) {
  Arena arena = ReserveArena(1 << 20);
  const TensorView tensor = arena.Tensor(DType::kFloat64, {3, 5});
  const TensorView next = arena.Tensor(DType::kFloat64, {1});
  EXPECT_GE(static_cast<char*>(next.raw()) - static_cast<char*>(tensor.raw()), tensor.bytes());
  EXPECT_EQ(tensor.ShapeString(), "float64[3, 5]");
}

TEST(ArenaTest, WholeCapacityIsUsable) {
  Arena arena = ReserveArena(4096);
  std::memset(arena.Allocate(4096), 7, 4096);
  EXPECT_EQ(arena.used_bytes(), arena.capacity_bytes());
}

TEST(ArenaTest, ReservationIsAddressSpaceNotMemory) {
  Arena arena = ReserveArena(int64_t{1} << 40);  // far more than any test machine has
  *arena.Array<int>(1) = 5;
  EXPECT_EQ(arena.capacity_bytes(), int64_t{1} << 40);
}

TEST(ArenaTest, ImpossibleReservationSaysWhatToDo) {
  const absl::StatusOr<Arena> arena = Arena::Reserve(std::numeric_limits<int64_t>::max());
  ASSERT_FALSE(arena.ok());
  EXPECT_EQ(arena.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(arena.status().message()), testing::HasSubstr("tokens per micro-batch"));
}

TEST(ArenaTest, MovedArenaOwnsTheMemory) {
  Arena source = ReserveArena(1 << 20);
  int* value = source.Array<int>(1);
  *value = 42;
  const Arena target = std::move(source);
  EXPECT_EQ(*value, 42);
  EXPECT_EQ(target.capacity_bytes(), 1 << 20);
  EXPECT_GT(target.used_bytes(), 0);
}

TEST(ArenaDeathTest, RunningPastTheCapacityIsFatal) {
  Arena arena = ReserveArena(4096);
  arena.Allocate(4000);
  EXPECT_DEATH(arena.Allocate(200), "arena of 4096 bytes has 4096 in use and was asked for 200");
}

}  // namespace
}  // namespace salamander
