#include <algorithm>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/base/status_macros.h"
#include "kernels/head_loss.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "trainer/generate/generator.h"

namespace salamander {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;

using Tokens = std::vector<int32_t>;

ModelConfig SparseConfigWith(DenseRule rule, int64_t dense_length) {
  ModelConfig config = TinyHybridConfig(3, {0, 2});
  config.softmax.use_sparse = true;
  config.softmax.sparse.dense_rule = rule;
  config.softmax.sparse.dense_length = dense_length;
  return config;
}

ModelConfig LongRopeConfig() {
  ModelConfig config = TinyDenseConfig(2);
  config.rope.scaling = RopeScalingKind::kLongRope;
  config.rope.original_max_positions = 55;
  config.max_positions = 55;
  config.rope.short_factor = {1.0, 1.0, 1.0, 1.0};
  config.rope.long_factor = {1.5, 2.0, 4.0, 8.0};
  return config;
}

struct Case {
  std::string name;
  ModelConfig config;
};

// As test listings show the parameter.
void PrintTo(const Case& given, std::ostream* stream) {
  *stream << given.name;
}

// 60 tokens of prompt and 20 new ones, on each side of a dense length and across it.
std::vector<Case> Cases() {
  return {{"Dense", TinyDenseConfig(2)},
          {"Hybrid", TinyHybridConfig(3, {1})},
          {"SparsePerQueryAcross", SparseConfigWith(DenseRule::kPerQuery, 70)},
          {"SparsePerDocumentBelow", SparseConfigWith(DenseRule::kPerDocument, 100)},
          {"SparsePerDocumentBeyond", SparseConfigWith(DenseRule::kPerDocument, 55)},
          {"LongRopeBeyond", LongRopeConfig()}};
}

Tokens RandomPrompt(int64_t length, uint64_t seed) {
  SplitMix random(seed);
  Tokens tokens;
  for (int64_t index = 0; index < length; ++index)
    tokens.push_back(static_cast<int32_t>(random.Integer(0, 23)));
  return tokens;
}

GenerateOptions UpTo(int64_t max_new_tokens, std::vector<int64_t> stop_ids = {}) {
  GenerateOptions options;
  options.max_new_tokens = max_new_tokens;
  options.stop_ids = std::move(stop_ids);
  return options;
}

GenerateOptions InPieces(int64_t prefill_tokens, int64_t max_new_tokens) {
  GenerateOptions options = UpTo(max_new_tokens);
  options.prefill_tokens = prefill_tokens;
  return options;
}

absl::StatusOr<std::vector<Generated>> GenerateOn(const ExecutionContext& execution,
                                                  const Transformer& model, const Prompts& prompts,
                                                  const GenerateOptions& options) {
  const Generator generator{CpuSession(), execution, model};
  ASSIGN_OR_RETURN(DecodeCache cache, CacheFor(generator, prompts, options));
  return Generate(generator, std::move(cache), prompts, options);
}

class GenerateTest : public testing::TestWithParam<Case> {
 protected:
  GenerateTest() : model_(GetParam().config, DType::kFloat32, 61) {}

  std::vector<Generated> Run(const std::vector<Tokens>& prompts, const GenerateOptions& options) {
    auto generated = GenerateOn(context_, model_.transformer, prompts, options);
    SALAMANDER_CHECK(generated.ok()) << generated.status().ToString();
    return *std::move(generated);
  }
  // The largest logit after the last token, by the forward that training runs.
  int32_t LargestAfter(Tokens tokens) {
    const auto size = static_cast<int64_t>(tokens.size());
    const std::vector<Segment> segments = {{.query_count = size}};
    const ExecutionContext& execution = context_;
    const ArenaScope scope(context_.arena());
    const auto hidden = model_.transformer.Forward({.execution = &execution,
                                                    .tokens = TensorView::Of(tokens.data(), {size}),
                                                    .segments = segments,
                                                    .cache = nullptr,
                                                    .use_candidate = {},
                                                    .tap = {}},
                                                   nullptr);
    SALAMANDER_CHECK(hidden.ok()) << hidden.status().ToString();
    TestTensor logits(DType::kFloat32, {1, model_.transformer.config().vocabulary});
    const absl::Status status =
        HeadLogits(execution, {.hidden = hidden->Rows(size - 1, 1),
                               .head = model_.transformer.weights().head,
                               .logit_scale = model_.transformer.config().logit_scale,
                               .logits = logits.View()});
    SALAMANDER_CHECK(status.ok()) << status.ToString();
    const auto values = logits.Elements<float>();
    return static_cast<int32_t>(std::max_element(values.begin(), values.end()) - values.begin());
  }

