// Sines and cosines in fp64 on the device: a step's tables need not cross the bus. The segments'
// places cross it, and both sets of frequencies.
#include <vector>

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/block_list.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/vector.cuh"
#include "kernels/rope_tables.h"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRowsPerBlock = 16;

struct Piece {
  int64_t first_block;
  int64_t row_begin, row_count;
  int64_t first_position;
  int64_t frequencies;  // where this segment's set begins
};

struct DeviceArgs {
  const Piece* pieces;
  int count;
  const double* frequencies;  // [2, half]: the short set, the long one
  int64_t half;
  double factor;
  float *cosines, *sines;  // [T, half]
};

// Grid: one block per kRowsPerBlock rows of a segment.
__global__ void __launch_bounds__(kThreads)
    RopeTablesKernel(const __grid_constant__ DeviceArgs args) {
  const Piece piece = EntryOfBlock(args.pieces, args.count, blockIdx.x);
  const int64_t half = args.half;
  const int64_t first_row = (blockIdx.x - piece.first_block) * kRowsPerBlock;
  const int64_t rows = min(int64_t{kRowsPerBlock}, piece.row_count - first_row);
  for (int64_t i = threadIdx.x; i < rows * half; i += kThreads) {
    const int64_t row = first_row + i / half, d = i % half;
    const auto position = static_cast<double>(piece.first_position + row);
    double sine, cosine;
    sincos(position * args.frequencies[piece.frequencies + d], &sine, &cosine);
    const int64_t at = (piece.row_begin + row) * half + d;
    args.cosines[at] = static_cast<float>(args.factor * cosine);
    args.sines[at] = static_cast<float>(args.factor * sine);
  }
}

}  // namespace

absl::Status RopeTables(const ExecutionContext& context, const RopeTablesArgs& args) {
  const ArenaScope scope(*context.arena);
  const int64_t half = args.cosines.dim(1);
  std::vector<Piece> pieces;
  int64_t blocks = 0;
  for (const Segment& segment : args.segments) {
    pieces.push_back({.first_block = blocks,
                      .row_begin = segment.query_begin,
                      .row_count = segment.query_count,
                      .first_position = segment.first_position,
                      .frequencies = segment.document_length() > args.short_length ? half : 0});
    blocks += CeilDivide(segment.query_count, kRowsPerBlock);
  }
  if (blocks == 0 || half == 0) return absl::OkStatus();
  std::vector<double> frequencies(args.short_frequencies.begin(), args.short_frequencies.end());
  frequencies.insert(frequencies.end(), args.long_frequencies.begin(), args.long_frequencies.end());
  ASSIGN_OR_RETURN(const Piece* const device_pieces,
                   UploadArray(context, absl::Span<const Piece>(pieces)));
  ASSIGN_OR_RETURN(const double* const device_frequencies,
                   UploadArray(context, absl::Span<const double>(frequencies)));
  const DeviceArgs device{.pieces = device_pieces,
                          .count = static_cast<int>(pieces.size()),
                          .frequencies = device_frequencies,
                          .half = half,
                          .factor = args.factor,
                          .cosines = args.cosines.data<float>(),
                          .sines = args.sines.data<float>()};
  return Launch(context, "RopeTables", RopeTablesKernel, {.grid = {blocks}, .block = kThreads},
                device);
}

}  // namespace salamander::cuda
