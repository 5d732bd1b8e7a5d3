#include "model/checkpoint/huggingface/hf_config.h"

#include <cmath>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

#include "data/storage/file_bytes.h"

namespace salamander {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// A config as transformers 4 writes it for Llama, with `changes` merged in; a null removes nothing.
Json Llama(const Json& changes = Json::object()) {
  Json json = {{"architectures", {"LlamaForCausalLM"}},
               {"model_type", "llama"},
               {"vocab_size", 64},
               {"hidden_size", 32},
               {"intermediate_size", 48},
               {"num_hidden_layers", 4},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"max_position_embeddings", 128},
               {"rms_norm_eps", 1e-5},
               {"rope_theta", 500000.0},
               {"hidden_act", "silu"}};
  json.update(changes);
  return json;
}

Json MiniCpm(const Json& changes = Json::object()) {
  Json json = Llama({{"architectures", {"MiniCPMForCausalLM"}},
                     {"model_type", "minicpm"},
                     {"scale_emb", 12},
                     {"scale_depth", 1.4},
                     {"dim_model_base", 8},
                     {"tie_word_embeddings", false}});
  json.update(changes);
  return json;
}

Json Sala(const Json& changes = Json::object()) {
  Json json =
      MiniCpm({{"architectures", {"MiniCPMSALAForCausalLM"}},
               {"model_type", "minicpm_sala"},
               {"attn_use_rope", false},
               {"attn_use_output_gate", true},
               {"lightning_use_rope", true},
               {"qk_norm", true},
               {"use_output_norm", true},
               {"use_output_gate", true},
               {"lightning_nh", 4},
               {"lightning_nkv", 4},
               {"lightning_head_dim", 8},
               {"lightning_scale", "1/sqrt(d)"},
               {"mixer_types", {"minicpm4", "lightning-attn", "lightning", "lightning_attn"}},
               {"sparse_config",
                {{"kernel_size", 32},
                 {"kernel_stride", 16},
                 {"block_size", 64},
                 {"init_blocks", 1},
                 {"window_size", 2048},
                 {"topk", 64},
                 {"use_nope", false},
                 {"dense_len", 8192}}}});
  json.update(changes);
  return json;
}

ModelConfig Parsed(const Json& json) {
  auto config = ParseHfConfig("dir/config.json", json.dump());
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? config->model : ModelConfig();
}

std::string ErrorOf(const Json& json) {
  const absl::Status status = ParseHfConfig("dir/config.json", json.dump()).status();
  EXPECT_FALSE(status.ok()) << json;
  EXPECT_THAT(std::string(status.message()), HasSubstr("dir/config.json"));
  return std::string(status.message());
}

TEST(HfConfigTest, ReadsLlamaWithItsDefaults) {
  const ModelConfig config = Parsed(Llama());
  EXPECT_EQ(config.family, ModelFamily::kLlama);
  EXPECT_EQ(config.softmax.head_dim, 8);  // hidden_size / heads
  EXPECT_EQ(config.softmax.kv_heads, 2);
  EXPECT_FALSE(config.softmax.use_qk_norm);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_EQ(config.rope.theta, 500000.0);
  EXPECT_EQ(config.rope.scaling, RopeScalingKind::kNone);
  EXPECT_EQ(config.residual_scale, 1.0);
  EXPECT_TRUE(config.eos_ids.empty());
}

TEST(HfConfigTest, ArchitectureAloneNamesTheFamily) {
  Json json = Llama();
  json.erase("model_type");
  EXPECT_EQ(Parsed(json).family, ModelFamily::kLlama);
}

TEST(HfConfigTest, Qwen3NormalisesQueriesAndKeys) {
  const Json names = {{"model_type", "qwen3"}, {"architectures", {"Qwen3ForCausalLM"}}};
  Json json = Llama(names);
  EXPECT_EQ(Parsed(json).softmax.head_dim, 128);  // Qwen3's default, not hidden / heads
  json.update({{"head_dim", 20}, {"sliding_window", 4096}, {"use_sliding_window", false}});
  const ModelConfig config = Parsed(json);
  EXPECT_EQ(config.softmax.head_dim, 20);
  EXPECT_TRUE(config.softmax.use_qk_norm);
}

TEST(HfConfigTest, MupKeysBecomeScales) {
  const ModelConfig config = Parsed(MiniCpm());
  EXPECT_EQ(config.embedding_scale, 12.0);
  EXPECT_EQ(config.residual_scale, 1.4 / std::sqrt(4.0));
  EXPECT_EQ(config.logit_scale, 8.0 / 32.0);
  EXPECT_THAT(ErrorOf(MiniCpm({{"scale_depth", nullptr}})),
              HasSubstr("scale_depth: found nothing"));
  EXPECT_THAT(ErrorOf(MiniCpm({{"scale_depth", 0}})), HasSubstr("a positive number"));
}

