#include "model/checkpoint/huggingface/safetensors.h"

#include <bit>
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/bfloat16.h"
#include "model/checkpoint/huggingface/half_float.h"
#include "tests/storage/full_disk.h"
#include "tests/storage/temporary_directory.h"

namespace salamander {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A safetensors file of this header JSON and `data_bytes` bytes 0, 1, 2 ...
std::string FileOf(const std::string& json, size_t data_bytes) {
  std::string bytes;
  for (size_t byte = 0; byte < 8; ++byte) {
    bytes.push_back(static_cast<char>((json.size() >> (8 * byte)) & 0xFF));
  }
  bytes += json;
  for (size_t index = 0; index < data_bytes; ++index) bytes.push_back(static_cast<char>(index));
  return bytes;
}

std::string ErrorOf(const std::string& bytes) {
  const absl::Status status =
      ParseSafetensorsHeader("m.safetensors", bytes, static_cast<int64_t>(bytes.size())).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("m.safetensors"));
  return std::string(status.message());
}

std::string Entry(const std::string& name, const std::string& shape, int begin, int end,
                  const std::string& dtype = "F32") {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                      ",\"data_offsets\":[", begin, ",", end, "]}");
}

TEST(SafetensorsHeaderTest, ReadsEntriesInOrderOfTheData) {
  const std::string bytes = FileOf(
      absl::StrCat("{", Entry("b", "[2]", 0, 8), ",", Entry("a", "[]", 8, 12), ",",
                   Entry("empty", "[0,5]", 12, 12), ",\"__metadata__\":{\"format\":\"pt\"}}   "),
      12);
  auto header = ParseSafetensorsHeader("m", bytes, static_cast<int64_t>(bytes.size()));
  ASSERT_TRUE(header.ok()) << header.status();
  ASSERT_EQ(header->entries.size(), 3);
  EXPECT_EQ(header->entries[0].name, "b");
  EXPECT_EQ(header->entries[1].name, "a");
  EXPECT_EQ(header->entries[0].ShapeString(), "F32[2]");
  EXPECT_EQ(header->metadata.at("format"), "pt");
}

TEST(SafetensorsHeaderTest, EveryTruncationIsAnError) {
  const std::string bytes = FileOf(absl::StrCat("{", Entry("a", "[3]", 0, 12), "}"), 12);
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(ParseSafetensorsHeader("m", absl::string_view(bytes).substr(0, length),
                                        static_cast<int64_t>(length))
                     .ok())
        << length;
  }
  EXPECT_THAT(ErrorOf(bytes.substr(0, bytes.size() - 1)),
              HasSubstr("found an end at byte 12, expected at most 11"));
}

TEST(SafetensorsHeaderTest, LyingLengthsAreErrors) {
  EXPECT_THAT(ErrorOf(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}", 10)),
              HasSubstr("the header claims 18446744073709551615 bytes"));
  EXPECT_THAT(ErrorOf(std::string("\x03\0\0\0\0\0\0\0{}", 10)), HasSubstr("claims 3 bytes"));
}

