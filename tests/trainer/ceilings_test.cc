#include "trainer/ceilings/ceilings.h"

#include <memory>

#include <gtest/gtest.h>

#include "tests/support/random_tensor.h"
#include "trainer/ceilings/random_tensors.h"

namespace salamander {
namespace {

TEST(CeilingsTest, TheProductShrinksToWhatTheArenaHas) {
  const std::unique_ptr<DeviceSession> session = *DeviceSession::Open({});
  for (const int64_t bytes : {int64_t{64} << 20, int64_t{4} << 20}) {
    Arena arena = *session->Reserve(bytes);
    const auto rate = MeasureProductRate(*session, session->Context(arena));
    ASSERT_TRUE(rate.ok()) << rate.status();
    EXPECT_GT(*rate, 0);
    EXPECT_EQ(arena.used_bytes(), 0);
  }
}

TEST(CeilingsTest, AnArenaTooSmallForAProductIsAnErrorAndNotTheEnd) {
  const std::unique_ptr<DeviceSession> session = *DeviceSession::Open({});
  Arena arena = *session->Reserve(int64_t{1} << 20);
  const auto rate = MeasureProductRate(*session, session->Context(arena));
  EXPECT_EQ(rate.status().code(), absl::StatusCode::kResourceExhausted) << rate.status();
}

TEST(CeilingsTest, TheMedianOfAnEvenNumberIsBetweenTheMiddleTwo) {
  EXPECT_EQ(Median({3.0, 1.0, 2.0}), 2.0);
  EXPECT_EQ(Median({4.0, 1.0, 2.0, 10.0}), 3.0);
}

TEST(RandomTensorsTest, ActivationsAreNormalAndNoTwoAlike) {
  const std::unique_ptr<DeviceSession> session = *DeviceSession::Open({});
  Arena arena = *session->Reserve(int64_t{64} << 20);
  const ExecutionContext context = session->Context(arena);
  RandomTensors random(context, arena, DType::kFloat32);
  const TensorView a = random.Activation({100000}, 0.5), b = random.Activation({100000}, 0.5);
  ASSERT_TRUE(random.status().ok()) << random.status();
  EXPECT_NEAR(Dot(a, a) / 100000, 0.25, 0.01);
  EXPECT_NEAR(Dot(b, b) / 100000, 0.25, 0.01);
  EXPECT_NEAR(Dot(a, b) / 100000, 0.0, 0.01);
}

TEST(RandomTensorsTest, ValuesAreTheSameInEveryType) {
  const std::unique_ptr<DeviceSession> session = *DeviceSession::Open({});
  Arena arena = *session->Reserve(int64_t{64} << 20);
  const ExecutionContext context = session->Context(arena);
  RandomTensors wide(context, arena, DType::kFloat32), narrow(context, arena, DType::kBFloat16);
  const TensorView a = wide.Activation({1000}), b = narrow.Activation({1000});
  EXPECT_EQ(MaxAbsDifference(a, b), 0.0);
}

}  // namespace
}  // namespace salamander
