// Generation on the GPU: keys, values, pooled keys and states of a cache give step by step, and for
// several sequences side by side, what the whole document gives the exact model.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/head_loss.h"
#include "kernels/memory.h"
#include "tests/gpu/model_on_gpu.h"
#include "trainer/generate/generator.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr int64_t kTensorBytes = int64_t{16} << 20;
constexpr int64_t kScratchBytes = int64_t{256} << 20;

template <typename Value>
Value OrDie(absl::StatusOr<Value> value) {
  SALAMANDER_CHECK(value.ok()) << value.status().ToString();
  return *std::move(value);
}

// A sequence of the batch: where it lies in the stream, and how much of it goes in at once.
struct Sequence {
  int64_t begin, length, prefill;
};

// The stream's documents through a cache: each one's beginning in a call of its own, then all
// together token by token while they last. Final hidden states [T, C] as the whole stream's.
TestTensor Decoded(const PlacedModel& model, const PackedStream& stream,
                   const std::vector<Sequence>& sequences) {
  const Place& place = model.place();
  DeviceSession& session = place.session;
  const ExecutionContext& execution = place.execution;
  const auto count = static_cast<int64_t>(sequences.size());
  const DType dtype = model.transformer().weights().embedding.dtype();
  int64_t longest = 0;
  for (const Sequence& sequence : sequences) longest = std::max(longest, sequence.length);
  DecodeCache cache = OrDie(DecodeCache::Create(model.config(), dtype, count, longest, session));
  const int64_t width = model.config().width;
  TestTensor hidden(dtype, {stream.size(), width});

  // The next tokens of some sequences, so many of each.
  struct Next {
    int64_t slot, tokens;
  };
  const auto feed = [&](const std::vector<Next>& parts) {
    const ArenaScope scope(*execution.arena);
    std::vector<int32_t> tokens;
    std::vector<Segment> segments;
    std::vector<int64_t> rows;
    for (const auto& [slot, number] : parts) {
      segments.push_back(
          OrDie(cache.NextSegment(slot, static_cast<int64_t>(tokens.size()), number)));
      for (int64_t index = 0; index < number; ++index) {
        rows.push_back(sequences[static_cast<size_t>(slot)].begin + cache.length(slot) + index);
        tokens.push_back(stream.tokens[static_cast<size_t>(rows.back())]);
      }
    }
    ForwardPass pass;
    pass.execution = &execution;
    pass.tokens = OrDie(FromHost<int32_t>(execution, tokens));
    pass.segments = segments;
    pass.cache = &cache;
    const TensorView result = OrDie(model.transformer().Forward(pass, nullptr));
    for (size_t index = 0; index < rows.size(); ++index) {
      const absl::Status copied = CopyToHost(execution, result.Rows(static_cast<int64_t>(index), 1),
                                             hidden.View().Rows(rows[index], 1).raw());
      SALAMANDER_CHECK(copied.ok()) << copied.ToString();
    }
    for (const auto& [slot, number] : parts) cache.Advance(slot, number);
  };
  for (int64_t slot = 0; slot < count; ++slot)
    feed({{slot, sequences[static_cast<size_t>(slot)].prefill}});
  while (true) {
    std::vector<Next> parts;
    for (int64_t slot = 0; slot < count; ++slot)
      if (cache.length(slot) < sequences[static_cast<size_t>(slot)].length)
        parts.push_back({slot, 1});
    if (parts.empty()) return hidden;
    feed(parts);
  }
}

class GenerationGpuTest : public testing::TestWithParam<ModelCase> {
 protected:
  const ModelConfig& config() const { return GetParam().config; }
  // Where the length of the whole document decides, what goes in first reaches the length that
  // decides, as trainer/generate/generator.h does it; the second document stays below it.
  bool document_decides() const {
    return config().softmax.use_sparse &&
           config().softmax.sparse.dense_rule == DenseRule::kPerDocument;
  }
};

TEST_P(GenerationGpuTest, StepsOfSeveralSequencesMatchTheExactModelsWholeDocuments) {
  SKIP_WITHOUT_GPU();
  const std::vector<Sequence> sequences = {
      {0, 90, document_decides() ? 62 : 20}, {90, 33, 9}, {123, 75, document_decides() ? 60 : 1}};
  PackedStream stream = RandomStream({90, 33, 75}, config().vocabulary, 6);
  const ModelWeights weights = ExactWeights(config(), 41);
  const TestContext cpu;
  const PlacedModel exact_model(weights, OnCpu(cpu));
  const Outcome exact = RunModel(exact_model, *NextTokenObjective(exact_model), stream);
  const Spread spread = SpreadOf(weights, NextTokenObjective, stream, exact);
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(weights, On(gpu));
  const TestTensor hidden = Decoded(model, stream, sequences);
  ExpectHiddenWithinSpread(hidden.View().Rows(0, 198), exact.hidden.View().Rows(0, 198), spread);
  EXPECT_TRUE(BitwiseEqual(Decoded(model, stream, sequences).View(), hidden.View()));
}