TEST(SafetensorsHeaderTest, LyingEntriesAreErrors) {
  const auto error = [](const std::string& entries, size_t data) {
    return ErrorOf(FileOf(absl::StrCat("{", entries, "}"), data));
  };
  EXPECT_THAT(error(Entry("a", "[4]", 0, 12), 12), HasSubstr("expected 16 bytes for shape [4]"));
  EXPECT_THAT(error(Entry("a", "[2]", 0, 8) + "," + Entry("b", "[2]", 4, 12), 12),
              HasSubstr("two tensors overlap"));
  EXPECT_THAT(error(Entry("a", "[1]", 0, 4) + "," + Entry("b", "[1]", 8, 12), 12),
              HasSubstr("there is a gap"));
  EXPECT_THAT(error(Entry("a", "[1]", 0, 4), 12), HasSubstr("the last one to end the file"));
  EXPECT_THAT(error(Entry("a", "[1]", 8, 4), 12), HasSubstr("0 <= begin <= end"));
  EXPECT_THAT(error(Entry("a", "[-1]", 0, 4), 4), HasSubstr("a size that can exist"));
  EXPECT_THAT(error(Entry("a", "[4611686018427387904,4]", 0, 0), 0),
              HasSubstr("a size that can exist"));
  EXPECT_THAT(error(Entry("a", "[1.5]", 0, 4), 4), HasSubstr("shape[0]: found 1.5"));
  EXPECT_THAT(error(Entry("a", "[18446744073709551615]", 0, 4), 4),
              HasSubstr("a list of integers"));
  EXPECT_THAT(error(Entry("a", "[1]", 0, 4, "F31"), 4), HasSubstr("found \"F31\""));
  EXPECT_THAT(error(Entry("a", "[1]", 0, 4) + "," + Entry("a", "[1]", 4, 8), 8),
              HasSubstr("the key \"a\" twice"));
  EXPECT_THAT(error("\"a\":7", 0), HasSubstr("expected a JSON object"));
  EXPECT_THAT(error("\"__metadata__\":{\"a\":7}", 0), HasSubstr("__metadata__.a is 7"));
}

TEST(SafetensorsHeaderTest, TextThatIsNotAJsonObjectIsAnError) {
  EXPECT_THAT(ErrorOf(FileOf("[1]", 0)), HasSubstr("expected a JSON object"));
  EXPECT_THAT(ErrorOf(FileOf("{\"a\":", 0)), HasSubstr("is not JSON: parse error"));
  EXPECT_THAT(ErrorOf(FileOf("{\"\xff\":1}", 0)), HasSubstr("is not JSON"));
  EXPECT_THAT(ErrorOf(FileOf(std::string(100000, '['), 0)), HasSubstr("nested more than 64"));
}

TEST(SafetensorsFileTest, ConvertsEveryFloatType) {
  const TemporaryDirectory directory;
  const std::string json =
      absl::StrCat("{", Entry("b", "[2]", 0, 4, "BF16"), ",", Entry("h", "[2]", 4, 8, "F16"), ",",
                   Entry("d", "[1]", 8, 16, "F64"), ",", Entry("i", "[1]", 16, 24, "I64"), ",",
                   Entry("q", "[2]", 24, 26, "I8"), "}");
  std::string bytes = FileOf(json, 0);
  for (const uint16_t half : {0x3FC0, 0xC000, 0x3E00, 0xC000}) {  // 1.5, -2 in both types
    bytes += {static_cast<char>(half & 0xFF), static_cast<char>(half >> 8)};
  }
  bytes += std::string("\0\0\0\0\0\0\xF8\x3F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\1\2", 18);
  ASSERT_TRUE(WriteFileBytes(directory / "m.safetensors", bytes).ok());
  auto file = SafetensorsFile::Open(directory / "m.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<float> two(2);
  ASSERT_TRUE(file->Read("b", TensorView::Of(two.data(), {2})).ok());
  EXPECT_THAT(two, ElementsAre(1.5F, -2.0F));
  two = {};
  two.resize(2);
  ASSERT_TRUE(file->Read("h", TensorView::Of(two.data(), {2})).ok());
  EXPECT_THAT(two, ElementsAre(1.5F, -2.0F));
  double one = 0;
  ASSERT_TRUE(file->Read("d", TensorView::Of(&one, {1})).ok());
  EXPECT_EQ(one, 1.5);
  int32_t integer = 0;
  ASSERT_TRUE(file->Read("i", TensorView::Of(&integer, {1})).ok());
  EXPECT_EQ(integer, -1);
  EXPECT_THAT(std::string(file->Read("q", TensorView::Of(two.data(), {2})).message()),
              HasSubstr("found I8, expected F32, BF16 or F16"));
  EXPECT_THAT(std::string(file->Read("b", TensorView::Of(two.data(), {2, 1})).message()),
              HasSubstr("tensor \"b\": found BF16[2], expected the shape of float32[2, 1]"));
  EXPECT_EQ(file->Read("none", TensorView::Of(two.data(), {2})).code(),
            absl::StatusCode::kNotFound);
}

TEST(FloatConvertTest, WidensEveryHalfAsTheFormulaSays) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = (bits >> 10) & 0x1F;
    const int fraction = bits & 0x3FF;
    const float value = FloatOfHalf(static_cast<uint16_t>(bits));
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), fraction != 0);
      EXPECT_EQ(std::isinf(value), fraction == 0);
    } else {
      const double magnitude =
          exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
      EXPECT_EQ(static_cast<double>(std::abs(value)), magnitude);
    }
    EXPECT_EQ(std::signbit(value), (bits & 0x8000) != 0);
  }
}

