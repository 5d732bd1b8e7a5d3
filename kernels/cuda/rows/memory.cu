// Filling, copying and converting. Conversion passes once over both tensors, eight elements to a
// thread; fp32 to bf16 rounds to nearest, ties to even.
#include "absl/strings/str_cat.h"

#include "kernels/backend_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/memory.h"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;

__device__ void LoadEight(const BFloat16* source, float (&values)[kLanes]) {
  Unpack(*reinterpret_cast<const Packed*>(source), values);
}

__device__ void LoadEight(const float* source, float (&values)[kLanes]) {
#pragma unroll
  for (int i = 0; i < kLanes; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(source + i);
    values[i] = four.x;
    values[i + 1] = four.y;
    values[i + 2] = four.z;
    values[i + 3] = four.w;
  }
}

__device__ void StoreEight(const float (&values)[kLanes], BFloat16* destination) {
  *reinterpret_cast<Packed*>(destination) = PackEight(values);
}

__device__ void StoreEight(const float (&values)[kLanes], float* destination) {
#pragma unroll
  for (int i = 0; i < kLanes; i += 4) {
    *reinterpret_cast<float4*>(destination + i) =
        make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
  }
}

// Grid: one block per kThreads * 8 elements.
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(const From* source, To* destination, int64_t size, bool is_aligned) {
  const int64_t begin = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kLanes;
  if (is_aligned && begin + kLanes <= size) {
    float values[kLanes];
    LoadEight(source + begin, values);
    StoreEight(values, destination + begin);
    return;
  }
  for (int64_t i = begin; i < begin + kLanes && i < size; ++i) {
    destination[i] = static_cast<To>(static_cast<float>(source[i]));
  }
}

template <typename From, typename To>
absl::Status LaunchConvert(const ExecutionContext& context, const TensorView& source,
                           const TensorView& destination) {
  const int64_t size = source.size();
  if (size == 0) return absl::OkStatus();
  const auto* const from = static_cast<const From*>(source.raw());
  auto* const to = static_cast<To*>(destination.raw());
  const int64_t blocks = CeilDivide(size, kThreads * kLanes);
  return Launch(context, "Convert", ConvertKernel<From, To>, {.grid = {blocks}, .block = kThreads},
                from, to, size, AreAligned({from, to}));
}

// Grid: one block per kThreads elements.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    AddKernel(const Element* source, Element* destination, int64_t size) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < size) destination[i] += source[i];
}

template <typename Element>
absl::Status LaunchAdd(const ExecutionContext& context, const TensorView& source,
                       const TensorView& destination) {
  const int64_t size = source.size();
  if (size == 0) return absl::OkStatus();
  return Launch(context, "Add", AddKernel<Element>,
                {.grid = {CeilDivide(size, kThreads)}, .block = kThreads}, source.data<Element>(),
                destination.data<Element>(), size);
}

// Moves `units` units of a row's part. Grid: one block per (row, part), parts fastest.
template <typename Unit>
__global__ void __launch_bounds__(kThreads)
    JoinColumnsKernel(const Unit* source, Unit* destination, int64_t rows, int parts,
                      int64_t units) {
  const int64_t row = blockIdx.x / parts, part = blockIdx.x % parts;
  const Unit* const from = source + (part * rows + row) * units;
  Unit* const to = destination + int64_t{blockIdx.x} * units;
  for (int64_t i = threadIdx.x; i < units; i += kThreads) to[i] = from[i];
}

template <typename Unit>
absl::Status LaunchJoinColumns(const ExecutionContext& context, const TensorView& source,
                               int64_t parts, const TensorView& destination) {
  const int64_t rows = destination.dim(0);
  const int64_t units = source.bytes() / (rows * parts) / static_cast<int64_t>(sizeof(Unit));
  return Launch(context, "JoinColumns", JoinColumnsKernel<Unit>,
                {.grid = {rows * parts}, .block = kThreads}, static_cast<const Unit*>(source.raw()),
                static_cast<Unit*>(destination.raw()), rows, static_cast<int>(parts), units);
}

}  // namespace

absl::Status Zero(const ExecutionContext& context, const TensorView& tensor) {
  return context.cuda->Fill(tensor.raw(), 0, tensor.bytes());
}

absl::Status Copy(const ExecutionContext& context, const TensorView& source,
                  const TensorView& destination) {
  return context.cuda->Copy(source.raw(), destination.raw(), source.bytes());
}

absl::Status Add(const ExecutionContext& context, const TensorView& source,
                 const TensorView& destination) {
  return source.dtype() == DType::kFloat64 ? LaunchAdd<double>(context, source, destination)
                                           : LaunchAdd<float>(context, source, destination);
}

absl::Status JoinColumns(const ExecutionContext& context, const TensorView& source, int64_t parts,
                         const TensorView& destination) {
  if (source.size() == 0) return absl::OkStatus();
  const bool is_whole = source.bytes() / (destination.dim(0) * parts) % sizeof(uint4) == 0;
  return is_whole && AreAligned({source.raw(), destination.raw()})
             ? LaunchJoinColumns<uint4>(context, source, parts, destination)
             : LaunchJoinColumns<uint16_t>(context, source, parts, destination);
}

absl::Status Convert(const ExecutionContext& context, const TensorView& source,
                     const TensorView& destination) {
  const DType from = source.dtype(), to = destination.dtype();
  if (from == to) return cuda::Copy(context, source, destination);
  if (from == DType::kFloat32 && to == DType::kBFloat16) {
    return LaunchConvert<float, BFloat16>(context, source, destination);
  }
  if (from == DType::kBFloat16 && to == DType::kFloat32) {
    return LaunchConvert<BFloat16, float>(context, source, destination);
  }
  return absl::UnimplementedError(absl::StrCat(
      "Convert: ", Name(from), " to ", Name(to),
      " on CUDA; it converts between float32 and bfloat16, convert others on the CPU"));
}

absl::Status CopyFromHost(const ExecutionContext& context, const void* host,
                          const TensorView& destination) {
  return context.cuda->Upload(host, destination.raw(), destination.bytes());
}

absl::Status CopyToHost(const ExecutionContext& context, const TensorView& source, void* host) {
  return context.cuda->Download(source.raw(), host, source.bytes());
}

}  // namespace salamander::cuda
