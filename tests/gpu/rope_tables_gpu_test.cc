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
    args.cosines = gpu.Poisoned(DType::kFloat32, {kRows, half});
    args.sines = gpu.Poisoned(DType::kFloat32, {kRows, half});
    ASSERT_TRUE(RopeTables(gpu, args).ok());
    const TestTensor actual[] = {gpu.Download(args.cosines), gpu.Download(args.sines)};
    // One rounding to fp32 of a value below two; the angles' own error is a few ulp of fp64.
    for (const Segment& segment : kSegments) {
      const int64_t begin = segment.query_begin, count = segment.query_count;
      EXPECT_LE(
          MaxAbsDifference(actual[0].View().Rows(begin, count), cosines.View().Rows(begin, count)),
          0x1p-24 + 1e-9);
      EXPECT_LE(
          MaxAbsDifference(actual[1].View().Rows(begin, count), sines.View().Rows(begin, count)),
          0x1p-24 + 1e-9);
    }
    for (const TestTensor& table : actual) {
      for (const int64_t row : {40, 41, 42, 43, 146}) {
        EXPECT_TRUE(std::isnan(table.At(row * half))) << row;
      }
    }
  }
}

}  // namespace
}  // namespace salamander
