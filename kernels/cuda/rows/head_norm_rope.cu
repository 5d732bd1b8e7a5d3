// Formulas in kernels/head_norm_rope.h. A head of one token (D elements) belongs to a group of
// lanes of one warp. A lane holds eight elements of the first half and the eight that the rotation
// pairs them with, so that norm and rotation pass once over memory, in registers.
//   Forward: a group takes up to four heads of a token, whose rows it loads before it works on the
// first: they share the angles and the weight, and 128 bytes a thread are on their way at a time,
// which the memory of an H200 needs.
//   Backward of the norm: a group takes one head after another. A thread copies what it will read
// itself (dy, x, angles) into shared memory two heads ahead, which holds more on its way than
// registers could and asks for no barrier. The lanes keep their elements' part of d_weight in
// registers over the heads of a block; the groups of a block are added in shared memory, the blocks
// by a second kernel.
#include "absl/strings/str_cat.h"

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/rows/column_sums.h"
#include "kernels/cuda/tensor_core.cuh"
#include "kernels/head_norm_rope.h"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxDim = 2 * kWarp * kLanes;

struct DeviceArgs {
  const BFloat16* input;         // [T, H, D]; forward x, backward dy
  const BFloat16* normed;        // [T, H, D] the forward's x, for the backward of the norm
  const BFloat16* weight;        // [D] or null
  const float *cosines, *sines;  // [T, D/2] or null
  float* inverse_rms;            // [T, H] or null
  BFloat16* output;              // [T, H, D]; forward y, backward dx
  float* partials;               // [blocks, D] or null
  int64_t rows;                  // T * H
  int64_t rows_per_block;
  int heads, dim, half;  // half = ceil(D / 2): an odd D has a middle element and no rotation
  int lanes;             // of a group, a power of two
  float epsilon;
};

// The sum over a group's lanes, on each of them, in a fixed order.
__device__ float GroupSum(float value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(kFullMask, value, offset);
  }
  return value;
}

// The part of a head's row that a lane holds: elements d to d + 7 and those from d + half on.
struct PackedPair {
  Packed first, second;
};

struct Pair {
  float first[kLanes], second[kLanes];
};

struct Angles {
  float4 cosines[2], sines[2];
};

__device__ Pair UnpackPair(const PackedPair& packed) {
  Pair pair;
  Unpack(packed.first, pair.first);
  Unpack(packed.second, pair.second);
  return pair;
}

template <bool kAligned>
__device__ PackedPair LoadPair(const BFloat16* row, int d, const DeviceArgs& args) {
  return {LoadPacked(row, d, args.half, kAligned),
          LoadPacked(row + args.half, d, args.dim - args.half, kAligned)};
}

template <bool kAligned>
__device__ void StorePair(const Pair& pair, BFloat16* row, int d, const DeviceArgs& args) {
  StorePacked(PackEight(pair.first), row, d, args.half, kAligned);
  StorePacked(PackEight(pair.second), row + args.half, d, args.dim - args.half, kAligned);
}

// Elements [begin, begin + 4) of `count`; those from `count` on are zero.
template <bool kAligned>
__device__ float4 LoadFour(const float* table, int begin, int count) {
  if constexpr (kAligned) return *reinterpret_cast<const float4*>(table + begin);
  const auto at = [&](int i) { return i < count ? table[i] : 0.0F; };
  return {at(begin), at(begin + 1), at(begin + 2), at(begin + 3)};
}

// The angles of eight pairs.
template <bool kAligned>
__device__ Angles LoadAngles(const DeviceArgs& args, int64_t token, int d) {
  const float *cosines = args.cosines + token * args.half, *sines = args.sines + token * args.half;
  return {
      {LoadFour<kAligned>(cosines, d, args.half), LoadFour<kAligned>(cosines, d + 4, args.half)},
      {LoadFour<kAligned>(sines, d, args.half), LoadFour<kAligned>(sines, d + 4, args.half)}};
}

