#include "model/config.h"

#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"

namespace salamander {
namespace {

using testing::HasSubstr;

// Whatever Validate accepts must not fail a kernel's check: those end the process.
TEST(ModelConfigTest, NegativeSparseWindowIsRefused) {
  ModelConfig config = TinyHybridConfig(2, {0});
  config.softmax.use_sparse = true;
  ASSERT_TRUE(config.Validate().ok()) << config.Validate();
  config.softmax.sparse.window_size = -config.softmax.sparse.block_size;
  EXPECT_THAT(std::string(config.Validate().message()), HasSubstr("sparse.window_size is -8"));
}

TEST(ModelConfigTest, RopeScalingThatWouldDivideByZeroIsRefused) {
  ModelConfig config = TinyDenseConfig(1);
  const auto message = [&config] { return std::string(config.Validate().message()); };
  config.rope.scaling = RopeScalingKind::kLinear;
  config.rope.factor = 0.0;
  EXPECT_THAT(message(), HasSubstr("rope.factor is 0"));
  config.rope.scaling = RopeScalingKind::kLlama3;
  config.rope.factor = 2.0;
  EXPECT_THAT(message(), HasSubstr("rope.original_max_positions is 0"));
  config.rope.original_max_positions = 32;
  EXPECT_EQ(message(), "");
  config.rope.low_frequency_factor = config.rope.high_frequency_factor;
  EXPECT_THAT(message(), HasSubstr("rope.high_frequency_factor is 4"));
  config.rope.scaling = RopeScalingKind::kLongRope;
  config.rope.short_factor = config.rope.long_factor = {1, 1, 1, 1};
  EXPECT_EQ(message(), "");
  config.rope.original_max_positions = 1;
  EXPECT_THAT(message(), HasSubstr("rope.original_max_positions is 1"));
}

TEST(ModelConfigTest, SlopesThatAreNoDecayAreRefused) {
  ModelConfig config = TinyHybridConfig(2, {0});
  const auto heads = static_cast<size_t>(config.lightning.heads);
  for (const double slope :
       {-0.25, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    config.lightning.slopes.assign(heads, 0.25);
    ASSERT_TRUE(config.Validate().ok()) << config.Validate();
    config.lightning.slopes.back() = slope;
    EXPECT_THAT(std::string(config.Validate().message()), HasSubstr("lightning.slopes"));
  }
}

}  // namespace
}  // namespace salamander
