// The optimizer's state shared out over ranks: in every layout a step gives each element the bits
// that one rank gives it, where the sums of gradients are exact.
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "tests/distributed/sharded_state.h"
#include "tests/distributed/world.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "tests/trainer/fake_device.h"
#include "trainer/step/optimizer.h"

namespace salamander {
namespace {

// So few that a step takes several, the last one smaller.
constexpr int64_t kBucketElements = 3000;

std::string NameOf(const MeshShape& shape) {
  return absl::StrCat("data ", shape.data, " context ", shape.context, " tensor ", shape.tensor);
}

std::string BytesOf(const TensorView& view) {
  return {static_cast<const char*>(view.raw()), static_cast<size_t>(view.bytes())};
}

// Weights and an optimizer of one rank's place in a mesh, and the gradients it would have computed.
class Place {
 public:
  Place(DeviceSession& session, const ParallelContext& parallel)
      : parallel_(parallel),
        layout_(SplittableConfig(), {parallel.tensor().rank(), parallel.tensor().size()},
                parallel.replicas().size()),
        weights_(*ParameterBuffer::Create(layout_, session.activation_dtype())),
        gradients_(*ParameterBuffer::Create(layout_, DType::kFloat32)),
        optimizer_(*Optimizer::Create(layout_,
                                      ShardLayout(layout_, parallel.replicas().rank(),
                                                  parallel.replicas().size(), kBucketElements),
                                      session)) {
    optimizer_.Configure({.clip_norm = 2.0}, [](const ParameterSpec& spec) {
      return ParameterPolicy{.is_trainable = spec.role != ParameterRole::kMlp || spec.layer != 1,
                             .weight_decay = spec.kind == ParameterKind::kMatrix ? 0.1 : 0.0};
    });
    for (const ShardLayout::Piece& piece : optimizer_.shard().pieces()) {
      const ParameterSpec& spec = layout_.specs()[piece.parameter];
      const TensorView masters = optimizer_.Masters(weights_, piece);
      for (int64_t index = 0; index < piece.count; ++index)
        SetElement(masters, index, ExactValue(spec, spec.WholeIndex(piece.begin + index), 1000));
    }
    SALAMANDER_CHECK(optimizer_.SpreadMasters(context_, weights_, &parallel).ok());
  }

  // Of `parts` ranks' gradients those that `mine` says, and of what several ranks hold whole the
  // share of each.
  void FillGradients(uint64_t step, int parts, const std::vector<int>& mine, int holders_of_lone) {
    for (const ParameterSpec& spec : layout_.specs()) {
      const TensorView gradient = gradients_.View(spec);
      const int holders = holders_of_lone > 0 ? Holders(spec, holders_of_lone) : spec.holders;
      for (int64_t index = 0; index < spec.size(); ++index) {
        float sum = 0.0F;
        for (const int part : mine) {
          for (int holder = 0; holder < holders; ++holder) {
            if (holders_of_lone == 0 && holder != spec.holder) continue;
            const auto draw = static_cast<uint64_t>(holder * parts + part) + 100 * step;
            sum += ExactValue(spec, spec.WholeIndex(index), draw);
          }
        }
        SetElement(gradient, index, static_cast<double>(sum));
      }
    }
  }
  void SetGradient(size_t parameter, double value) {
    SetElement(gradients_.View(layout_.specs()[parameter]), 0, value);
  }
  Optimizer::Update Step() {
    const auto update =
        optimizer_.Step(context_, 1e-2, {.weights = weights_, .gradients = gradients_}, &parallel_);
    SALAMANDER_CHECK(update.ok()) << update.status().ToString();
    return *update;
  }

  void TrainOnly(const std::string& name) {
    optimizer_.Configure({}, [&](const ParameterSpec& spec) {
      return ParameterPolicy{.is_trainable = spec.name == name};
    });
  }

  const ParameterLayout& layout() const { return layout_; }
  const ParameterBuffer& weights() const { return weights_; }
  const Optimizer& optimizer() const { return optimizer_; }

 private:
  // Among how many of `ranks` tensor ranks a parameter is whole.
  static int Holders(const ParameterSpec& spec, int ranks) {
    return ParameterLayout(SplittableConfig(), {0, ranks}).Find(spec.name)->holders;
  }

