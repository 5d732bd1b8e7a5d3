// The pooled keys of block selection: a thread takes eight columns of a window's mean.
#include <algorithm>
#include <vector>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/block_list.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/selection/key_windows.cuh"

namespace salamander::cuda {
namespace {

constexpr int kPoolThreads = 256;

// Windows [first_window, ...) of a segment, its items from first_item on.
struct PoolSegment {
  int64_t key_begin, first_window, first_item;
};

struct PoolArgs {
  const BFloat16* keys;  // [Tk, Hkv * D]
  BFloat16* pooled;      // [rows, Hkv * D]
  const PoolSegment* segments;
  int segment_count;
  Windows windows;
  int64_t items, width;
  bool is_aligned;
};

// Grid: 256 threads a block over (window, eight columns), columns fastest.
__global__ void PoolKernel(const PoolArgs args) {
  const int64_t vectors = CeilDivide(args.width, kLanes);
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPoolThreads + threadIdx.x;
  if (index >= args.items * vectors) return;
  const int64_t item = index / vectors, column = index % vectors * kLanes;
  const PoolSegment segment =
      EntryOf(args.segments, args.segment_count, item, &PoolSegment::first_item);
  const int64_t window = segment.first_window + item - segment.first_item;
  const BFloat16* row = args.keys + (segment.key_begin + window * args.windows.stride) * args.width;
  float sums[kLanes] = {};
  for (int64_t i = 0; i < args.windows.size; ++i, row += args.width) {
    float values[kLanes];
    Unpack(LoadPacked(row, column, args.width, args.is_aligned), values);
#pragma unroll
    for (int j = 0; j < kLanes; ++j) sums[j] += values[j];
  }
  const float inverse = 1.0F / static_cast<float>(args.windows.size);
#pragma unroll
  for (int j = 0; j < kLanes; ++j) sums[j] *= inverse;
  StorePacked(PackEight(sums),
              args.pooled + (segment.key_begin / args.windows.stride + window) * args.width, column,
              args.width, args.is_aligned);
}

absl::Status PoolLevel(const ExecutionContext& context, const PoolKeysArgs& args,
                       const Windows& windows, const TensorView& pooled) {
  PoolArgs device = {};
  std::vector<PoolSegment> segments;
  for (const Segment& segment : args.segments) {
    const int64_t first = args.only_new ? windows.FirstEndingAt(segment.first_position) : 0;
    const int64_t end = windows.Count(segment.key_count());
    segments.push_back({segment.key_begin, first, device.items});
    device.items += std::max<int64_t>(end - first, 0);
  }
  // While decoding, most steps end no window: they launch all the same, since steps that are alike
  // are replayed.
  if (segments.empty()) return absl::OkStatus();
  const ArenaScope scope(*context.arena);
  ASSIGN_OR_RETURN(device.segments,
                   UploadArray<PoolSegment>(context, absl::MakeConstSpan(segments)));
  device.segment_count = static_cast<int>(segments.size());
  device.keys = BFloat16Data(args.k);
  device.pooled = BFloat16Data(pooled);
  device.windows = windows;
  device.width = args.k.row_size();
  device.is_aligned = device.width % kLanes == 0 && AreAligned({device.keys, device.pooled});
  const int64_t threads = device.items * CeilDivide(device.width, kLanes);
  const int64_t blocks = std::max<int64_t>(1, CeilDivide(threads, kPoolThreads));
  return Launch(context, "PoolKernel", PoolKernel, {.grid = {blocks}, .block = kPoolThreads},
                device);
}

}  // namespace

absl::Status PoolKeys(const ExecutionContext& context, const PoolKeysArgs& args) {
  RETURN_IF_ERROR(PoolLevel(context, args, FineWindows(args.shape), args.fine_keys));
  return PoolLevel(context, args, CoarseWindows(args.shape), args.coarse_keys);
}

}  // namespace salamander::cuda
