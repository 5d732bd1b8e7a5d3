#include "trainer/bench/bench.h"

#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "trainer/bench/op_cases.h"

namespace salamander {
namespace {

// A hybrid whose every op is small, its sparse layers past their dense length.
ModelConfig BenchedConfig() {
  ModelConfig config = TinyHybridConfig(2, {0});
  config.softmax.use_sparse = true;
  config.softmax.sparse = TinySparseConfig();
  return config;
}

struct Bench {
  std::unique_ptr<DeviceSession> session = *DeviceSession::Open({});
  Arena tensors = *session->Reserve(int64_t{1} << 30);
  Arena scratch = *session->Reserve(int64_t{1} << 30);
  Ceilings ceilings{.flops_per_second = 1e12, .bytes_per_second = 1e11};

  BenchMemory memory() { return {*session, tensors, scratch}; }
};

TEST(BenchTest, EveryCaseRunsAndGivesBackItsMemory) {
  Bench bench;
  const auto rows =
      BenchOps(bench.memory(), bench.ceilings,
               {.config = BenchedConfig(), .tokens = 200, .only = "", .repetitions = 2});
  ASSERT_TRUE(rows.ok()) << rows.status().ToString();
  EXPECT_EQ(rows->size(), OpCases(BenchedConfig(), 200).size());
  for (const BenchRow& row : *rows) {
    EXPECT_GT(row.seconds, 0) << row.name;
    EXPECT_GT(row.flops + row.bytes, 0) << row.name;
    EXPECT_GT(row.share_of_ceiling, 0) << row.name;
  }
  EXPECT_EQ(bench.tensors.used_bytes(), 0);
  EXPECT_EQ(bench.scratch.used_bytes(), 0);
}

TEST(BenchTest, OnlyTheNamedOpsRun) {
  Bench bench;
  const auto rows =
      BenchOps(bench.memory(), bench.ceilings,
               {.config = BenchedConfig(), .tokens = 64, .only = "^lightning", .repetitions = 1});
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 2U);
  for (const BenchRow& row : *rows) EXPECT_EQ(row.name.rfind("lightning", 0), 0U) << row.name;
}

TEST(BenchTest, AStepRunsWhateverIsComputedAgain) {
  for (const Recomputation what :
       {Recomputation::kNone, Recomputation::kAttention, Recomputation::kFull}) {
    Bench bench;
    const auto row = BenchStep(bench.memory(), bench.ceilings,
                               {.config = BenchedConfig(),
                                .tokens = 200,
                                .only = "",
                                .repetitions = 1,
                                .recomputation = what});
    ASSERT_TRUE(row.ok()) << row.status().ToString();
    EXPECT_GT(row->flops, 0);
    EXPECT_EQ(bench.tensors.used_bytes(), 0);
  }
}

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

TEST(BenchTest, TheMedianOfAnEvenNumberIsBetweenTheMiddleTwo) {
  EXPECT_EQ(Median({3.0, 1.0, 2.0}), 2.0);
  EXPECT_EQ(Median({4.0, 1.0, 2.0, 10.0}), 3.0);
}

}  // namespace
}  // namespace salamander