TEST(HfConfigTest, RopeOfTransformers5EqualsThatOf4) {
  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 64}};
  const ModelConfig four = Parsed(Llama({{"rope_scaling", llama3}}));
  Json five = Llama({{"rope_parameters", llama3}});
  five["rope_parameters"]["rope_theta"] = 500000.0;
  five.erase("rope_theta");
  EXPECT_TRUE(Parsed(five) == four);
  EXPECT_EQ(four.rope.scaling, RopeScalingKind::kLlama3);
  EXPECT_EQ(four.rope.original_max_positions, 64);
  Json plain = Llama({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 500000.0}}}});
  plain.erase("rope_theta");
  EXPECT_TRUE(Parsed(plain) == Parsed(Llama()));
}

TEST(HfConfigTest, OldRopeTypeKeyIsRead) {
  const ModelConfig config =
      Parsed(Llama({{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}));
  EXPECT_EQ(config.rope.scaling, RopeScalingKind::kLinear);
  EXPECT_EQ(config.rope.factor, 2.0);
}

Json LongRope(const Json& changes = Json::object()) {
  Json json = {{"rope_type", "longrope"},
               {"short_factor", {1.0, 1.1, 1.2, 1.3}},
               {"long_factor", {2.0, 2.1, 2.2, 2.3}},
               {"original_max_position_embeddings", 128}};
  json.update(changes);
  return json;
}

TEST(HfConfigTest, LongRopeKeepsBothTables) {
  const ModelConfig config = Parsed(MiniCpm({{"rope_scaling", LongRope()}}));
  EXPECT_EQ(config.rope.scaling, RopeScalingKind::kLongRope);
  EXPECT_THAT(config.rope.short_factor, ElementsAre(1.0, 1.1, 1.2, 1.3));
  EXPECT_THAT(config.rope.long_factor, ElementsAre(2.0, 2.1, 2.2, 2.3));
  EXPECT_EQ(config.rope.original_max_positions, 128);
  EXPECT_EQ(config.rope.attention_factor, 0.0);
}

TEST(HfConfigTest, ExtendedMiniCpmTakesItsLongTableAtEveryLength) {
  const Json scaling = LongRope({{"original_max_position_embeddings", 32}});
  EXPECT_THAT(Parsed(MiniCpm({{"rope_scaling", scaling}})).rope.short_factor,
              ElementsAre(2.0, 2.1, 2.2, 2.3));
  EXPECT_THAT(Parsed(Llama({{"rope_scaling", scaling}})).rope.short_factor,
              ElementsAre(1.0, 1.1, 1.2, 1.3));
}

TEST(HfConfigTest, LongRopeFactorOfTransformersSetsTheAttentionFactor) {
  Json scaling = LongRope({{"factor", 4.0}});
  EXPECT_EQ(Parsed(Llama({{"rope_scaling", scaling}})).rope.attention_factor,
            std::sqrt(1.0 + std::log(4.0) / std::log(128.0)));
  scaling["attention_factor"] = 1.25;
  EXPECT_EQ(Parsed(Llama({{"rope_scaling", scaling}})).rope.attention_factor, 1.25);
}

TEST(HfConfigTest, FaultyRopeIsNamed) {
  const auto error = [](const Json& scaling) {
    return ErrorOf(Llama({{"rope_scaling", scaling}}));
  };
  EXPECT_THAT(
      error({{"rope_type", "yarn"}, {"factor", 4.0}}),
      HasSubstr("rope_scaling.rope_type: found \"yarn\", expected default, linear, llama3"));
  EXPECT_THAT(error({{"rope_type", "linear"}}), HasSubstr("rope_scaling.factor: found nothing"));
  EXPECT_THAT(error({{"rope_type", "linear"}, {"factor", 0}}), HasSubstr("a positive number"));
  EXPECT_THAT(error({{"rope_type", "linear"}, {"type", "llama3"}, {"factor", 2}}),
              HasSubstr("the same as rope_type"));
  EXPECT_THAT(error({{"rope_type", "linear"}, {"factor", 2}, {"beta", 2}}),
              HasSubstr("rope_scaling.beta: found an unknown key"));
  EXPECT_THAT(error({{"rope_type", "default"}, {"partial_rotary_factor", 0.5}}),
              HasSubstr("rope_scaling.partial_rotary_factor: found 0.5"));
  EXPECT_THAT(error(7), HasSubstr("rope_scaling: found 7, expected a JSON object"));
  EXPECT_THAT(error(LongRope({{"long_factor", {2.0, 2.1, 2.2}}})), HasSubstr("rope.long_factor"));
  EXPECT_THAT(error(LongRope({{"long_factor", {2.0, -2.1, 2.2, 2.3}}})), HasSubstr("<= 0"));
  EXPECT_THAT(error(LongRope({{"original_max_position_embeddings", 1}})), HasSubstr("at least 2"));
  EXPECT_THAT(ErrorOf(Llama({{"rope_scaling", LongRope()}, {"rope_parameters", LongRope()}})),
              HasSubstr("one of the two"));
  EXPECT_THAT(ErrorOf(Llama({{"rope_parameters", {{"rope_theta", 1.0}}}})),
              HasSubstr("expected 500000, the rope_theta beside it"));
  EXPECT_THAT(ErrorOf(Llama({{"rope_parameters", {{"full_attention", Json::object()}}}})),
              HasSubstr("full_attention: found an unknown key"));
}

TEST(HfConfigTest, UnknownArchitectureIsNamed) {
  EXPECT_THAT(ErrorOf(Llama({{"model_type", "mamba"}})),
              HasSubstr("model_type: found \"mamba\", expected llama (LlamaForCausalLM)"));
  EXPECT_THAT(ErrorOf(Llama({{"architectures", {"LlamaForSequenceClassification"}}})),
              HasSubstr("only causal language models"));
  EXPECT_THAT(ErrorOf(Json::object()), HasSubstr("architectures: found nothing"));
  EXPECT_THAT(ErrorOf(Json::array()), HasSubstr("expected a JSON object"));
}

TEST(HfConfigTest, UnsupportedFeaturesAreNamed) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{
           {"attention_bias", true},
           {"mlp_bias", true},
           {"use_sliding_window", true},
           {"sliding_window", 4096},
           {"num_experts", 8},
           {"num_local_experts", 8},
           {"n_routed_experts", 64},
           {"partial_rotary_factor", 0.5},
           {"hidden_act", "gelu"},
           {"quantization_config", {{"quant_method", "gptq"}}},
           {"final_logit_softcapping", 30.0},
           {"layer_types", {"full_attention", "sliding_attention"}},
           {"sparse_config", {{"topk", 64}}}}) {
    EXPECT_THAT(ErrorOf(Llama({{key, value}})), HasSubstr(key + ": found "));
  }
}

