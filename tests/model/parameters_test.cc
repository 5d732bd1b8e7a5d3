#include "model/parameters.h"

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
