#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/rope_tables.h"
#include "tests/gpu/row_ops.h"

namespace salamander {
namespace {

std::vector<double> Frequencies(int64_t half, double base) {
  std::vector<double> frequencies;
  for (int64_t d = 0; d < half; ++d) {
    frequencies.push_back(std::pow(base, -static_cast<double>(d) / static_cast<double>(half)));
  }
  return frequencies;
}

// Not in the order of their rows; a single row; several blocks; a document's piece from a million
// tokens in; both sets of frequencies; rows 40..43 and the last belong to nobody.
const Segment kSegments[] = {
    {.query_begin = 44, .query_count = 100, .key_begin = 44},
    {.query_begin = 0, .query_count = 1, .key_begin = 0},
    {.query_begin = 1, .query_count = 39, .key_begin = 1, .first_position = 1'000'003},
    {.query_begin = 144, .query_count = 2, .key_begin = 144, .first_position = 3}};
constexpr int64_t kRows = 147;

// One rounding to fp32 of a value below two; the angles' own error is a few ulp of fp64.
constexpr double kBound = 0x1p-24 + 1e-9;

TEST(RopeTablesGpuTest, MatchesDoubleWhereSegmentsAreAndWritesNothingElse) {
  SKIP_WITHOUT_GPU();
  for (const int64_t half : {1, 3, 64}) {
    const std::vector<double> short_set = Frequencies(half, 1e4), long_set = Frequencies(half, 3e5);
    const TestTensor cosines = TestTensor::Poisoned(DType::kFloat64, {kRows, half});
    const TestTensor sines = cosines;
    RopeTablesArgs args{.short_frequencies = short_set,
                        .long_frequencies = long_set,
                        .short_length = 99,
                        .factor = 1.19,
                        .segments = kSegments,
                        .cosines = cosines.View(),
                        .sines = sines.View()};
    const TestContext cpu;
    ASSERT_TRUE(RopeTables(cpu, args).ok());
    GpuContext gpu(kTestBytes, kTestBytes);
    const auto run = [&]() -> Outputs {
      args.cosines = gpu.Poisoned(DType::kFloat32, {kRows, half});
      args.sines = gpu.Poisoned(DType::kFloat32, {kRows, half});
      EXPECT_TRUE(RopeTables(gpu, args).ok());
      return {gpu.Download(args.cosines), gpu.Download(args.sines)};
    };
    const Outputs actual = run();
    ExpectSameBits(run(), actual);
    for (const Segment& segment : kSegments) {
      const auto rows = [&](const TestTensor& table) {
        return table.View().Rows(segment.query_begin, segment.query_count);
      };
      EXPECT_LE(MaxAbsDifference(rows(actual[0]), rows(cosines)), kBound);
      EXPECT_LE(MaxAbsDifference(rows(actual[1]), rows(sines)), kBound);
    }
    for (const TestTensor& table : actual) {
      for (const int64_t row : {40, 41, 42, 43, 146}) {
        EXPECT_TRUE(std::isnan(table.At(row * half))) << row;
      }
    }
  }
}

TEST(RopeTablesGpuTest, LongDocumentMatchesDouble) {
  constexpr int64_t kTensors = 4;  // one in fp32 counts twice
  SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(kTensors);
  const std::vector<double> frequencies = Frequencies(kLongWidth, 1e7);
  const TestTensor cosines(DType::kFloat64, {kSampledRows, kLongWidth}), sines = cosines;
  std::vector<Segment> sample;
  for (int64_t row = 0; row < kSampledRows; ++row) {
    sample.push_back({.query_begin = row, .query_count = 1, .first_position = LongRow(row)});
  }
  RopeTablesArgs args{.short_frequencies = frequencies,
                      .long_frequencies = frequencies,
                      .segments = sample,
                      .cosines = cosines.View(),
                      .sines = sines.View()};
  const TestContext cpu;
  ASSERT_TRUE(RopeTables(cpu, args).ok());
  const Segment whole[] = {{.query_count = kLongTokens}};
  GpuContext gpu(LongTensorBytes(kTensors), kLongScratchBytes);
  args.segments = whole;
  args.cosines = PoisonedLong(gpu, cosines, DType::kFloat32);
  args.sines = PoisonedLong(gpu, sines, DType::kFloat32);
  ASSERT_TRUE(RopeTables(gpu, args).ok());
  EXPECT_LE(MaxAbsDifference(DownloadSample(gpu, args.cosines).View(), cosines.View()), kBound);
  EXPECT_LE(MaxAbsDifference(DownloadSample(gpu, args.sines).View(), sines.View()), kBound);
}

}  // namespace
}  // namespace salamander
