#include "kernels/rope_tables.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/row_op_test.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

constexpr int64_t kHalf = 3;
constexpr int64_t kRows = 12;
constexpr double kFactor = 1.25;
const std::vector<double> kShort = {1.0, 0.1, 1e-3};
const std::vector<double> kLong = {0.5, 0.02, 1e-5};

// Rows 0, 6 and 11 belong to nobody; the second segment is a document's tail at a million tokens.
const std::vector<Segment> kSegments = {
    {.query_begin = 1, .query_count = 5, .key_begin = 1},
    {.query_begin = 7, .query_count = 4, .key_begin = 7, .first_position = 1'000'000}};

Outputs RunOp(DType dtype) {
  const TestContext context;
  Outputs tables = {TestTensor::Constant(dtype, {kRows, kHalf}, 77.0),
                    TestTensor::Constant(dtype, {kRows, kHalf}, 77.0)};
  EXPECT_TRUE(RopeTables(context, {.short_frequencies = kShort,
                                   .long_frequencies = kLong,
                                   .short_length = 5,
                                   .factor = kFactor,
                                   .segments = kSegments,
                                   .cosines = tables[0].View(),
                                   .sines = tables[1].View()})
                  .ok());
  return tables;
}

TEST(RopeTablesTest, HoldTheScaledTurnOfEachPositionAndLeaveOtherRowsAlone) {
  for (const DType dtype : kBothTypes) {
    const Outputs tables = RunOp(dtype);
    const double bound = dtype == DType::kFloat32 ? 0x1p-23 : 0x1p-51;
    int64_t turned = 0;
    for (const Segment& segment : kSegments) {
      const std::vector<double>& frequencies = segment.key_count() > 5 ? kLong : kShort;
      for (int64_t row = 0; row < segment.query_count; ++row) {
        for (int64_t d = 0; d < kHalf; ++d, ++turned) {
          const double angle = static_cast<double>(segment.first_position + row) *
                               frequencies[static_cast<size_t>(d)];
          const int64_t at = (segment.query_begin + row) * kHalf + d;
          EXPECT_NEAR(tables[0].At(at), kFactor * std::cos(angle), bound);
          EXPECT_NEAR(tables[1].At(at), kFactor * std::sin(angle), bound);
        }
      }
    }
    EXPECT_EQ(turned, 9 * kHalf);
    for (const int64_t row : {0, 6, 11}) {
      for (int64_t d = 0; d < kHalf; ++d) {
        EXPECT_EQ(tables[0].At(row * kHalf + d), 77.0);
        EXPECT_EQ(tables[1].At(row * kHalf + d), 77.0);
      }
    }
  }
}

TEST(RopeTablesTest, SameBitsOnAnyThreads) {
  ExpectSameBitsOnAnyThreads([] { return RunOp(DType::kFloat32); });
}

}  // namespace
}  // namespace salamander
