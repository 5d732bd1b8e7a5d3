#include "trainer/step/optimizer.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "tests/trainer/fake_device.h"

namespace salamander {
namespace {

// One update of Adam from zero moments moves every element by nearly the learning rate, whatever
// its gradient's size; moments show what was done to the gradient.
class OptimizerTest : public testing::Test {
 protected:
  OptimizerTest()
      : model_(TinyHybridConfig(3, {1}), DType::kFloat32, 51),
        gradients_(*ParameterBuffer::Create(model_.weights.layout, DType::kFloat32)),
        optimizer_(*Optimizer::Create(model_.weights.layout, CpuSession())) {
    for (const ParameterSpec& spec : specs()) {
      SplitMix random(static_cast<uint64_t>(spec.offset));
      const TensorView view = gradients_.View(spec);
      for (int64_t index = 0; index < view.size(); ++index)
        SetElement(view, index, random.Normal());
    }
  }
  absl::Span<const ParameterSpec> specs() const { return model_.weights.layout.specs(); }
  const ParameterBuffer& weights() const { return model_.weights.buffer; }
  TestTensor Copy(const TensorView& view) const {
    TestTensor copy(DType::kFloat32, {view.size()});
    for (int64_t index = 0; index < view.size(); ++index) copy.Set(index, ElementAt(view, index));
    return copy;
  }
  Optimizer::Update Step(double learning_rate = 1e-3) {
    const auto update =
        optimizer_.Step(context_, learning_rate, {.weights = weights(), .gradients = gradients_});
    SALAMANDER_CHECK(update.ok()) << update.status().ToString();
    return *update;
  }
  double NormOf(const std::function<bool(const ParameterSpec&)>& counts) const {
    double squares = 0.0;
    for (const ParameterSpec& spec : specs()) {
      if (counts(spec)) squares += Dot(gradients_.View(spec), gradients_.View(spec));
    }
    return std::sqrt(squares);
  }
  static ParameterPolicy Everything(const ParameterSpec&) { return {}; }

