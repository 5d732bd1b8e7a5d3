// A stream of 512K + 64 tokens on the device, whose rows of kLongWidth elements reach beyond
// element 2^31. A test holds a sample of its rows: its first, those around that element, its last.
// All others are zeros, so that an fp64 twin can do with the sample, and an offset that wraps
// shows.
#ifndef TESTS_GPU_LONG_STREAM_H_
#define TESTS_GPU_LONG_STREAM_H_

#include <cstdint>
#include <vector>

#include "kernels/base/segments.h"
#include "tests/gpu/gpu_context.h"

namespace salamander {

inline constexpr int64_t kLongTokens = (int64_t{512} << 10) + 64;
inline constexpr int64_t kLongWidth = 4096;  // element 2^31 begins row 512K
inline constexpr int64_t kSampledRows = 24;

// For an op's scratch beside a long stream.
inline constexpr int64_t kLongScratchBytes = int64_t{1} << 30;

// Of so many bf16 tensors [kLongTokens, kLongWidth], and small ones beside them.
constexpr int64_t LongTensorBytes(int64_t tensors) {
  return tensors * kLongTokens * kLongWidth * 2 + (int64_t{256} << 20);
}

#define SKIP_WITHOUT_GPU_MEMORY_FOR_LONG(tensors) \
  SKIP_WITHOUT_GPU_MEMORY(::salamander::LongTensorBytes(tensors) + ::salamander::kLongScratchBytes)

// Where row `index` of the sample lies in the stream.
int64_t LongRow(int64_t index);

// [kLongTokens, ...] on the device from a sample [kSampledRows, ...].
TensorView UploadSample(GpuContext& gpu, const TestTensor& sample, DType dtype = DType::kBFloat16);
// The same with every bit set, in rows like those of `sample`.
TensorView PoisonedLong(GpuContext& gpu, const TestTensor& sample, DType dtype = DType::kBFloat16);
TestTensor DownloadSample(GpuContext& gpu, const TensorView& stream);

// Where an op reads segments alone, short ones may end a long stream instead: `rows` behind so many
// others, which hold NaN.
TensorView UploadBehind(GpuContext& gpu, int64_t before, const TestTensor& rows,
                        DType dtype = DType::kBFloat16);
std::vector<Segment> Behind(int64_t before, Segments segments);

}  // namespace salamander

#endif  // TESTS_GPU_LONG_STREAM_H_
