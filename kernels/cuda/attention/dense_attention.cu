// Dense causal attention: cuDNN for documents of some length that are here from their start, block
// attention for everything else: cached keys, short documents, heads or devices that cuDNN does not
// serve, and gradients that are to be deterministic. Each document is on one side or the other,
// which one its own shape decides alone.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/block_attention.h"
#include "kernels/cuda/attention/cudnn_attention.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/runtime.h"
#include "kernels/dense_attention.h"

namespace salamander::cuda {
namespace {

// cuDNN's tile. Shorter documents leave most of one empty.
constexpr int64_t kLeastQueries = 128;

// Documents by who computes them: for cuDNN, those of a like length together.
struct Division {
  std::vector<std::vector<Segment>> by_length;
  std::vector<Segment> others;
};

Division Divide(Segments segments, bool has_cudnn) {
  Division division;
  std::vector<Segment> sorted(segments.begin(), segments.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const Segment& a, const Segment& b) { return a.query_begin < b.query_begin; });
  for (const Segment& segment : sorted) {
    if (!has_cudnn || segment.first_position != 0 || segment.query_count < kLeastQueries) {
      division.others.push_back(segment);
      continue;
    }
    const auto length_class =
        static_cast<size_t>(std::bit_width(static_cast<uint64_t>(segment.query_count - 1)));
    if (division.by_length.size() <= length_class) division.by_length.resize(length_class + 1);
    division.by_length[length_class].push_back(segment);
  }
  return division;
}

// Null where block attention does the whole call.
CudnnAttention* CudnnFor(const ExecutionContext& context, const TensorView& q,
                         std::initializer_list<const void*> tensors) {
  CudnnAttention* const cudnn = context.cuda->cudnn_attention();
  return cudnn != nullptr && cudnn->Serves(q.dim(2)) && AreAligned(tensors) ? cudnn : nullptr;
}

// A segment's rows, in vectors of eight.
struct RowRange {
  int64_t begin, count;
};

// Grid: x over the vectors of the longest range, y over ranges. Rows of `from` are added to those
// of `to`, for two tensors at once.
__global__ void __launch_bounds__(kRowThreads)
    AddRangesKernel(const RowRange* ranges, const Packed* from_first, Packed* to_first,
                    const Packed* from_second, Packed* to_second) {
  const RowRange range = ranges[blockIdx.y];
  const int64_t offset = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  if (offset >= range.count) return;
  const int64_t at = range.begin + offset;
  const auto add = [at](const Packed* from, Packed* to) {
    float added[kLanes], sum[kLanes];
    Unpack(from[at], added);
    Unpack(to[at], sum);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) sum[i] += added[i];
    to[at] = PackEight(sum);
  };
  add(from_first, to_first);
  add(from_second, to_second);
}

absl::Status AddRanges(const ExecutionContext& context, Segments segments, const TensorView& dk,
                       const TensorView& dv, const DenseAttentionBackwardArgs& args) {
  const int64_t vectors = dk.row_size() / kLanes;
  std::vector<RowRange> ranges;
  int64_t longest = 0;
  for (const Segment& segment : segments) {
    ranges.push_back({segment.key_begin * vectors, segment.key_count() * vectors});
    longest = std::max(longest, ranges.back().count);
  }
  ASSIGN_OR_RETURN(const RowRange* const table, UploadArray(context, absl::MakeConstSpan(ranges)));
  const Grid grid = {CeilDivide(longest, kRowThreads), static_cast<int64_t>(ranges.size())};
  const auto packed = [](const TensorView& view) { return static_cast<Packed*>(view.raw()); };
  return Launch(context, "AddRanges", AddRangesKernel, {.grid = grid, .block = kRowThreads}, table,
                packed(dk), packed(args.dk), packed(dv), packed(args.dv));
}

}  // namespace

absl::Status DenseAttentionForward(const ExecutionContext& context,
                                   const DenseAttentionForwardArgs& args) {
  CudnnAttention* const cudnn =
      CudnnFor(context, args.q, {args.q.raw(), args.k.raw(), args.v.raw(), args.out.raw()});
  const Division division = Divide(args.segments, cudnn != nullptr);
  DenseAttentionForwardArgs part = args;
  for (const std::vector<Segment>& segments : division.by_length) {
    if (segments.empty()) continue;
    part.segments = segments;
    RETURN_IF_ERROR(cudnn->Forward(context, part));
  }
  if (division.others.empty()) return absl::OkStatus();
  part.segments = division.others;
  return BlockDenseForward(context, part);
}

absl::Status DenseAttentionBackward(const ExecutionContext& context,
                                    const DenseAttentionBackwardArgs& args) {
  CudnnAttention* const cudnn =
      CudnnFor(context, args.q,
               {args.q.raw(), args.k.raw(), args.v.raw(), args.out.raw(), args.d_out.raw(),
                args.dq.raw(), args.dk.raw(), args.dv.raw()});
  // Block attention repeats to the bit, and reads the logsumexp of cuDNN's forward as its own.
  const Division division = Divide(args.segments, cudnn != nullptr && !context.is_deterministic);
  DenseAttentionBackwardArgs part = args;
  for (const std::vector<Segment>& segments : division.by_length) {
    if (segments.empty()) continue;
    const ArenaScope scope(*context.arena);
    part.segments = segments;
    const auto like_keys = [&] {
      return context.arena->Tensor(DType::kBFloat16, {args.k.dim(0), args.k.dim(1), args.k.dim(2)});
    };
    part.dk = like_keys();
    part.dv = like_keys();
    RETURN_IF_ERROR(cudnn->Backward(context, part));
    RETURN_IF_ERROR(AddRanges(context, segments, part.dk, part.dv, args));
  }
  if (division.others.empty()) return absl::OkStatus();
  part = args;
  part.segments = division.others;
  return BlockDenseBackward(context, part);
}

}  // namespace salamander::cuda
