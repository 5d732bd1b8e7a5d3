#include "model/parameters.h"

#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

TEST(ParameterLayoutTest, EveryParameterStartsOnACacheLineOfADeviceEvenInBf16) {
  const ParameterLayout layout(TinyHybridConfig(3, {1}));
  int64_t end = 0;
  for (const ParameterSpec& spec : layout.specs()) {
    EXPECT_EQ(spec.offset * 2 % 128, 0) << spec.name;
    EXPECT_GE(spec.offset, end) << spec.name;
    end = spec.offset + spec.size();
  }
  EXPECT_GE(layout.total_size(), end);
}

TEST(ParameterLayoutTest, ShardsHoldEveryElementOncePerHolderAndStartWithItsWeight) {
  const ModelConfig config = SplittableConfig();
  const ParameterLayout whole(config);
  ParameterBuffer weights = *ParameterBuffer::Create(whole, DType::kFloat32);
  InitializeWeights(config, whole, 7, weights);
  for (const int ranks : {1, 2, 4}) {
    ASSERT_TRUE(CheckTensorShards(config, ranks).ok());
    std::map<std::string, std::vector<int>> times;
    for (int rank = 0; rank < ranks; ++rank) {
      const ParameterLayout layout(config, {.rank = rank, .ranks = ranks});
      EXPECT_EQ(layout.parameter_count(), whole.parameter_count());
      ParameterBuffer part = *ParameterBuffer::Create(layout, DType::kFloat32);
      InitializeWeights(config, layout, 7, part);
      for (const ParameterSpec& spec : layout.specs()) {
        const ParameterSpec& of_whole = *whole.Find(spec.name);
        ASSERT_EQ(spec.whole_shape, of_whole.shape);
        std::vector<int>& held = times[spec.name];
        held.resize(static_cast<size_t>(of_whole.size()));
        for (int64_t i = 0; i < spec.size(); ++i) {
          const int64_t at = spec.WholeIndex(i);
          ++held.at(static_cast<size_t>(at));
          ASSERT_EQ(ElementAt(part.View(spec), i), ElementAt(weights.View(of_whole), at))
              << spec.name << " element " << i << " of rank " << rank;
        }
      }
    }
    const ParameterLayout first(config, {.rank = 0, .ranks = ranks});
    for (const ParameterSpec& spec : first.specs())
      EXPECT_THAT(times[spec.name], testing::Each(spec.holders)) << spec.name;
  }
}

TEST(ParameterLayoutTest, RanksThatShareAKeyValueHeadAreItsHolders) {
  const ModelConfig config = SplittableConfig();  // 2 key-value heads
  for (int rank = 0; rank < 4; ++rank) {
    const ParameterLayout layout(config, {.rank = rank, .ranks = 4});
    const ParameterSpec* key = layout.Find("layers.1.mixer.key.weight");
    ASSERT_NE(key, nullptr);
    EXPECT_EQ(key->shape[0], config.softmax.head_dim);
    EXPECT_EQ(key->split_begin, rank / 2 * config.softmax.head_dim);
    EXPECT_EQ(key->holders, 2);
    EXPECT_EQ(key->holder, rank % 2);
  }
}

TEST(CheckTensorShardsTest, NamesWhatDoesNotDivide) {
  ModelConfig config = SplittableConfig();
  EXPECT_THAT(CheckTensorShards(config, 5).message(), testing::HasSubstr("vocabulary, 48"));
  EXPECT_THAT(CheckTensorShards(config, 16).message(),
              testing::HasSubstr("intermediate width, 24"));
  EXPECT_THAT(CheckTensorShards(config, 3).message(), testing::HasSubstr("softmax heads, 8"));
  config.softmax.heads = config.softmax.kv_heads = 6;
  config.lightning.heads = config.lightning.kv_heads = 12;
  config.softmax.heads = 12;
  EXPECT_THAT(CheckTensorShards(config, 4).message(), testing::HasSubstr("6 key-value heads"));
}

TEST(ParameterBufferTest, MemoryOfASessionIsZero) {
  const ParameterLayout layout(TinyDenseConfig(1));
  const auto buffer = ParameterBuffer::Create(layout, DType::kFloat32, CpuSession());
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  EXPECT_EQ(buffer->Flat().size(), layout.total_size());
  EXPECT_EQ(Dot(buffer->Flat(), buffer->Flat()), 0.0);
}

TEST(CopyParametersTest, KeepsEveryBitOrRoundsToTheNarrowerType) {
  const TestContext context;
  const TinyModel model(TinyHybridConfig(3, {1}), DType::kFloat32, 3);
  const TensorView source = model.weights.buffer.Flat();
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const auto copy = ParameterBuffer::Create(model.weights.layout, dtype, CpuSession());
    ASSERT_TRUE(copy.ok()) << copy.status();
    ASSERT_TRUE(CopyParameters(context, model.weights.buffer, *copy).ok());
    TestTensor expected(dtype, {source.size()});
    for (int64_t index = 0; index < source.size(); ++index)
      expected.Set(index, ElementAt(source, index));
    EXPECT_TRUE(BitwiseEqual(copy->Flat(), expected.View())) << Name(dtype);
  }
}

}  // namespace
}  // namespace salamander