  TestContext context_;
  TinyModel model_;
  ParameterBuffer gradients_;
  Optimizer optimizer_;
};

TEST_F(OptimizerTest, AGradientThatIsNotFiniteChangesNothing) {
  optimizer_.Configure({}, Everything);
  ASSERT_TRUE(Step().is_finite);
  const TestTensor before = Copy(weights().Flat()), first = Copy(optimizer_.first_moment()),
                   second = Copy(optimizer_.second_moment());
  const TensorView last = gradients_.View(specs().back());
  const double original = ElementAt(last, 3);
  for (const double poison :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    SetElement(last, 3, poison);
    EXPECT_FALSE(Step().is_finite);
    EXPECT_TRUE(BitwiseEqual(Copy(weights().Flat()).View(), before.View()));
    EXPECT_TRUE(BitwiseEqual(Copy(optimizer_.first_moment()).View(), first.View()));
    EXPECT_TRUE(BitwiseEqual(Copy(optimizer_.second_moment()).View(), second.View()));
    EXPECT_EQ(optimizer_.step(), 1);
  }
  SetElement(last, 3, original);
  EXPECT_TRUE(Step().is_finite);
  EXPECT_EQ(optimizer_.step(), 2);
}

TEST_F(OptimizerTest, ClippingScalesTheWholeGradientToTheNorm) {
  const double norm = NormOf([](const ParameterSpec&) { return true; });
  struct Case {
    double clip_norm, expected_scale;
  };
  for (const auto& [clip_norm, expected_scale] :
       {Case{norm / 4.0, 0.25}, Case{norm * 2.0, 1.0}, Case{0.0, 1.0}}) {
    ASSERT_TRUE(optimizer_.Reset(context_).ok());
    optimizer_.Configure({.clip_norm = clip_norm}, Everything);
    EXPECT_NEAR(Step().gradient_norm, norm, 1e-6 * norm) << "clip " << clip_norm;
    for (const ParameterSpec& spec : specs()) {
      const TensorView moment = optimizer_.first_moment().Rows(spec.offset, spec.size());
      const TensorView gradient = gradients_.View(spec);
      for (const int64_t index : {int64_t{0}, moment.size() - 1}) {
        const double expected = 0.1 * expected_scale * ElementAt(gradient, index);
        EXPECT_NEAR(ElementAt(moment, index), expected, 1e-6) << spec.name;
      }
    }
  }
}

TEST_F(OptimizerTest, FrozenParametersKeepTheirBitsAndStayOutOfTheNorm) {
  const auto is_trainable = [](const ParameterSpec& spec) {
    return spec.role == ParameterRole::kLightningMixer;
  };
  optimizer_.Configure({}, [&](const ParameterSpec& spec) {
    return ParameterPolicy{.is_trainable = is_trainable(spec), .weight_decay = 0.1};
  });
  std::vector<TestTensor> before;
  for (const ParameterSpec& spec : specs()) before.push_back(Copy(weights().View(spec)));
  // What a frozen parameter's gradient holds does not matter.
  SetElement(gradients_.View(specs().front()), 0, std::numeric_limits<double>::quiet_NaN());
  const Optimizer::Update update = Step();
  EXPECT_TRUE(update.is_finite);
  EXPECT_NEAR(update.gradient_norm, NormOf(is_trainable), 1e-6 * update.gradient_norm);
  for (size_t index = 0; index < before.size(); ++index) {
    const ParameterSpec& spec = specs()[index];
    const bool same = BitwiseEqual(Copy(weights().View(spec)).View(), before[index].View());
    EXPECT_EQ(same, !is_trainable(spec)) << spec.name;
  }
}

TEST_F(OptimizerTest, GroupsHaveTheirOwnRateAndDecay) {
  constexpr double kRate = 1e-3;
  const auto policy = [](const ParameterSpec& spec) {
    if (spec.kind == ParameterKind::kNorm) return ParameterPolicy{.learning_rate_multiplier = 3.0};
    if (spec.role == ParameterRole::kMlp)
      return ParameterPolicy{.learning_rate_multiplier = 0.5, .weight_decay = 0.2};
    return ParameterPolicy{.learning_rate_multiplier = 0.0, .weight_decay = 0.2};
  };
  optimizer_.Configure({.clip_norm = 0.0}, policy);
  std::vector<TestTensor> before;
  for (const ParameterSpec& spec : specs()) before.push_back(Copy(weights().View(spec)));
  Step(kRate);
  for (size_t index = 0; index < before.size(); ++index) {
    const ParameterSpec& spec = specs()[index];
    const double rate = kRate * policy(spec).learning_rate_multiplier;
    for (int64_t element = 0; element < spec.size(); ++element) {
      // The first step's bias-corrected moments are g and g^2.
      const double gradient = ElementAt(gradients_.View(spec), element);
      const double old = before[index].At(element);
      const double expected =
          old - rate * (gradient / (std::abs(gradient) + 1e-8) + policy(spec).weight_decay * old);
      EXPECT_NEAR(ElementAt(weights().View(spec), element), expected, 1e-6) << spec.name;
    }
  }
}

// Where the device computes in less, the optimizer has masters of its own.
TEST_F(OptimizerTest, RoundedWeightsAreTheNewMastersRounded) {
  FakeDevice device;
  const ParameterLayout& layout = model_.weights.layout;
  auto optimizer = Optimizer::Create(layout, device);
  ASSERT_TRUE(optimizer.ok()) << optimizer.status();
  const auto rounded = ParameterBuffer::Create(layout, DType::kBFloat16);
  ASSERT_TRUE(rounded.ok());
  const auto masters = [&](const ShardLayout::Piece& piece) {
    return optimizer->Masters(*rounded, piece);
  };
  for (const ShardLayout::Piece& piece : optimizer->shard().pieces()) {
    ASSERT_TRUE(salamander::Copy(context_, weights().Flat().Rows(piece.flat_begin, piece.count),
                                 masters(piece))
                    .ok());
  }
  const auto policy = [](const ParameterSpec& spec) {
    return ParameterPolicy{.is_trainable = spec.role != ParameterRole::kMlp};
  };
  for (Optimizer* const each : {&optimizer_, &*optimizer}) each->Configure({}, policy);
  const auto update =
      optimizer->Step(context_, 1e-3, {.weights = *rounded, .gradients = gradients_});
  ASSERT_TRUE(update.ok()) << update.status();
  Step();  // fp32 weights, which are their own masters
  for (const ShardLayout::Piece& piece : optimizer->shard().pieces()) {
    const ParameterSpec& spec = specs()[piece.parameter];
    const TestTensor expected = Copy(weights().View(spec));
    EXPECT_TRUE(BitwiseEqual(masters(piece), expected.View())) << spec.name;
    const TensorView view = rounded->View(spec).Reshape({spec.size()});
    const bool same = BitwiseEqual(view, expected.As(DType::kBFloat16).View());
    EXPECT_EQ(same, spec.role != ParameterRole::kMlp) << spec.name;
  }
  // Those that do not train as well, once all masters are spread.
  ASSERT_TRUE(optimizer->SpreadMasters(context_, *rounded).ok());
  for (const ParameterSpec& spec : specs()) {
    const TensorView view = rounded->View(spec).Reshape({spec.size()});
    const TestTensor expected = Copy(weights().View(spec)).As(DType::kBFloat16);
    EXPECT_TRUE(BitwiseEqual(view, expected.View())) << spec.name;
  }
}

TEST_F(OptimizerTest, ResetForgetsMomentsAndSteps) {
  optimizer_.Configure({}, Everything);
  Step();
  Step();
  EXPECT_EQ(optimizer_.step(), 2);
  ASSERT_TRUE(optimizer_.Reset(context_).ok());
  EXPECT_EQ(optimizer_.step(), 0);
  EXPECT_EQ(Dot(optimizer_.first_moment(), optimizer_.first_moment()), 0.0);
  EXPECT_EQ(Dot(optimizer_.second_moment(), optimizer_.second_moment()), 0.0);
}

}  // namespace
}  // namespace salamander