__device__ void ToArray(const float4 (&fours)[2], float (&values)[kLanes]) {
  values[0] = fours[0].x, values[1] = fours[0].y, values[2] = fours[0].z, values[3] = fours[0].w;
  values[4] = fours[1].x, values[5] = fours[1].y, values[6] = fours[1].z, values[7] = fours[1].w;
}

// kDirection is 1, or -1 to turn back, which is the transpose.
template <int kDirection>
__device__ void Rotate(const Angles& angles, Pair& pair) {
  float cosines[kLanes], sines[kLanes];
  ToArray(angles.cosines, cosines);
  ToArray(angles.sines, sines);
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    const float first = pair.first[i], second = pair.second[i];
    const float sine = kDirection * sines[i];
    pair.first[i] = first * cosines[i] - second * sine;
    pair.second[i] = second * cosines[i] + first * sine;
  }
}

// The norm forward and the rotation in either direction. Grid: one block per kThreads / lanes
// parts. A part is kHeads heads of a token, `parts` heads apart. Block: groups of `lanes` threads.
template <bool kAligned, int kHeads, int kDirection>
__global__ void __launch_bounds__(kThreads, 2)
    ForwardKernel(const __grid_constant__ DeviceArgs args) {
  const int groups = kThreads / args.lanes;
  const int parts = args.heads / kHeads;
  const int d = static_cast<int>(threadIdx.x) % args.lanes * kLanes;
  const int64_t part = int64_t{blockIdx.x} * groups + static_cast<int>(threadIdx.x) / args.lanes;
  const int64_t token = part / parts;
  const int64_t first_row = token * args.heads + (part - token * parts);
  const bool holds = first_row < args.rows && d < args.half;
  const bool has_norm = args.weight != nullptr, has_rotation = args.cosines != nullptr;
  PackedPair rows[kHeads] = {};
  Pair weight = {};
  Angles angles;
  if (holds) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      rows[h] = LoadPair<kAligned>(args.input + (first_row + h * parts) * args.dim, d, args);
    }
    if (has_rotation) angles = LoadAngles<kAligned>(args, token, d);
    if (has_norm) weight = UnpackPair(LoadPair<kAligned>(args.weight, d, args));
  }
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const int64_t row = first_row + h * parts;
    Pair x = UnpackPair(rows[h]);
    if (has_norm) {
      float squares = 0.0F;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        squares += x.first[i] * x.first[i] + x.second[i] * x.second[i];
      }
      const float mean = GroupSum(squares, args.lanes) / static_cast<float>(args.dim);
      const float r = rsqrtf(mean + args.epsilon);
      if (holds && d == 0) args.inverse_rms[row] = r;
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        x.first[i] *= r * weight.first[i];
        x.second[i] *= r * weight.second[i];
      }
    }
    if (!holds) continue;
    if (has_rotation) Rotate<kDirection>(angles, x);
    StorePair<kAligned>(x, args.output + row * args.dim, d, args);
  }
}

// What a thread of the backward reads for one head, in vectors of 16 bytes that lie kThreads apart,
// so that a warp's lie side by side.
struct Slots {
  enum : int { kDy = 0, kX = 2, kCosines = 4, kSines = 6, kCount = 8 };

  Packed* base;  // the thread's first

  __device__ Packed& operator[](int slot) const { return base[slot * kThreads]; }
  __device__ PackedPair PairAt(int slot) const { return {(*this)[slot], (*this)[slot + 1]}; }
  __device__ void Put(int slot, const PackedPair& pair) const {
    (*this)[slot] = pair.first;
    (*this)[slot + 1] = pair.second;
  }
  __device__ float4& FourAt(int slot) const { return reinterpret_cast<float4&>((*this)[slot]); }
  __device__ Angles AnglesHere() const {
    return {{FourAt(kCosines), FourAt(kCosines + 1)}, {FourAt(kSines), FourAt(kSines + 1)}};
  }
};

