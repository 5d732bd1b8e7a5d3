// A typed, shaped pointer that owns nothing. Dense, row-major, at most four dimensions; [T, C]
// activations and [T, H, D] attention tensors are token-major. An empty view (no data) stands for
// "not given".
#ifndef KERNELS_BASE_TENSOR_VIEW_H_
#define KERNELS_BASE_TENSOR_VIEW_H_

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "kernels/base/dtype.h"
#include "kernels/base/logging.h"

namespace salamander {

class TensorView {
 public:
  static constexpr int kMaxRank = 4;

  TensorView() = default;
  TensorView(void* data, DType dtype, std::initializer_list<int64_t> dims);

  template <typename Element>
  static TensorView Of(Element* data, std::initializer_list<int64_t> dims) {
    return TensorView(data, DTypeOf<Element>::value, dims);
  }

  bool empty() const { return data_ == nullptr; }
  DType dtype() const { return dtype_; }
  int rank() const { return rank_; }
  int64_t dim(int axis) const { return dims_[axis]; }
  int64_t size() const;  // elements
  int64_t bytes() const { return size() * static_cast<int64_t>(SizeOf(dtype_)); }
  int64_t row_size() const;  // elements under one index of the first axis
  void* raw() const { return data_; }

  template <typename Element>
  Element* data() const {
    SALAMANDER_CHECK(dtype_ == DTypeOf<Element>::value) << "tensor holds " << Name(dtype_);
    return static_cast<Element*>(data_);
  }

  // Rows [begin, begin + count) of the first axis.
  TensorView Rows(int64_t begin, int64_t count) const;

  // The same elements under other dims. Requires: equal size.
  TensorView Reshape(std::initializer_list<int64_t> dims) const;

  bool SameShape(const TensorView& other) const;
  std::string ShapeString() const;  // "float32[128, 4, 32]"

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kFloat32;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> dims_ = {};
};

}  // namespace salamander

#endif  // KERNELS_BASE_TENSOR_VIEW_H_