TEST(FloatConvertTest, Bfloat16RoundsToNearestEvenAndKeepsNan) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto exact = static_cast<uint16_t>(bits);
    const float value = FloatOfBfloat16(exact);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(FloatOfBfloat16(Bfloat16OfFloat(value))));
    } else {
      EXPECT_EQ(Bfloat16OfFloat(value), exact);
    }
  }
  EXPECT_EQ(Bfloat16OfFloat(std::bit_cast<float>(0x3F808000U)), 0x3F80);  // a tie, to even
  EXPECT_EQ(Bfloat16OfFloat(std::bit_cast<float>(0x3F818000U)), 0x3F82);  // a tie, to even
  EXPECT_EQ(Bfloat16OfFloat(std::bit_cast<float>(0x3F808001U)), 0x3F81);
  EXPECT_EQ(Bfloat16OfFloat(std::numeric_limits<float>::max()), 0x7F80);  // beyond: infinity
  EXPECT_TRUE(std::isnan(FloatOfBfloat16(Bfloat16OfFloat(std::bit_cast<float>(0x7F800001U)))));
}

class SafetensorsFolderTest : public ::testing::Test {
 protected:
  SafetensorsFolderTest() : first_(10), second_(12) {
    for (size_t index = 0; index < first_.size(); ++index) first_[index] = 0.1F + index;
    for (size_t index = 0; index < second_.size(); ++index) second_[index] = -1.0F / (1 + index);
    tensors_ = {{"z.first", TensorView::Of(first_.data(), {2, 5})},
                {"a.second", TensorView::Of(second_.data(), {12})}};
  }

  TemporaryDirectory directory_;
  std::vector<float> first_, second_;
  std::vector<NamedTensor> tensors_;
};

TEST_F(SafetensorsFolderTest, ShardsComeBackBitwise) {
  for (const int64_t shard_bytes : {1, 1000000}) {
    const std::string path = directory_ / std::to_string(shard_bytes);
    std::filesystem::create_directory(path);
    ASSERT_TRUE(WriteSafetensorsFolder(
                    path, tensors_,
                    {.precision = SafetensorsPrecision::kFloat32, .max_shard_bytes = shard_bytes})
                    .ok());
    EXPECT_EQ(std::filesystem::exists(path + "/model-00002-of-00002.safetensors"),
              shard_bytes == 1);
    EXPECT_EQ(std::filesystem::exists(path + "/model.safetensors"), shard_bytes != 1);
    auto folder = SafetensorsFolder::Open(path);
    ASSERT_TRUE(folder.ok()) << folder.status();
    EXPECT_THAT(folder->names(), ElementsAre("a.second", "z.first"));
    std::vector<float> back(12);
    ASSERT_TRUE(folder->Read("a.second", TensorView::Of(back.data(), {12})).ok());
    EXPECT_EQ(back, second_);
    back.resize(10);
    ASSERT_TRUE(folder->Read("z.first", TensorView::Of(back.data(), {2, 5})).ok());
    EXPECT_EQ(back, first_);
  }
}