// Past the first-level cache, where the angles are to stay: all heads of a token read them.
__device__ void CopyPair(const Slots& slots, int slot, const BFloat16* row, int half) {
  CopyAsync(SharedAddress(&slots[slot]), row, true);
  CopyAsync(SharedAddress(&slots[slot + 1]), row + half, true);
}

__device__ void CopyAngles(const Slots& slots, int slot, const float* angles) {
  for (int i = 0; i < 2; ++i) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" ::"r"(SharedAddress(&slots[slot + i])),
                 "l"(angles + 4 * i)
                 : "memory");
  }
}

// Begins to fetch what the head needs; vectors that no copy of 16 bytes fits are there at once.
template <bool kAligned>
__device__ void Fetch(const DeviceArgs& args, int64_t row, int d, const Slots& slots) {
  const BFloat16 *dy = args.input + row * args.dim, *x = args.normed + row * args.dim;
  const int64_t token = row / args.heads;
  const bool has_rotation = args.cosines != nullptr;
  if constexpr (kAligned) {
    CopyPair(slots, Slots::kDy, dy + d, args.half);
    CopyPair(slots, Slots::kX, x + d, args.half);
    if (!has_rotation) return;
    CopyAngles(slots, Slots::kCosines, args.cosines + token * args.half + d);
    CopyAngles(slots, Slots::kSines, args.sines + token * args.half + d);
  } else {
    slots.Put(Slots::kDy, LoadPair<false>(dy, d, args));
    slots.Put(Slots::kX, LoadPair<false>(x, d, args));
    if (!has_rotation) return;
    const Angles angles = LoadAngles<false>(args, token, d);
    for (int i = 0; i < 2; ++i) {
      slots.FourAt(Slots::kCosines + i) = angles.cosines[i];
      slots.FourAt(Slots::kSines + i) = angles.sines[i];
    }
  }
}

constexpr int kStages = 2;  // heads on their way
constexpr int64_t kStageBytes = int64_t{Slots::kCount} * kThreads * sizeof(Packed);

// The block's part of d_weight, from its threads' parts, in `sums` of shared memory.
__device__ void WritePartials(const DeviceArgs& args, const Pair& d_weight, float* sums) {
#pragma unroll
  for (int i = 0; i < kLanes; ++i) {
    sums[threadIdx.x * 2 * kLanes + i] = d_weight.first[i];
    sums[threadIdx.x * 2 * kLanes + kLanes + i] = d_weight.second[i];
  }
  __syncthreads();
  for (int element = static_cast<int>(threadIdx.x); element < args.dim; element += kThreads) {
    const bool is_second = element >= args.half;
    const int in_half = is_second ? element - args.half : element;
    const int at = in_half / kLanes * 2 * kLanes + (is_second ? kLanes : 0) + in_half % kLanes;
    float sum = 0.0F;
    for (int g = 0; g < kThreads / args.lanes; ++g) sum += sums[g * args.lanes * 2 * kLanes + at];
    args.partials[int64_t{blockIdx.x} * args.dim + element] = sum;
  }
}

