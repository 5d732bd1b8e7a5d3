#include "model/checkpoint/model_config_json.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"

namespace salamander {
namespace {

using ::testing::HasSubstr;

// Every field differs from its default, and no number is short in decimal.
ModelConfig FullConfig() {
  ModelConfig config;
  config.family = ModelFamily::kMiniCpmSala;
  config.vocabulary = 97;
  config.width = 48;
  config.intermediate = 80;
  config.layers = {
      {MixerKind::kSoftmax, false}, {MixerKind::kLightning, false}, {MixerKind::kSoftmax, true}};
  config.norm_epsilon = 1e-6 / 3;
  config.tie_embeddings = true;
  config.max_positions = 9001;
  config.initializer_range = 0.1;
  config.embedding_scale = 12.0 / 7;
  config.residual_scale = 1.4 / 3;
  config.logit_scale = 1.0 / 3;
  config.scale_depth = 1.4;
  config.dim_model_base = 16;
  config.softmax = {6,    2,    8,    false,
                    true, true, true, {16, 8, 32, 2, 96, 7, 511, DenseRule::kPerQuery}};
  config.lightning = {2, 2, 8, false, false, false, false, LightningScale::kOne, {0.1, 1.0 / 3}};
  config.rope = {5e5 / 3,
                 RopeScalingKind::kLongRope,
                 8.1,
                 1.1,
                 4.1,
                 64,
                 {1.0, 1.1, 1.2, 1.3},
                 {2.0, 2.1, 2.2, 2.3},
                 1.19};
  config.bos_id = 1;
  config.eos_ids = {2, 73};
  config.pad_id = 3;
  return config;
}

std::string ErrorWith(const std::string& from, const std::string& to) {
  const std::string text = absl::StrReplaceAll(ModelConfigToJson(FullConfig()), {{from, to}});
  EXPECT_NE(text, ModelConfigToJson(FullConfig())) << from;
  const absl::Status status = ModelConfigFromJson(text).status();
  EXPECT_FALSE(status.ok()) << text;
  return std::string(status.message());
}

TEST(ModelConfigJsonTest, EveryFieldComesBackToTheLastBit) {
  const ModelConfig config = FullConfig();
  auto back = ModelConfigFromJson(ModelConfigToJson(config));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(*back == config) << ModelConfigToJson(*back);
}

TEST(ModelConfigJsonTest, MissingAndUnknownKeysAreErrorsThatNameThem) {
  EXPECT_THAT(ErrorWith("\"width\"", "\"widht\""), HasSubstr("width: found nothing"));
  EXPECT_THAT(ErrorWith("\"width\": 48", "\"width\": 48, \"depth\": 3"),
              HasSubstr("depth: found an unknown key"));
  EXPECT_THAT(ErrorWith("\"theta\"", "\"theta2\""), HasSubstr("rope.theta: found nothing"));
  EXPECT_THAT(ErrorWith("\"top_k\"", "\"topk\""), HasSubstr("softmax.sparse.top_k: found nothing"));
}

TEST(ModelConfigJsonTest, WrongTypesAndWordsAreErrors) {
  EXPECT_THAT(ErrorWith("\"width\": 48", "\"width\": 48.5"), HasSubstr("expected an integer"));
  EXPECT_THAT(ErrorWith("\"tie_embeddings\": true", "\"tie_embeddings\": 1"),
              HasSubstr("expected true or false"));
  EXPECT_THAT(ErrorWith("\"minicpm_sala\"", "\"mamba\""),
              HasSubstr("family: found \"mamba\", expected one of llama"));
  EXPECT_THAT(ErrorWith("softmax+candidate", "softmax+candidates"), HasSubstr("layers[2]"));
  EXPECT_THAT(ErrorWith("\"rope\"", "\"rpoe\""), HasSubstr("rpoe: found an unknown key"));
  EXPECT_THAT(std::string(ModelConfigFromJson("[1]").status().message()),
              HasSubstr("model config: found a list of 1, expected a JSON object"));
}

TEST(ModelConfigJsonTest, ImpossibleShapesAreRefused) {
  EXPECT_THAT(ErrorWith("\"vocabulary\": 97", "\"vocabulary\": 0"), HasSubstr("vocabulary is 0"));
}

}  // namespace
}  // namespace salamander
