// Element types of tensors in memory.
#ifndef KERNELS_BASE_DTYPE_H_
#define KERNELS_BASE_DTYPE_H_

#include <cstddef>
#include <cstdint>

namespace salamander {

enum class DType : uint8_t { kFloat32, kFloat64, kBFloat16, kInt32 };

constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 8;
    case DType::kBFloat16:
      return 2;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
  }
  return 0;
}

// What an op keeps per row or per head beside activations of `dtype`: softmax denominators, inverse
// norms, recurrent states. Never narrower than fp32.
constexpr DType StatisticsType(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

constexpr const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kInt32:
      return "int32";
  }
  return "unknown";
}

template <typename Element>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kInt32;
};

}  // namespace salamander

#endif  // KERNELS_BASE_DTYPE_H_