TEST(HfConfigTest, ImpossibleValuesAreNamed) {
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, Json>>{{"vocab_size", 0},
                                                 {"vocab_size", -5},
                                                 {"vocab_size", 1e30},
                                                 {"vocab_size", "64"},
                                                 {"hidden_size", nullptr},
                                                 {"hidden_size", 31},
                                                 {"num_hidden_layers", 100000000},
                                                 {"num_attention_heads", 3},
                                                 {"num_key_value_heads", 3},
                                                 {"head_dim", 7},
                                                 {"head_dim", 4000000},
                                                 {"rms_norm_eps", 0},
                                                 {"rms_norm_eps", "small"},
                                                 {"rope_theta", -1},
                                                 {"max_position_embeddings", 0},
                                                 {"bos_token_id", 64},
                                                 {"eos_token_id", {2, 99}},
                                                 {"eos_token_id", "two"},
                                                 {"pad_token_id", -2},
                                                 {"tie_word_embeddings", "yes"}}) {
    const absl::Status status = ParseHfConfig("config.json", Llama({{key, value}}).dump()).status();
    EXPECT_FALSE(status.ok()) << key << " " << value;
  }
}

TEST(HfConfigTest, KeysThatChangeNothingAreListed) {
  auto config = ParseHfConfig("config.json", Llama({{"use_cache", true}, {"my_note", "x"}}).dump());
  ASSERT_TRUE(config.ok());
  EXPECT_THAT(config->ignored_keys, ElementsAre("my_note", "use_cache"));
}

TEST(HfConfigTest, EosMayBeOneOrSeveral) {
  EXPECT_THAT(Parsed(Llama({{"eos_token_id", 2}})).eos_ids, ElementsAre(2));
  EXPECT_THAT(Parsed(Llama({{"eos_token_id", {2, 60}}})).eos_ids, ElementsAre(2, 60));
}