// The backward where there is a norm. Grid: one block per rows_per_block rows, a multiple of its
// groups. Block: groups of `lanes` threads, each group taking every groups-th row. Shared memory:
// the slots of kStages heads, [kStages, Slots::kCount, kThreads]; then the sums over groups.
template <bool kAligned>
__global__ void __launch_bounds__(kThreads, 3)
    NormBackwardKernel(const __grid_constant__ DeviceArgs args) {
  extern __shared__ Packed stages[];
  __shared__ Packed weights[2][kWarp];  // [half, lane of a group]
  const int groups = kThreads / args.lanes;
  const int group = static_cast<int>(threadIdx.x) / args.lanes;
  const int lane = static_cast<int>(threadIdx.x) % args.lanes;
  const int d = lane * kLanes;
  const int64_t first_row = blockIdx.x * args.rows_per_block;
  const int64_t end_row = min(args.rows, first_row + args.rows_per_block);
  const auto slots_of = [&](int stage) {
    return Slots{stages + stage * (Slots::kCount * kThreads) + threadIdx.x};
  };
  const auto fetch = [&](int64_t row, int stage) {
    if (row < end_row && d < args.half) Fetch<kAligned>(args, row, d, slots_of(stage));
    CommitCopies();
  };
#pragma unroll
  for (int stage = 0; stage < kStages; ++stage) fetch(first_row + group + stage * groups, stage);
  if (group == 0 && d < args.half) {
    const PackedPair weight = LoadPair<kAligned>(args.weight, d, args);
    weights[0][lane] = weight.first;
    weights[1][lane] = weight.second;
  }
  __syncthreads();
  const auto inverse_rms = [&](int64_t row) {
    return row < end_row && d < args.half ? args.inverse_rms[row] : 0.0F;
  };
  Pair d_weight = {};
  float next_r = inverse_rms(first_row + group);
  int stage = 0;
  // All lanes of a warp take the same number of turns: they exchange sums.
  for (int64_t turn = first_row; turn < end_row; turn += groups) {
    const int64_t row = turn + group;
    const bool holds = row < end_row && d < args.half;
    const float r = next_r;
    next_r = inverse_rms(row + groups);
    WaitForCopies<kStages - 1>();
    const Slots slots = slots_of(stage);
    Pair dy = {};
    float dot = 0.0F;
    if (holds) {
      dy = UnpackPair(slots.PairAt(Slots::kDy));
      if (args.cosines != nullptr) Rotate<-1>(slots.AnglesHere(), dy);
      const Pair x = UnpackPair(slots.PairAt(Slots::kX));
      const Pair weight = UnpackPair({weights[0][lane], weights[1][lane]});
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        const float first = x.first[i] * dy.first[i], second = x.second[i] * dy.second[i];
        d_weight.first[i] += first * r;
        d_weight.second[i] += second * r;
        dot += first * weight.first[i] + second * weight.second[i];
      }
    }
    const float pull = GroupSum(dot, args.lanes) / static_cast<float>(args.dim) * r * r;
    // x and the weight are read again rather than kept: the registers are for a third block.
    asm volatile("" ::: "memory");
    if (holds) {
      const Pair x = UnpackPair(slots.PairAt(Slots::kX));
      const Pair weight = UnpackPair({weights[0][lane], weights[1][lane]});
#pragma unroll
      for (int i = 0; i < kLanes; ++i) {
        dy.first[i] = r * (weight.first[i] * dy.first[i] - x.first[i] * pull);
        dy.second[i] = r * (weight.second[i] * dy.second[i] - x.second[i] * pull);
      }
      StorePair<kAligned>(dy, args.output + row * args.dim, d, args);
    }
    fetch(row + kStages * groups, stage);
    stage = (stage + 1) % kStages;
  }
  if (args.partials == nullptr) return;
  __syncthreads();  // the sums lie where slots were
  WritePartials(args, d_weight, reinterpret_cast<float*>(stages));
}

// The rows of a block depend on the shape alone, so that a sum repeats on any GPU. A wave is three
// blocks on each of Hopper's 132 multiprocessors: one where a block then has few turns, which must
// outlast its start and its sums, else three, which even out.
constexpr int64_t kWave = 3 * 132;
constexpr int64_t kFewTurns = 16;

int64_t RowsPerBlock(int64_t rows, int groups) {
  const int64_t turns = CeilDivide(rows, groups);
  return groups * CeilDivide(turns, turns <= kFewTurns * kWave ? kWave : 3 * kWave);
}

// What forward and backward have in common; `heads` is any of the [T, H, D] views.
absl::Status SetShape(const char* op, const TensorView& heads, DeviceArgs& args) {
  const int64_t dim = heads.dim(2);
  if (dim > kMaxDim) {
    return absl::UnimplementedError(absl::StrCat(op, ": heads of ", dim,
                                                 " elements on CUDA; at most ", kMaxDim,
                                                 " are built, use device: cpu"));
  }
  args.rows = heads.dim(0) * heads.dim(1);
  args.heads = static_cast<int>(heads.dim(1));
  args.dim = static_cast<int>(dim);
  args.half = (args.dim + 1) / 2;
  args.lanes = 1;
  while (args.lanes * kLanes < args.half) args.lanes *= 2;
  return absl::OkStatus();
}