  TestContext context_{int64_t{1} << 28};
  const ParallelContext& parallel_;
  ParameterLayout layout_;
  ParameterBuffer weights_, gradients_;
  Optimizer optimizer_;
};

void ExpectSameAsOneRank(DeviceSession& session, const MeshShape& shape) {
  const TestContext context(int64_t{1} << 28);
  const auto alone = SingleRankCommunicator();
  const auto lone_parallel = ParallelContext::Create(*alone, {}, context);
  const auto parallel = ParallelContext::Create(World(), shape, context);
  ASSERT_TRUE(lone_parallel.ok() && parallel.ok()) << parallel.status();
  Place lone(session, *lone_parallel), place(session, *parallel);
  const int replicas = parallel->replicas().size();
  std::vector<int> all;
  for (int part = 0; part < replicas; ++part) all.push_back(part);
  for (uint64_t step = 0; step < 4; ++step) {
    lone.FillGradients(step, replicas, all, shape.tensor);
    place.FillGradients(step, replicas, {parallel->replicas().rank()}, 0);
    const Optimizer::Update expected = lone.Step();
    const Optimizer::Update actual = place.Step();
    EXPECT_EQ(actual.gradient_norm, expected.gradient_norm);
    EXPECT_GT(expected.gradient_norm, 2.0) << "nothing is clipped";
  }
  for (const ParameterSpec& spec : place.layout().specs()) {
    const ParameterSpec& whole = *lone.layout().Find(spec.name);
    for (int64_t index = 0; index < spec.size(); ++index) {
      ASSERT_EQ(ElementAt(place.weights().View(spec), index),
                ElementAt(lone.weights().View(whole), spec.WholeIndex(index)))
          << spec.name << " " << index;
    }
  }
  for (const ShardLayout::Piece& piece : place.optimizer().shard().pieces()) {
    const ParameterSpec& spec = place.layout().specs()[piece.parameter];
    const ParameterSpec& whole = *lone.layout().Find(spec.name);
    const auto second = place.optimizer().second_moment().Rows(piece.shard_begin, piece.count);
    const auto expected = lone.optimizer().second_moment().Rows(whole.offset, whole.size());
    for (int64_t index = 0; index < piece.count; ++index) {
      ASSERT_EQ(ElementAt(second, index), ElementAt(expected, spec.WholeIndex(piece.begin + index)))
          << spec.name << " " << index;
    }
  }
}

TEST(OptimizerShardTest, EveryLayoutStepsAsOneRankDoesBitForBit) {
  for (const MeshShape& shape : MeshesOf(World().size())) {
    SCOPED_TRACE(NameOf(shape));
    ExpectSameAsOneRank(CpuSession(), shape);
  }
}

TEST(OptimizerShardTest, MastersBesideRoundedWeightsDoToo) {
  for (const MeshShape& shape : MeshesOf(World().size())) {
    SCOPED_TRACE(NameOf(shape));
    FakeDevice device;
    ExpectSameAsOneRank(device, shape);
  }
}

// After the sum over replicas, so that it is of the shard alone, and the last one: holders of the
// same elements keep the same bits in whichever order their replicas add.
TEST(OptimizerShardTest, HoldersSumTheirShardOfSharedGradients) {
  for (const MeshShape& shape : MeshesOf(World().size())) {
    if (shape.tensor == 1) continue;
    SCOPED_TRACE(NameOf(shape));
    const auto parallel = ParallelContext::Create(World(), shape, TestContext());
    ASSERT_TRUE(parallel.ok()) << parallel.status();
    Place place(CpuSession(), *parallel);
    const auto reduced = [&] {
      return parallel->tensor().traffic()[static_cast<size_t>(Collective::kAllReduce)];
    };
    const CollectiveTraffic before = reduced();
    place.FillGradients(0, parallel->replicas().size(), {parallel->replicas().rank()}, 0);
    place.Step();
    int64_t bytes = 8;  // the squared norm
    for (const ShardLayout::Piece& piece : place.optimizer().shard().pieces()) {
      const ParameterSpec& spec = place.layout().specs()[piece.parameter];
      if (spec.holders > 1) bytes += 4 * piece.count * shape.tensor / spec.holders;
    }
    EXPECT_EQ(reduced().payload_bytes - before.payload_bytes, bytes);
    EXPECT_EQ(reduced().calls - before.calls, bytes > 8 ? 2 : 1);
  }
}

TEST(OptimizerShardTest, StateIsSharedOutEvenlyWithoutARest) {
  const MeshShape shape{.data = World().size()};
  const auto parallel = ParallelContext::Create(World(), shape, TestContext());
  ASSERT_TRUE(parallel.ok());
  const Place place(CpuSession(), *parallel);
  EXPECT_EQ(place.optimizer().first_moment().size() * World().size(), place.layout().total_size());
}

// The last rank's gradient alone is not a number, in an element that the first or the last replica
// keeps the state of: all learn of it by the norm.
TEST(OptimizerShardTest, AGradientThatIsNotFiniteOnOneRankChangesNothingOnAny) {
  for (const MeshShape& shape : MeshesOf(World().size())) {
    SCOPED_TRACE(NameOf(shape));
    const TestContext context(int64_t{1} << 28);
    const auto parallel = ParallelContext::Create(World(), shape, context);
    ASSERT_TRUE(parallel.ok()) << parallel.status();
    FakeDevice device;
    Place place(device, *parallel);
    const auto step_with = [&](std::optional<size_t> torn) {
      place.FillGradients(1, parallel->replicas().size(), {parallel->replicas().rank()}, 0);
      if (torn.has_value() && World().rank() == World().size() - 1)
        place.SetGradient(*torn, std::numeric_limits<double>::quiet_NaN());
      return place.Step();
    };
    EXPECT_TRUE(step_with(std::nullopt).is_finite);
    const auto state = [&] {
      return BytesOf(place.weights().Flat()) + BytesOf(place.optimizer().first_moment()) +
             BytesOf(place.optimizer().second_moment());
    };
    const std::string before = state();
    for (const size_t parameter : {size_t{0}, place.layout().specs().size() - 1}) {
      EXPECT_FALSE(step_with(parameter).is_finite);
      EXPECT_EQ(place.optimizer().step(), 1);
      EXPECT_TRUE(state() == before);
    }
    EXPECT_TRUE(step_with(std::nullopt).is_finite);
    EXPECT_EQ(place.optimizer().step(), 2);
    EXPECT_FALSE(state() == before);
  }
}

TEST(OptimizerShardTest, OnlyBucketsThatHoldSomethingTrainedAreExchanged) {
  const TestContext context(int64_t{1} << 28);
  const auto parallel = ParallelContext::Create(World(), {.data = World().size()}, context);
  ASSERT_TRUE(parallel.ok()) << parallel.status();
  Place place(CpuSession(), *parallel);
  const ParameterSpec& first = place.layout().specs().front();
  place.TrainOnly(first.name);
  const TensorView weights = place.weights().View(first);
  const std::string before = BytesOf(weights);
  const auto calls_of = [&](Collective kind) {
    return parallel->replicas().traffic()[static_cast<size_t>(kind)].calls;
  };
  const int64_t sums = calls_of(Collective::kReduceScatter);
  const int64_t gathers = calls_of(Collective::kAllGather);
  place.FillGradients(0, World().size(), {World().rank()}, 0);
  EXPECT_TRUE(place.Step().is_finite);

  const auto buckets = place.optimizer().shard().buckets();
  const int64_t elements = buckets.front().part * World().size();
  const int64_t trained = World().size() == 1 ? 0 : (first.size() + elements - 1) / elements;
  EXPECT_EQ(calls_of(Collective::kReduceScatter) - sums, trained);
  EXPECT_EQ(calls_of(Collective::kAllGather) - gathers, trained);
  EXPECT_LT(trained, static_cast<int64_t>(buckets.size()));
  EXPECT_FALSE(BytesOf(weights) == before);
  const auto weights_of_all = World().AllGather(BytesOf(weights));
  ASSERT_TRUE(weights_of_all.ok()) << weights_of_all.status();
  for (const std::string& others : *weights_of_all) EXPECT_TRUE(others == BytesOf(weights));
}

}  // namespace
}  // namespace salamander
