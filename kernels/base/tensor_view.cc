#include "kernels/base/tensor_view.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"

namespace salamander {

TensorView::TensorView(void* data, DType dtype, std::initializer_list<int64_t> dims)
    : data_(data), dtype_(dtype), rank_(static_cast<int>(dims.size())) {
  SALAMANDER_CHECK(rank_ <= kMaxRank) << "rank " << rank_;
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

int64_t TensorView::size() const {
  int64_t size = 1;
  for (int axis = 0; axis < rank_; ++axis) size *= dims_[axis];
  return size;
}

int64_t TensorView::row_size() const {
  int64_t size = 1;
  for (int axis = 1; axis < rank_; ++axis) size *= dims_[axis];
  return size;
}

TensorView TensorView::Rows(int64_t begin, int64_t count) const {
  SALAMANDER_CHECK(rank_ >= 1 && begin >= 0 && count >= 0 && begin + count <= dims_[0])
      << "rows [" << begin << ", " << begin + count << ") of " << ShapeString();
  TensorView rows = *this;
  rows.data_ =
      static_cast<char*>(data_) + begin * row_size() * static_cast<int64_t>(SizeOf(dtype_));
  rows.dims_[0] = count;
  return rows;
}

TensorView TensorView::Reshape(std::initializer_list<int64_t> dims) const {
  TensorView reshaped(data_, dtype_, dims);
  SALAMANDER_CHECK(reshaped.size() == size()) << ShapeString() << " to " << reshaped.ShapeString();
  return reshaped;
}

bool TensorView::SameShape(const TensorView& other) const {
  return rank_ == other.rank_ && dims_ == other.dims_;
}

std::string TensorView::ShapeString() const {
  return absl::StrCat(Name(dtype_), "[",
                      absl::StrJoin(absl::MakeSpan(dims_).subspan(0, rank_), ", "), "]");
}

}  // namespace salamander
