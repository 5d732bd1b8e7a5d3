#include "kernels/base/tensor_view.h"

#include <array>
#include <cstdint>
#include <numeric>

#include "gtest/gtest.h"

namespace salamander {
namespace {

TEST(TensorViewTest, DefaultIsNotGiven) {
  const TensorView view;
  EXPECT_TRUE(view.empty());
  EXPECT_EQ(view.rank(), 0);
}

TEST(TensorViewTest, SizesFollowTheDims) {
  std::array<float, 24> data = {};
  const TensorView view = TensorView::Of(data.data(), {2, 3, 4});
  EXPECT_EQ(view.rank(), 3);
  EXPECT_EQ(view.dim(1), 3);
  EXPECT_EQ(view.size(), 24);
  EXPECT_EQ(view.row_size(), 12);
  EXPECT_EQ(view.bytes(), 96);
  EXPECT_EQ(view.dtype(), DType::kFloat32);
  EXPECT_EQ(view.ShapeString(), "float32[2, 3, 4]");
}

TEST(TensorViewTest, ZeroRowsHaveNoElementsButAWidth) {
  double data = 0;
  const TensorView view = TensorView::Of(&data, {0, 7});
  EXPECT_EQ(view.size(), 0);
  EXPECT_EQ(view.row_size(), 7);
}

TEST(TensorViewTest, RowsPointIntoTheSameMemory) {
  std::array<int32_t, 12> data = {};
  std::iota(data.begin(), data.end(), 0);
  const TensorView view = TensorView::Of(data.data(), {4, 3});
  const TensorView rows = view.Rows(1, 2);
  EXPECT_EQ(rows.ShapeString(), "int32[2, 3]");
  EXPECT_EQ(rows.data<int32_t>()[0], 3);
  rows.data<int32_t>()[5] = -1;
  EXPECT_EQ(data[8], -1);
  EXPECT_EQ(view.Rows(4, 0).size(), 0);
}

TEST(TensorViewTest, ReshapeKeepsTheElements) {
  std::array<float, 12> data = {};
  const TensorView view = TensorView::Of(data.data(), {4, 3});
  const TensorView reshaped = view.Reshape({2, 2, 3});
  EXPECT_EQ(reshaped.raw(), view.raw());
  EXPECT_EQ(reshaped.ShapeString(), "float32[2, 2, 3]");
}

TEST(TensorViewTest, SameShapeComparesRankAndEveryDim) {
  std::array<float, 12> data = {};
  const TensorView view = TensorView::Of(data.data(), {4, 3});
  EXPECT_TRUE(view.SameShape(TensorView::Of(data.data(), {4, 3})));
  EXPECT_FALSE(view.SameShape(TensorView::Of(data.data(), {3, 4})));
  EXPECT_FALSE(view.SameShape(TensorView::Of(data.data(), {4, 3, 1})));
  EXPECT_FALSE(view.SameShape(TensorView()));
}

TEST(TensorViewTest, ElementSizesMatchTheirTypes) {
  EXPECT_EQ(SizeOf(DType::kFloat32), sizeof(float));
  EXPECT_EQ(SizeOf(DType::kFloat64), sizeof(double));
  EXPECT_EQ(SizeOf(DType::kBFloat16), 2U);
  EXPECT_EQ(SizeOf(DType::kInt32), sizeof(int32_t));
}

TEST(TensorViewDeathTest, WrongElementTypeIsFatal) {
  std::array<float, 4> data = {};
  const TensorView view = TensorView::Of(data.data(), {4});
  EXPECT_DEATH(view.data<double>(), "tensor holds float32");
}

TEST(TensorViewDeathTest, RowsOutsideTheTensorAreFatal) {
  std::array<float, 12> data = {};
  const TensorView view = TensorView::Of(data.data(), {4, 3});
  EXPECT_DEATH(view.Rows(3, 2), "rows \\[3, 5\\) of float32\\[4, 3\\]");
  EXPECT_DEATH(view.Rows(-1, 1), "rows \\[-1, 0\\)");
}

TEST(TensorViewDeathTest, ReshapeToAnotherSizeIsFatal) {
  std::array<float, 12> data = {};
  const TensorView view = TensorView::Of(data.data(), {4, 3});
  EXPECT_DEATH(view.Reshape({4, 4}), "float32\\[4, 3\\] to float32\\[4, 4\\]");
}

}  // namespace
}  // namespace salamander