// Logits [T, V] after each token, by the forward that training runs.
TestTensor LogitsOf(const PlacedModel& model, const std::vector<int32_t>& tokens) {
  const ExecutionContext& execution = model.place().execution;
  const ArenaScope scope(*execution.arena);
  PackedStream stream;
  AppendPiece(tokens, -1, {}, &stream);
  const ForwardPass pass = OrDie(PassOver(execution, stream));
  const TensorView hidden = OrDie(model.transformer().Forward(pass, nullptr));
  TestTensor logits(DType::kFloat64, {stream.size(), model.config().vocabulary});
  const absl::Status status = HeadLogits(execution, {.hidden = hidden,
                                                     .head = model.transformer().weights().head,
                                                     .logit_scale = model.config().logit_scale,
                                                     .logits = logits.View()});
  SALAMANDER_CHECK(status.ok()) << status.ToString();
  return logits;
}

TEST_P(GenerationGpuTest, GreedyTakesALargestLogitUpToRounding) {
  SKIP_WITHOUT_GPU();
  constexpr int64_t kPrompt = 64, kNew = 20;
  const ModelWeights weights = ExactWeights(config(), 42);
  Prompts prompts;
  for (const uint64_t seed : {7U, 8U}) {
    const PackedStream stream = RandomStream({kPrompt}, config().vocabulary, seed);
    prompts.emplace_back(stream.tokens.begin(), stream.tokens.begin() + kPrompt);
  }
  GenerateOptions options;
  options.max_new_tokens = kNew;
  options.prefill_tokens = 23;
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(weights, On(gpu));
  const Generator generator{gpu.session(), gpu, model.transformer()};
  const auto generate = [&] {
    return OrDie(
        Generate(generator, OrDie(CacheFor(generator, prompts, options)), prompts, options));
  };
  const std::vector<Generated> generated = generate(), again = generate();
  for (size_t slot = 0; slot < prompts.size(); ++slot) {
    ASSERT_EQ(static_cast<int64_t>(generated[slot].tokens.size()), kNew);
    EXPECT_EQ(generated[slot].tokens, again[slot].tokens);
    std::vector<int32_t> tokens = prompts[slot];
    tokens.insert(tokens.end(), generated[slot].tokens.begin(), generated[slot].tokens.end());
    const TestContext cpu;
    const TestTensor exact = LogitsOf(PlacedModel(weights, OnCpu(cpu)), tokens);
    const TestTensor perturbed = LogitsOf(PlacedModel(Perturbed(weights, 50), OnCpu(cpu)), tokens);
    // A spread of logits, from all of them. Two logits are compared and each is off by one or two
    // spreads.
    const double spread =
        RelativeRmse(perturbed.View(), exact.View()) *
        std::sqrt(Dot(exact.View(), exact.View()) / static_cast<double>(exact.size()));
    for (int64_t step = 0; step < kNew; ++step) {
      const TensorView row = exact.View().Rows(kPrompt - 1 + step, 1);
      const auto values = absl::MakeConstSpan(row.data<double>(), static_cast<size_t>(row.size()));
      const double taken = values[static_cast<size_t>(generated[slot].tokens[step])];
      EXPECT_GE(taken, *std::max_element(values.begin(), values.end()) - 8 * spread)
          << "sequence " << slot << ", step " << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GenerationGpuTest, testing::ValuesIn(ModelCases()),
                         [](const auto& given) { return given.param.name; });

TEST(GenerateGpuTest, ForeignTokensOfAPromptAreRefused) {
  SKIP_WITHOUT_GPU();
  GpuContext gpu(kTensorBytes, kScratchBytes);
  const PlacedModel model(ExactWeights(SmallHybridConfig(2, {0}, 32), 43), On(gpu));
  const Prompts prompts = {{1, 2, 100}};
  const Generator generator{gpu.session(), gpu, model.transformer()};
  const auto generated = Generate(generator, OrDie(CacheFor(generator, prompts, {})), prompts, {});
  EXPECT_THAT(std::string(generated.status().message()),
              HasSubstr("token 100 in row 2 lies outside the vocabulary of 100"));
}

}  // namespace
}  // namespace salamander