TEST_F(SafetensorsFolderTest, Bfloat16IsTheRoundedValue) {
  ASSERT_TRUE(WriteSafetensorsFolder(directory_.path(), tensors_, {}).ok());
  auto folder = SafetensorsFolder::Open(directory_.path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->Find("z.first")->ShapeString(), "BF16[2, 5]");
  std::vector<float> back(10);
  ASSERT_TRUE(folder->Read("z.first", TensorView::Of(back.data(), {2, 5})).ok());
  for (size_t index = 0; index < back.size(); ++index) {
    EXPECT_EQ(back[index], FloatOfBfloat16(Bfloat16OfFloat(first_[index])));
  }
}

TEST_F(SafetensorsFolderTest, IndexThatDisagreesWithTheFilesIsAnError) {
  ASSERT_TRUE(WriteSafetensorsFolder(directory_.path(), tensors_, {.max_shard_bytes = 1}).ok());
  const std::string index = directory_ / "model.safetensors.index.json";
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";
  const auto error_with = [&](const std::string& map) {
    EXPECT_TRUE(WriteFileBytes(index, "{\"weight_map\":" + map + "}").ok());
    const absl::Status status = SafetensorsFolder::Open(directory_.path()).status();
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  };
  EXPECT_THAT(error_with("{\"z.first\":\"" + second + "\",\"a.second\":\"" + first + "\"}"),
              HasSubstr("which does not hold it"));
  EXPECT_THAT(error_with("{\"absent\":\"" + second + "\"}"), HasSubstr("which does not hold it"));
  EXPECT_THAT(error_with("{\"a\":\"../x.safetensors\"}"), HasSubstr("in the same folder"));
  EXPECT_THAT(error_with("[]"), HasSubstr("weight_map: found a list of 0"));
  EXPECT_THAT(error_with("{\"a\":\"gone.safetensors\"}"), HasSubstr("gone.safetensors"));
  std::filesystem::copy_file(directory_ / first, directory_ / "copy.safetensors");
  EXPECT_THAT(error_with("{\"z.first\":\"" + first + "\",\"b\":\"copy.safetensors\"}"),
              HasSubstr("expected it in one file"));
}

TEST_F(SafetensorsFolderTest, FolderWithoutSafetensorsSaysWhatToDo) {
  EXPECT_THAT(std::string(SafetensorsFolder::Open(directory_.path()).status().message()),
              HasSubstr("expected a HuggingFace model folder"));
  ASSERT_TRUE(WriteFileBytes(directory_ / "pytorch_model.bin", "x").ok());
  EXPECT_THAT(std::string(SafetensorsFolder::Open(directory_.path()).status().message()),
              HasSubstr("save the model as safetensors first"));
}

TEST_F(SafetensorsFolderTest, FullDiskIsSaidAsSuch) {
  const FileSizeLimit limit(200);
  const absl::Status status = WriteSafetensorsFolder(directory_.path(), tensors_, {});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST(GoldenSafetensorsTest, FileOfTheReferenceLibraryIsRead) {
  const std::string path =
      absl::StrCat(SALAMANDER_SOURCE_DIR, "/tests/golden/llama_tied/expected.safetensors");
  auto file = SafetensorsFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const SafetensorsEntry* const entry = file->Find("tokens");
  ASSERT_NE(entry, nullptr);
  ASSERT_EQ(entry->shape.size(), 1);
  std::vector<int32_t> tokens(static_cast<size_t>(entry->shape[0]), -1);
  ASSERT_TRUE(file->Read("tokens", TensorView::Of(tokens.data(), {entry->shape[0]})).ok());
  for (const int32_t token : tokens) EXPECT_TRUE(token >= 0 && token < 64) << token;
}

}  // namespace
}  // namespace salamander