bool IsAligned(const DeviceArgs& args) {
  return args.dim % (2 * kLanes) == 0 &&
         AreAligned({args.input, args.normed, args.weight, args.cosines, args.sines, args.output});
}

template <bool kAligned, int kHeads, int kDirection>
absl::Status LaunchForwardOf(const ExecutionContext& context, const DeviceArgs& args) {
  const auto kernel = ForwardKernel<kAligned, kHeads, kDirection>;
  const int64_t blocks = CeilDivide(args.rows / kHeads, kThreads / args.lanes);
  return Launch(context, "HeadNormRope", kernel, {.grid = {blocks}, .block = kThreads}, args);
}

template <int kDirection>
absl::Status LaunchForward(const ExecutionContext& context, const DeviceArgs& args) {
  if (!IsAligned(args)) return LaunchForwardOf<false, 1, kDirection>(context, args);
  if (args.heads % 4 == 0) return LaunchForwardOf<true, 4, kDirection>(context, args);
  if (args.heads % 2 == 0) return LaunchForwardOf<true, 2, kDirection>(context, args);
  return LaunchForwardOf<true, 1, kDirection>(context, args);
}

}  // namespace

absl::Status HeadNormRopeForward(const ExecutionContext& context,
                                 const HeadNormRopeForwardArgs& args) {
  DeviceArgs device{.input = BFloat16Data(args.input),
                    .weight = BFloat16Data(args.weight),
                    .cosines = DataOrNull<float>(args.cosines),
                    .sines = DataOrNull<float>(args.sines),
                    .inverse_rms = DataOrNull<float>(args.inverse_rms),
                    .output = BFloat16Data(args.output),
                    .epsilon = static_cast<float>(args.epsilon)};
  RETURN_IF_ERROR(SetShape("HeadNormRopeForward", args.input, device));
  if (args.input.size() == 0) return absl::OkStatus();
  return LaunchForward<1>(context, device);
}

absl::Status HeadNormRopeBackward(const ExecutionContext& context,
                                  const HeadNormRopeBackwardArgs& args) {
  DeviceArgs device{.input = BFloat16Data(args.d_output),
                    .normed = BFloat16Data(args.input),
                    .weight = BFloat16Data(args.weight),
                    .cosines = DataOrNull<float>(args.cosines),
                    .sines = DataOrNull<float>(args.sines),
                    .inverse_rms = DataOrNull<float>(args.inverse_rms),
                    .output = BFloat16Data(args.d_input)};
  RETURN_IF_ERROR(SetShape("HeadNormRopeBackward", args.d_output, device));
  if (args.d_output.size() == 0) return absl::OkStatus();
  if (device.weight == nullptr) return LaunchForward<-1>(context, device);

  const ArenaScope scope(*context.arena);
  device.rows_per_block = RowsPerBlock(device.rows, kThreads / device.lanes);
  const int64_t blocks = CeilDivide(device.rows, device.rows_per_block);
  if (!args.d_weight.empty()) device.partials = context.arena->Array<float>(blocks * device.dim);
  const auto kernel = IsAligned(device) ? NormBackwardKernel<true> : NormBackwardKernel<false>;
  RETURN_IF_ERROR(
      Launch(context, "HeadNormRopeBackward", kernel,
             {.grid = {blocks}, .block = kThreads, .shared_bytes = kStages * kStageBytes}, device));
  if (args.d_weight.empty()) return absl::OkStatus();
  return AddColumnSums(context, device.partials, blocks, device.dim, args.d_weight.data<float>());
}

}  // namespace salamander::cuda
