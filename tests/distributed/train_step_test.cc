// On two ranks: a step gives what one rank gives, and a rank that fails fails all.
#include "trainer/step/train_step.h"

#include <chrono>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/string_view.h"

#include "kernels/base/status_macros.h"
#include "tests/distributed/world.h"
#include "tests/support/random_tensor.h"
#include "tests/trainer/step_problem.h"
#include "trainer/run/rank_times.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr BatchShape kBatch{.sequences = 4, .sequences_per_micro = 1};

std::vector<std::string> BytesOfAllRanks(const TensorView& view) {
  return *World().AllGather(
      absl::string_view(static_cast<const char*>(view.raw()), static_cast<size_t>(view.bytes())));
}

// The gradient of a batch is a sum of the same terms in another order: but for fp32 rounding, one
// rank and two agree. Adam divides an element by its own size, rounding and all, so later steps are
// compared by loss and norm.
TEST(TrainStepRanksTest, TwoRanksStepAsOneDoes) {
  ASSERT_EQ(World().size(), 2);
  StepProblem together(World()), single;
  for (int step = 0; step < 3; ++step) {
    const auto expected = single.Step(4 * step, kBatch);
    const auto actual = together.Step(4 * step, kBatch);
    ASSERT_TRUE(expected.ok()) << expected.status();
    ASSERT_TRUE(actual.ok()) << actual.status();
    EXPECT_EQ(actual->row_weights, expected->row_weights);
    EXPECT_NEAR(actual->loss, expected->loss, 1e-5 * expected->loss) << "step " << step;
    EXPECT_NEAR(actual->gradient_norm, expected->gradient_norm, 1e-4 * expected->gradient_norm);
    if (step == 0) {
      for (const ShardLayout::Piece& piece : together.optimizer().shard().pieces()) {
        const auto view = [&](const StepProblem& problem) {
          return problem.gradients().Flat().Rows(piece.flat_begin, piece.count);
        };
        EXPECT_LT(RelativeRmse(view(together), view(single)), 5e-6);
      }
    }
  }
}

TEST(TrainStepRanksTest, EveryRankHoldsTheSameWeightsBitForBit) {
  StepProblem problem(World());
  const std::vector<std::string> before = BytesOfAllRanks(problem.weights().Flat());
  for (int step = 0; step < 3; ++step) ASSERT_TRUE(problem.Step(4 * step, kBatch).ok());
  const std::vector<std::string> after = BytesOfAllRanks(problem.weights().Flat());
  EXPECT_TRUE(after[0] == after[1]);
  EXPECT_FALSE(after[0] == before[0]);
}

// However many micro-batches a step has, gradients and weights travel once.
TEST(TrainStepRanksTest, MicroBatchesAddNoTraffic) {
  StepProblem problem(World());
  const auto traffic_of = [&](int64_t sequences) {
    const Traffic before = problem.parallel().replicas().traffic();
    EXPECT_TRUE(problem.Step(0, {.sequences = sequences, .sequences_per_micro = 1}).ok());
    Traffic spent = problem.parallel().replicas().traffic();
    for (size_t kind = 0; kind < spent.size(); ++kind) {
      spent[kind].calls -= before[kind].calls;
      spent[kind].payload_bytes -= before[kind].payload_bytes;
    }
    return spent;
  };
  const Traffic traffic = traffic_of(2);
  EXPECT_EQ(traffic_of(8), traffic);
  const auto buckets = static_cast<int64_t>(problem.optimizer().shard().buckets().size());
  const int64_t bytes = problem.weights().Flat().bytes();
  for (const Collective kind : {Collective::kReduceScatter, Collective::kAllGather}) {
    EXPECT_EQ(traffic[static_cast<size_t>(kind)].calls, buckets) << Name(kind);
    EXPECT_EQ(traffic[static_cast<size_t>(kind)].payload_bytes, bytes) << Name(kind);
  }
  // The norm's square.
  EXPECT_EQ(traffic[static_cast<size_t>(Collective::kAllReduce)].payload_bytes, 8);
}

TEST(TrainStepRanksTest, TheSameRunTwiceGivesTheSameBits) {
  StepProblem first(World()), second(World());
  for (int step = 0; step < 2; ++step) {
    ASSERT_TRUE(first.Step(4 * step, kBatch).ok());
    ASSERT_TRUE(second.Step(4 * step, kBatch).ok());
  }
  EXPECT_TRUE(BitwiseEqual(first.weights().Flat(), second.weights().Flat()));
}

TEST(TrainStepRanksTest, ASequenceThatOneRankCannotReadFailsEveryRank) {
  StepProblem problem(World());
  const SequenceAt sequence_at = [](int64_t n) -> absl::StatusOr<PackedStream> {
    if (n == 3) return absl::DataLossError("sequence 3 is torn");  // rank 1's second
    return StepProblem::Sequence(n);
  };
  const auto result = problem.Step(0, kBatch, {.sequence_at = sequence_at});
  EXPECT_THAT(result.status().message(), HasSubstr("sequence 3 is torn"));
}

