#include <algorithm>
#include <cstring>

#include "kernels/backend_ops.h"
#include "kernels/base/bfloat16.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

// Calls function(load) with load(i) the tensor's element i, widened where it is bf16.
template <typename Function>
void WithElements(const TensorView& tensor, const Function& function) {
  switch (tensor.dtype()) {
    case DType::kBFloat16:
      return function([bits = static_cast<const uint16_t*>(tensor.raw())](int64_t i) {
        return FloatOfBfloat16(bits[i]);
      });
    case DType::kFloat64:
      return function([x = tensor.data<double>()](int64_t i) { return x[i]; });
    default:
      return function([x = tensor.data<float>()](int64_t i) { return x[i]; });
  }
}

}  // namespace

absl::Status Zero(const ExecutionContext&, const TensorView& tensor) {
  std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.bytes()));
  return absl::OkStatus();
}

absl::Status Copy(const ExecutionContext&, const TensorView& source,
                  const TensorView& destination) {
  std::memcpy(destination.raw(), source.raw(), static_cast<size_t>(source.bytes()));
  return absl::OkStatus();
}

absl::Status Add(const ExecutionContext&, const TensorView& source, const TensorView& destination) {
  ForReal(source.dtype(), [&](auto real) {
    using Real = decltype(real);
    const Real* const from = source.data<Real>();
    Real* const to = destination.data<Real>();
    ParallelPieces(source.size(), [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
    });
  });
  return absl::OkStatus();
}

absl::Status JoinColumns(const ExecutionContext&, const TensorView& source, int64_t parts,
                         const TensorView& destination) {
  const int64_t rows = destination.dim(0);
  const int64_t bytes = source.bytes() / std::max<int64_t>(parts * rows, 1);
  const auto* const from = static_cast<const char*>(source.raw());
  auto* const to = static_cast<char*>(destination.raw());
  ParallelFor(rows, source.size(), [=](int64_t row) {
    for (int64_t part = 0; part < parts; ++part) {
      std::memcpy(to + (row * parts + part) * bytes, from + (part * rows + row) * bytes,
                  static_cast<size_t>(bytes));
    }
  });
  return absl::OkStatus();
}

absl::Status Convert(const ExecutionContext&, const TensorView& source,
                     const TensorView& destination) {
  WithElements(source, [&](const auto& load) {
    ParallelPieces(source.size(), [&](int64_t begin, int64_t end) {
      switch (destination.dtype()) {
        case DType::kBFloat16:
          for (int64_t i = begin; i < end; ++i) {
            static_cast<uint16_t*>(destination.raw())[i] =
                Bfloat16OfFloat(static_cast<float>(load(i)));
          }
          break;
        case DType::kFloat64:
          for (int64_t i = begin; i < end; ++i) {
            destination.data<double>()[i] = static_cast<double>(load(i));
          }
          break;
        default:
          for (int64_t i = begin; i < end; ++i) {
            destination.data<float>()[i] = static_cast<float>(load(i));
          }
      }
    });
  });
  return absl::OkStatus();
}

absl::Status CopyFromHost(const ExecutionContext&, const void* host,
                          const TensorView& destination) {
  std::copy_n(static_cast<const char*>(host), destination.bytes(),
              static_cast<char*>(destination.raw()));
  return absl::OkStatus();
}

absl::Status CopyToHost(const ExecutionContext&, const TensorView& source, void* host) {
  std::copy_n(static_cast<const char*>(source.raw()), source.bytes(), static_cast<char*>(host));
  return absl::OkStatus();
}

}  // namespace salamander::cpu
