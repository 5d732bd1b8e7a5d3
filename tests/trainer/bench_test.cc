#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/model/tiny_model.h"
#include "trainer/bench/cases/block_lists.h"
#include "trainer/bench/cases/op_cases.h"
#include "trainer/bench/generation_bench.h"
#include "trainer/bench/op_bench.h"
#include "trainer/bench/step_bench.h"

namespace salamander {
namespace {

using testing::HasSubstr;

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
  RandomModel Model() { return *RandomModel::Create(BenchedConfig(), *session, scratch); }
};

absl::StatusOr<std::vector<BenchRow>> RunOps(Bench& bench, int64_t tokens,
                                             const std::string& only) {
  return BenchOps(
      bench.memory(), bench.ceilings,
      {.config = BenchedConfig(), .tokens = tokens, .only = *OnlyPattern(only), .repetitions = 2});
}

TEST(BenchTest, EveryCaseRunsAndGivesBackItsMemory) {
  Bench bench;
  const auto rows = RunOps(bench, 200, "");
  ASSERT_TRUE(rows.ok()) << rows.status().ToString();
  EXPECT_EQ(rows->size(), OpCases(CaseStream::Of(BenchedConfig(), {200})).size());
  for (const BenchRow& row : *rows) {
    EXPECT_GT(row.seconds, 0) << row.name;
    EXPECT_GT(row.work.bytes, 0) << row.name;
    EXPECT_GT(row.share_of_ceiling, 0) << row.name;
  }
  EXPECT_EQ(bench.tensors.used_bytes(), 0);
  EXPECT_EQ(bench.scratch.used_bytes(), 0);
}

TEST(BenchTest, EveryCaseRunsOnRaggedDocuments) {
  Bench bench;
  const CaseStream stream = CaseStream::Of(BenchedConfig(), {1, 70, 9, 33});
  const ExecutionContext context = bench.session->Context(bench.scratch);
  for (const OpCase& op_case : OpCases(stream)) {
    const ArenaScope scope(bench.tensors);
    RandomTensors random(context, bench.tensors, DType::kFloat32);
    const OpRun prepared = op_case.prepare(random);
    ASSERT_TRUE(random.status().ok()) << op_case.name;
    EXPECT_TRUE(prepared.run(context).ok()) << op_case.name;
    EXPECT_FALSE(prepared.results.empty()) << op_case.name;
  }
}

TEST(BenchTest, OnlyTheNamedOpsRun) {
  Bench bench;
  const auto rows = RunOps(bench, 64, "^lightning");
  ASSERT_TRUE(rows.ok());
  ASSERT_EQ(rows->size(), 2U);
  for (const BenchRow& row : *rows) EXPECT_EQ(row.name.rfind("lightning", 0), 0U) << row.name;
}

TEST(BenchTest, APatternThatIsNoneIsNamed) {
  const absl::Status status = OnlyPattern("swiglu(").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--only 'swiglu('"));
}

TEST(BenchTest, AStepRunsWhateverIsComputedAgain) {
  Bench bench;
  const RandomModel model = bench.Model();
  for (const Recomputation what :
       {Recomputation::kNone, Recomputation::kAttention, Recomputation::kFull}) {
    const auto row = BenchStep(bench.memory(), bench.ceilings, model,
                               {.tokens = 200, .recomputation = what, .repetitions = 1});
    ASSERT_TRUE(row.ok()) << row.status().ToString();
    EXPECT_GT(row->work.flops, 0);
    EXPECT_EQ(row->work.tokens, 200);
    EXPECT_EQ(bench.tensors.used_bytes(), 0);
  }
}

TEST(BenchTest, DecodingIsTimedOpByOpAndReplayed) {
  Bench bench;
  const RandomModel model = bench.Model();
  const ExecutionContext context = bench.session->Context(bench.scratch);
  const auto rows = BenchDecode({*bench.session, context, model.transformer()}, bench.ceilings,
                                {.sequences = 3, .length = 100, .steps = 2});
  ASSERT_TRUE(rows.ok()) << rows.status().ToString();
  ASSERT_EQ(rows->size(), 2U);
  EXPECT_EQ((*rows)[0].name, "decode, op by op");
  EXPECT_EQ((*rows)[1].name, "decode, replayed");
  for (const BenchRow& row : *rows) {
    EXPECT_GT(row.seconds, 0);
    EXPECT_EQ(row.work.tokens, 3);
    EXPECT_EQ(row.work.bytes, DecodeStepBytes(BenchedConfig(), DType::kFloat32, 3, 100));
  }
  EXPECT_EQ(bench.scratch.used_bytes(), 0);
}

TEST(BenchTest, AStepReadsItsWeightsOnceAndItsKeysForEverySequence) {
  // Width 16, 4 heads of 8 with 2 KV heads, vocabulary 24.
  const ModelConfig dense = TinyDenseConfig(1);
  const double weights = static_cast<double>(ParameterLayout(dense).parameter_count() - 24 * 16);
  EXPECT_EQ(DecodeStepBytes(dense, DType::kBFloat16, 5, 99),
            2 * weights + 5.0 * (2 * 100 * 2 * 8) * 2);
}

TEST(BenchTest, AStepReadsSelectedAndPooledKeysWhereAttentionIsSparse) {
  ModelConfig sparse = BenchedConfig();
  sparse.softmax.sparse.dense_length = 64;
  ModelConfig dense = sparse;
  dense.softmax.use_sparse = false;
  const auto bytes = [](const ModelConfig& config, int64_t length) {
    return DecodeStepBytes(config, DType::kFloat32, 1, length);
  };
  EXPECT_LT(bytes(sparse, 100000), bytes(dense, 100000));
  const int64_t short_of_sparse = sparse.softmax.sparse.dense_length - 2;
  EXPECT_EQ(bytes(sparse, short_of_sparse), bytes(dense, short_of_sparse));
}

TEST(BenchTest, APromptRuns) {
  Bench bench;
  const RandomModel model = bench.Model();
  const ExecutionContext context = bench.session->Context(bench.scratch);
  const auto row =
      BenchPrefill({*bench.session, context, model.transformer()}, bench.ceilings, 150, 2);
  ASSERT_TRUE(row.ok()) << row.status().ToString();
  EXPECT_GT(row->seconds, 0);
  EXPECT_EQ(row->work.tokens, 150);
  EXPECT_EQ(bench.scratch.used_bytes(), 0);
}

TEST(BenchTest, MadeUpListsAscendAndHoldTheForcedBlocks) {
  const SparseConfig sparse = TinySparseConfig();
  const int64_t selected = sparse.selected_blocks();
  const CaseStream stream = CaseStream::Of(BenchedConfig(), {90, 200});
  for (const double shared : {0.0, 0.87, 1.0}) {
    const std::vector<int32_t> lists = MadeUpBlockLists(sparse, stream.segments, 2, shared);
    ASSERT_EQ(static_cast<int64_t>(lists.size()), 290 * 2 * selected);
    for (int64_t row = 0; row < 290 * 2; ++row) {
      const int64_t position = row / 2 < 90 ? row / 2 : row / 2 - 90;
      const auto own = static_cast<int32_t>(position / sparse.block_size);
      const auto begin = lists.begin() + row * selected;
      const auto end = std::find(begin, begin + selected, -1);
      ASSERT_TRUE(std::is_sorted(begin, end, std::less_equal<>())) << "row " << row;
      ASSERT_EQ(*begin, 0);
      ASSERT_EQ(*(end - 1), own);
      ASSERT_EQ(end - begin, std::min<int64_t>(own + 1, selected)) << "row " << row;
    }
  }
}

TEST(BenchTest, RowsComeAsJsonWithTheirOrigin) {
  const Ceilings ceilings{.flops_per_second = 4.0, .bytes_per_second = 8.0};
  const BenchRow row = RowOf("decode", "1 x 2", {.flops = 0.0, .bytes = 16.0, .tokens = 3.0},
                             {5.0, 4.0, 3.0}, ceilings);
  EXPECT_EQ(row.seconds, 4.0);
  EXPECT_EQ(row.spread, 0.5);
  EXPECT_EQ(row.share_of_ceiling, 0.5);
  const auto json =
      nlohmann::json::parse(JsonText({.device = "some GPU",
                                      .clocks = {.core_hertz = 10, .memory_hertz = 20},
                                      .commit = "abc",
                                      .ceilings = ceilings},
                                     {row}));
  EXPECT_EQ(json["device"], "some GPU");
  EXPECT_EQ(json["core_hertz"], 10);
  EXPECT_EQ(json["memory_hertz"], 20);
  EXPECT_EQ(json["commit"], "abc");
  EXPECT_EQ(json["bytes_per_second"], 8.0);
  EXPECT_EQ(json["rows"][0]["tokens"], 3.0);
  EXPECT_EQ(json["rows"][0]["bytes"], 16.0);
}

}  // namespace
}  // namespace salamander