// Rank 0 would wait for ever for gradients that rank 1 never sends.
TEST(TrainStepRanksTest, AnIdOutsideTheVocabularyOnOneRankFailsEveryRank) {
  StepProblem problem(World());
  const SequenceAt sequence_at = [](int64_t n) -> absl::StatusOr<PackedStream> {
    PackedStream sequence = StepProblem::Sequence(n);
    if (n == 3) sequence.tokens[5] = 1000;
    return sequence;
  };
  const std::vector<std::string> before = BytesOfAllRanks(problem.weights().Flat());
  const auto result = problem.Step(0, kBatch, {.sequence_at = sequence_at});
  EXPECT_THAT(result.status().message(), HasSubstr("id 1000 is outside"));
  EXPECT_TRUE(BytesOfAllRanks(problem.weights().Flat()) == before);
}

// A language model whose loss overflows on one rank alone.
class OverflowsOnRankOne : public Objective {
 public:
  explicit OverflowsOnRankOne(const Transformer& model) : inner_(LanguageModelObjective(model)) {}
  std::vector<float> RowWeights(const PackedStream& stream) const override {
    return inner_->RowWeights(stream);
  }
  absl::Status Accumulate(const Call& call) const override {
    const absl::Status status = inner_->Accumulate(call);
    if (World().rank() == 1) SetElement(call.loss_sum, 0, std::numeric_limits<double>::infinity());
    return status;
  }
  double Flops(const PackedStream& stream, const ModelTensors& gradients) const override {
    return inner_->Flops(stream, gradients);
  }

 private:
  std::unique_ptr<Objective> inner_;
};

TEST(TrainStepRanksTest, ALossThatOverflowsOnOneRankChangesNoRanksWeights) {
  StepProblem problem(World());
  const OverflowsOnRankOne objective(problem.model());
  const std::vector<std::string> before = BytesOfAllRanks(problem.weights().Flat());
  const auto result = problem.Step(0, kBatch, {.objective = &objective});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_FALSE(result->is_finite);
  EXPECT_TRUE(BytesOfAllRanks(problem.weights().Flat()) == before);
  EXPECT_EQ(problem.optimizer().step(), 0);
}

// Rank 0 waits for rank 1, which is no time of its own.
TEST(TrainStepRanksTest, ARankThatReadsSlowlyIsNamedTheSlowest) {
  StepProblem problem(World());
  constexpr double kSecondsToRead = 0.2;
  const SequenceAt sequence_at = [&](int64_t n) -> absl::StatusOr<PackedStream> {
    if (World().rank() == 1)
      std::this_thread::sleep_for(std::chrono::duration<double>(kSecondsToRead));
    return StepProblem::Sequence(n);
  };
  const auto result = problem.Step(0, kBatch, {.sequence_at = sequence_at});
  ASSERT_TRUE(result.ok()) << result.status();
  RankTimes times;
  times.Add(result->own_seconds);
  const auto gathered = times.Gather(World());
  ASSERT_TRUE(gathered.ok()) << gathered.status();
  EXPECT_EQ(gathered->front().rank, 1);
  EXPECT_GE(gathered->front().seconds, 2 * kSecondsToRead);  // it reads two sequences
  EXPECT_EQ(gathered->back().rank, 0);
  EXPECT_LT(gathered->back().seconds, 2 * kSecondsToRead);
}

// Each micro-batch as where tensor ranks meet in every layer; rank 1 comes late.
class MeetsInThePass : public Objective {
 public:
  MeetsInThePass(const Transformer& model, const ParallelContext& parallel, double late_seconds)
      : inner_(LanguageModelObjective(model)), parallel_(parallel), late_seconds_(late_seconds) {}
  std::vector<float> RowWeights(const PackedStream& stream) const override {
    return inner_->RowWeights(stream);
  }
  absl::Status Accumulate(const Call& call) const override {
    if (World().rank() == 1)
      std::this_thread::sleep_for(std::chrono::duration<double>(late_seconds_));
    std::vector<float> met(1);
    RETURN_IF_ERROR(parallel_.tensor().AllReduceSum(TensorView::Of(met.data(), {1})));
    return inner_->Accumulate(call);
  }
  double Flops(const PackedStream& stream, const ModelTensors& gradients) const override {
    return inner_->Flops(stream, gradients);
  }

 private:
  std::unique_ptr<Objective> inner_;
  const ParallelContext& parallel_;
  double late_seconds_;
};

// The step takes both ranks as long; rank 0 spends it waiting inside its passes.
TEST(TrainStepRanksTest, ARankThatIsLateInAPassIsNamedTheSlowest) {
  StepProblem problem;
  const auto parallel = ParallelContext::Create(World(), {.tensor = 2}, {});
  ASSERT_TRUE(parallel.ok()) << parallel.status();
  constexpr double kSecondsLate = 0.1;
  const MeetsInThePass objective(problem.model(), *parallel, kSecondsLate);
  const auto result = problem.Step(0, kBatch, {.objective = &objective, .parallel = &*parallel});
  ASSERT_TRUE(result.ok()) << result.status();
  RankTimes times;
  times.Add(result->own_seconds);
  const auto gathered = times.Gather(World());
  ASSERT_TRUE(gathered.ok()) << gathered.status();
  EXPECT_EQ(gathered->front().rank, 1);
  EXPECT_GE(gathered->front().seconds, 4 * kSecondsLate);
  EXPECT_EQ(gathered->back().rank, 0);
  EXPECT_LT(gathered->back().seconds, 2 * kSecondsLate);
  if (World().rank() == 0) {
    EXPECT_GE(parallel->SecondsInPasses(), 3 * kSecondsLate);
  }
}

}  // namespace
}  // namespace salamander