TEST(HfConfigTest, ReadsSala) {
  const ModelConfig config = Parsed(Sala());
  EXPECT_EQ(config.layers[0].mixer, MixerKind::kSoftmax);
  for (size_t layer = 1; layer < 4; ++layer) {
    EXPECT_EQ(config.layers[layer].mixer, MixerKind::kLightning);
  }
  EXPECT_FALSE(config.softmax.use_rope);
  EXPECT_FALSE(config.softmax.use_qk_norm);
  EXPECT_TRUE(config.softmax.use_output_gate);
  EXPECT_TRUE(config.softmax.use_sparse);
  EXPECT_EQ(config.softmax.sparse.selected_blocks(), 96);
  EXPECT_TRUE(config.lightning.use_qk_norm);
  EXPECT_EQ(config.lightning.heads, 4);
  EXPECT_FALSE(Parsed(Sala({{"sparse_config", nullptr}})).softmax.use_sparse);
}

TEST(HfConfigTest, FaultySalaIsNamed) {
  EXPECT_THAT(ErrorOf(Sala({{"mixer_types", {"minicpm4"}}})),
              HasSubstr("one entry for each of 4 layers"));
  EXPECT_THAT(ErrorOf(Sala({{"mixer_types", {"minicpm4", "mamba", "minicpm4", "minicpm4"}}})),
              HasSubstr("mixer_types[1]: found \"mamba\""));
  EXPECT_THAT(ErrorOf(Sala({{"lightning_scale", "sqrt"}})), HasSubstr("lightning_scale"));
  EXPECT_THAT(ErrorOf(Sala({{"qk_norm", nullptr}})), HasSubstr("qk_norm: found nothing"));
  EXPECT_THAT(ErrorOf(Sala({{"sparse_config", {{"topk", 64}}}})),
              HasSubstr("sparse_config.kernel_size: found nothing"));
  EXPECT_THAT(ErrorOf(Sala({{"lightning_nkv", 2}})), HasSubstr("lightning.kv_heads"));
}

TEST(HfConfigWriterTest, EveryFamilyComesBack) {
  for (const Json& json :
       {Llama({{"rope_scaling",
                {{"rope_type", "llama3"},
                 {"factor", 8.0},
                 {"low_freq_factor", 1.0},
                 {"high_freq_factor", 4.0},
                 {"original_max_position_embeddings", 64}}},
               {"bos_token_id", 1},
               {"eos_token_id", {2, 3}}}),
        Llama({{"model_type", "qwen3"},
               {"architectures", {"Qwen3ForCausalLM"}},
               {"head_dim", 20},
               {"tie_word_embeddings", true}}),
        Llama({{"rope_scaling", LongRope({{"factor", 4.0}})}}),
        MiniCpm({{"rope_scaling", LongRope()}, {"eos_token_id", 2}, {"pad_token_id", 3}}), Sala(),
        Sala({{"sparse_config", nullptr}, {"lightning_scale", "1"}}),
        Sala({{"salamander",
               {{"softmax_qk_norm", true},
                {"lightning_slopes", {0.1, 0.2, 0.3, 0.4}},
                {"dense_per_query", true}}}})}) {
    const ModelConfig config = Parsed(json);
    auto text = HfConfigText(config, {});
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_TRUE(Parsed(Json::parse(*text)) == config) << json << *text;
  }
}

TEST(HfConfigWriterTest, ModelOfAnotherFamilyBecomesSalaWithUnitScales) {
  ModelConfig config = Parsed(Llama());
  config.family = ModelFamily::kMiniCpmSala;
  config.layers[1].mixer = MixerKind::kLightning;
  config.lightning.heads = config.lightning.kv_heads = 4;
  config.lightning.head_dim = 8;
  auto text = HfConfigText(config, {});
  ASSERT_TRUE(text.ok()) << text.status();
  const ModelConfig back = Parsed(Json::parse(*text));
  EXPECT_EQ(back.residual_scale, 1.0);
  EXPECT_EQ(back.logit_scale, 1.0);
  EXPECT_EQ(back.embedding_scale, 1.0);
  EXPECT_TRUE(back.layers == config.layers);
  EXPECT_TRUE(back.softmax == config.softmax);
}

TEST(HfConfigWriterTest, WhatTheClassCannotExpressIsAnError) {
  const auto error = [](const ModelConfig& config) {
    const absl::Status status = HfConfigText(config, {}).status();
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  };
  ModelConfig config = Parsed(Llama());
  config.layers[0].has_candidate = true;
  EXPECT_THAT(error(config), HasSubstr("convert --keep"));
  config = Parsed(Llama());
  config.softmax.use_output_gate = true;
  EXPECT_THAT(error(config), HasSubstr("output gates; HuggingFace's class of llama"));
  config = Parsed(Llama());
  config.residual_scale = 0.5;
  EXPECT_THAT(error(config), HasSubstr("muP scales"));
  config = Parsed(Llama());
  config.softmax.use_qk_norm = true;
  EXPECT_THAT(error(config), HasSubstr("normalises queries and keys"));
}

}  // namespace
}  // namespace salamander
