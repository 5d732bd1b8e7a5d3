#include "tests/gpu/long_stream.h"

#include <iterator>

#include "kernels/memory.h"

namespace salamander {
namespace {

// Rows that are neighbours in the stream, and where each such run begins.
constexpr int64_t kRunRows = 8;
constexpr int64_t kRunBegins[] = {0, (int64_t{1} << 31) / kLongWidth - kRunRows / 2,
                                  kLongTokens - kRunRows};
static_assert(std::size(kRunBegins) * kRunRows == kSampledRows);

// Calls visit(run's rows of the sample, run's rows of the stream).
template <typename Visit>
void ForEachRun(const TensorView& sample, const TensorView& stream, const Visit& visit) {
  for (int64_t run = 0; run < kSampledRows / kRunRows; ++run) {
    visit(sample.Rows(run * kRunRows, kRunRows), stream.Rows(kRunBegins[run], kRunRows));
  }
}

}  // namespace

int64_t LongRow(int64_t index) {
  return kRunBegins[index / kRunRows] + index % kRunRows;
}

TensorView UploadSample(GpuContext& gpu, const TestTensor& sample, DType dtype) {
  const TensorView rows = gpu.Upload(sample, dtype);
  const TensorView stream =
      InRowsLike(gpu.Zeros(rows.dtype(), {kLongTokens * rows.row_size()}), rows);
  ForEachRun(rows, stream, [&](const TensorView& from, const TensorView& to) {
    EXPECT_TRUE(Copy(gpu, from, to).ok());
  });
  return stream;
}

TensorView PoisonedLong(GpuContext& gpu, const TestTensor& sample, DType dtype) {
  const TensorView rows = sample.View();
  return InRowsLike(gpu.Poisoned(dtype, {kLongTokens * rows.row_size()}), rows);
}

TestTensor DownloadSample(GpuContext& gpu, const TensorView& stream) {
  const TensorView rows =
      InRowsLike(gpu.Poisoned(stream.dtype(), {kSampledRows * stream.row_size()}), stream);
  ForEachRun(rows, stream, [&](const TensorView& to, const TensorView& from) {
    EXPECT_TRUE(Copy(gpu, from, to).ok());
  });
  return gpu.Download(rows);
}

TensorView UploadBehind(GpuContext& gpu, int64_t before, const TestTensor& rows, DType dtype) {
  const TensorView end = gpu.Upload(rows, dtype);
  if (before == 0) return end;
  const TensorView flat = gpu.Poisoned(end.dtype(), {(before + end.dim(0)) * end.row_size()});
  const TensorView stream = InRowsLike(flat, end);
  EXPECT_TRUE(Copy(gpu, end, stream.Rows(before, end.dim(0))).ok());
  return stream;
}

std::vector<Segment> Behind(int64_t before, Segments segments) {
  std::vector<Segment> behind(segments.begin(), segments.end());
  for (Segment& segment : behind) {
    segment.query_begin += before;
    segment.key_begin += before;
  }
  return behind;
}

}  // namespace salamander