  ScopedThreadCount threads_{1};  // a tiny model's steps are too small to share
  TestContext context_;
  TinyModel model_;
};

TEST_P(GenerateTest, GreedyTakesTheLargestLogitOfTheFullForwardAtEachStep) {
  Tokens tokens = RandomPrompt(60, 1);
  const Tokens generated = Run({tokens}, UpTo(20))[0].tokens;
  ASSERT_EQ(generated.size(), 20U);
  for (size_t step = 0; step < generated.size(); ++step) {
    EXPECT_EQ(generated[step], LargestAfter(tokens)) << "step " << step;
    tokens.push_back(generated[step]);
  }
}

TEST_P(GenerateTest, APromptInPiecesGivesWhatTheWholeDoes) {
  const Tokens prompt = RandomPrompt(60, 2);
  const Tokens whole = Run({prompt}, UpTo(12))[0].tokens;
  for (const int64_t piece : {1, 7, 16, 59}) {
    EXPECT_THAT(Run({prompt}, InPieces(piece, 12))[0].tokens, ElementsAreArray(whole))
        << "pieces of " << piece;
  }
}

TEST_P(GenerateTest, PromptsOfDifferentLengthsTogetherGiveWhatEachGivesAlone) {
  const std::vector<Tokens> prompts = {RandomPrompt(45, 3), RandomPrompt(1, 4), RandomPrompt(80, 5),
                                       RandomPrompt(17, 6)};
  const GenerateOptions options = UpTo(10);
  const std::vector<Generated> together = Run(prompts, options);
  ASSERT_EQ(together.size(), prompts.size());
  for (size_t index = 0; index < prompts.size(); ++index) {
    EXPECT_THAT(together[index].tokens, ElementsAreArray(Run({prompts[index]}, options)[0].tokens))
        << "prompt " << index;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GenerateTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.name; });

class GenerationTest : public testing::Test {
 protected:
  absl::StatusOr<std::vector<Generated>> Run(const std::vector<Tokens>& prompts,
                                             const GenerateOptions& options) {
    return GenerateOn(context_, model_.transformer, prompts, options);
  }

  ScopedThreadCount threads_{1};  // a tiny model's steps are too small to share
  TestContext context_;
  TinyModel model_{TinyHybridConfig(3, {1}), DType::kFloat32, 62};
};

TEST_F(GenerationTest, ASequenceEndsBeforeItsStopIdAndTheOthersGoOn) {
  const std::vector<Tokens> prompts = {RandomPrompt(20, 1), RandomPrompt(9, 2)};
  const auto free = Run(prompts, UpTo(16));
  ASSERT_TRUE(free.ok());
  // A token of the first sequence that neither it nor the second had before.
  const Tokens& first = (*free)[0].tokens;
  size_t at = 1;
  const auto is_new = [&](size_t index) {
    const auto holds = [&](const Tokens& tokens, size_t end) {
      return std::count(tokens.begin(), tokens.begin() + static_cast<int64_t>(end), first[index]);
    };
    return holds(first, index) == 0 && holds((*free)[1].tokens, (*free)[1].tokens.size()) == 0;
  };
  while (at < first.size() && !is_new(at)) ++at;
  ASSERT_LT(at, first.size()) << "these sequences share all their tokens; take another seed";
  const auto stopped = Run(prompts, UpTo(16, {first[at], 1000}));
  ASSERT_TRUE(stopped.ok());
  EXPECT_THAT((*stopped)[0].tokens, ElementsAreArray(first.data(), at));
  EXPECT_TRUE((*stopped)[0].stopped);
  EXPECT_THAT((*stopped)[1].tokens, ElementsAreArray((*free)[1].tokens));
  EXPECT_FALSE((*stopped)[1].stopped);
}

TEST_F(GenerationTest, AStopIdAtOnceGivesNoToken) {
  const Tokens prompt = RandomPrompt(20, 1);
  const auto free = Run({prompt}, UpTo(1));
  ASSERT_TRUE(free.ok());
  ASSERT_EQ((*free)[0].tokens.size(), 1U);
  const auto stopped = Run({prompt}, UpTo(5, {(*free)[0].tokens.front()}));
  ASSERT_TRUE(stopped.ok());
  EXPECT_TRUE((*stopped)[0].tokens.empty());
  EXPECT_TRUE((*stopped)[0].stopped);
}

TEST_F(GenerationTest, SamplingIsAPureFunctionOfItsSeed) {
  const std::vector<Tokens> prompts = {RandomPrompt(12, 1), RandomPrompt(12, 1)};
  const auto sample = [&](uint64_t seed, int64_t prefill_tokens) {
    GenerateOptions options = InPieces(prefill_tokens, 24);
    options.sampling = {.temperature = 1.0, .seed = seed};
    auto generated = Run(prompts, options);
    SALAMANDER_CHECK(generated.ok());
    return *std::move(generated);
  };
  const auto once = sample(7, 2048), again = sample(7, 5), other = sample(8, 2048);
  EXPECT_EQ(once[0].tokens, again[0].tokens);
  EXPECT_EQ(once[1].tokens, again[1].tokens);
  EXPECT_NE(once[0].tokens, other[0].tokens);
  EXPECT_NE(once[0].tokens, once[1].tokens);  // the same prompt, drawn on its own
}

TEST_F(GenerationTest, TokensAreHandedOverAsTheyAreChosen) {
  Tokens seen;
  GenerateOptions options = UpTo(7);
  options.on_token = [&](int32_t token) { seen.push_back(token); };
  const auto generated = Run({RandomPrompt(5, 1), RandomPrompt(6, 2)}, options);
  ASSERT_TRUE(generated.ok());
  EXPECT_THAT(seen, ElementsAreArray((*generated)[0].tokens));
}

TEST_F(GenerationTest, EmptyPromptsForeignTokensAndEmptyRequestsAreRefused) {
  const GenerateOptions options = UpTo(4);
  EXPECT_THAT(Run({{1, 2}, {}}, options).status().message(), HasSubstr("prompt 1 is empty"));
  EXPECT_THAT(Run({{1, 24}}, options).status().message(), HasSubstr("id 24 is outside"));
  EXPECT_THAT(Run({{1, -1}}, options).status().message(), HasSubstr("id -1 is outside"));
  EXPECT_FALSE(Run({{1}}, UpTo(0)).ok());
  EXPECT_FALSE(Run({{1}}, InPieces(0, 4)).ok());
}

}  // namespace
}  // namespace salamander
