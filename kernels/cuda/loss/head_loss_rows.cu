// The kernels of the output head's losses: a block per row of logits. A row is passed over twice:
// for its largest logit and the sum of exponentials, then, from its end so that what the cache
// still holds is read first, for the gradient. Where the vocabulary is split among ranks, the two
// passes are kernels of their own: between them the ranks gather what each found in its part.
#include <cfloat>
#include <cstdint>

#include "kernels/base/status_macros.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/loss/head_loss_rows.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kFour = 4;     // elements of a load
constexpr int kVectors = 4;  // loads of a thread in flight
constexpr int kStep = kThreads * kFour;
constexpr int kTile = kStep * kVectors;
constexpr int kSumThreads = 1024;

struct Row {
  int64_t vocabulary;
  bool is_aligned;  // whole vectors of four at every row's start
};

// Elements [begin, begin + 4) of the row; -infinity from its end on.
__device__ float4 LoadFour(const float* logits, int64_t begin, const Row& row) {
  if (row.is_aligned && begin < row.vocabulary) {
    return *reinterpret_cast<const float4*>(logits + begin);
  }
  const auto at = [&](int64_t i) { return i < row.vocabulary ? logits[i] : -INFINITY; };
  return make_float4(at(begin), at(begin + 1), at(begin + 2), at(begin + 3));
}

__device__ void StoreFour(const float4& values, BFloat16* destination, int64_t begin,
                          const Row& row) {
  if (row.is_aligned && begin < row.vocabulary) {
    *reinterpret_cast<uint2*>(destination + begin) =
        make_uint2(PackPair(values.x, values.y), PackPair(values.z, values.w));
    return;
  }
  const float each[kFour] = {values.x, values.y, values.z, values.w};
#pragma unroll
  for (int i = 0; i < kFour; ++i) {
    if (begin + i < row.vocabulary) destination[begin + i] = __float2bfloat16(each[i]);
  }
}

__device__ void StoreZeros(BFloat16* destination, const Row& row) {
  if (destination == nullptr) return;
  for (int64_t begin = int64_t{threadIdx.x} * kFour; begin < row.vocabulary; begin += kStep) {
    StoreFour(make_float4(0.0F, 0.0F, 0.0F, 0.0F), destination, begin, row);
  }
}

struct Softmax {
  float largest = -FLT_MAX;
  int64_t argmax = 0;  // the lowest of equals
  float sum = 0.0F;    // of exp(logit - largest)
};

struct SoftmaxScratch {
  float largest[kWarp], sums[kWarp];
  int64_t argmax[kWarp];
};

__device__ void KeepLarger(float largest, int64_t argmax, Softmax& best) {
  if (largest > best.largest || (largest == best.largest && argmax < best.argmax)) {
    best.largest = largest;
    best.argmax = argmax;
  }
}

// Adds a tile's logits of this thread.
__device__ void AddTile(const float4 (&tile)[kVectors], int64_t begin, Softmax& softmax) {
  float largest = softmax.largest;
#pragma unroll
  for (const float4& four : tile) {
    largest = fmaxf(largest, fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w)));
  }
  if (largest > softmax.largest) {
    softmax.sum *= expf(softmax.largest - largest);
    softmax.largest = largest;
#pragma unroll
    for (int i = kVectors - 1; i >= 0; --i) {  // backwards: the lowest is kept
      const float each[kFour] = {tile[i].x, tile[i].y, tile[i].z, tile[i].w};
#pragma unroll
      for (int j = kFour - 1; j >= 0; --j) {
        if (each[j] == largest) softmax.argmax = begin + int64_t{i} * kStep + j;
      }
    }
  }
#pragma unroll
  for (const float4& four : tile) {
    softmax.sum += (expf(four.x - largest) + expf(four.y - largest)) +
                   (expf(four.z - largest) + expf(four.w - largest));
  }
}

// Over the whole row, on every thread of the block. NaN in the row ends in `sum`.
__device__ Softmax SoftmaxOf(const float* logits, const Row& row, SoftmaxScratch& scratch) {
  Softmax own;
  for (int64_t begin = int64_t{threadIdx.x} * kFour; begin < row.vocabulary; begin += kTile) {
    float4 tile[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      tile[i] = LoadFour(logits, begin + int64_t{i} * kStep, row);
    }
    AddTile(tile, begin, own);
  }
  Softmax all = own;
#pragma unroll
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    KeepLarger(__shfl_xor_sync(kFullMask, all.largest, offset),
               __shfl_xor_sync(kFullMask, all.argmax, offset), all);
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) {
    scratch.largest[warp] = all.largest;
    scratch.argmax[warp] = all.argmax;
  }
  __syncthreads();
  for (int i = 0; i < kThreads / kWarp; ++i) KeepLarger(scratch.largest[i], scratch.argmax[i], all);
  all.sum = BlockSum(own.sum * expf(own.largest - all.largest), scratch.sums);
  return all;
}

// What a rank knows of a row of its part of the vocabulary; numbers of one type, for the gather.
struct CrossEntropyPart {
  double largest, sum;  // as in Softmax
  double target_logit;  // 0 where another part holds the target
  double argmax;        // in the whole vocabulary
};

struct DistillationPart {
  double student_largest, student_sum;
  double teacher_largest, teacher_sum;
  double gap;  // sum of exp(z - max z) * ((z - max z) - (y - max y))
};

// A chunk's rows in every part of a split vocabulary.
template <typename Part>
struct RowParts {
  const Part* parts;  // [ranks, rows of the chunk]
  int ranks;

  __device__ const Part& Of(int rank) const {
    return parts[int64_t{rank} * gridDim.x + blockIdx.x];
  }
};

__device__ Softmax Combine(const RowParts<CrossEntropyPart>& row) {
  Softmax whole;
  for (int rank = 0; rank < row.ranks; ++rank) {
    const CrossEntropyPart& part = row.Of(rank);
    KeepLarger(static_cast<float>(part.largest), static_cast<int64_t>(part.argmax), whole);
  }
  for (int rank = 0; rank < row.ranks; ++rank) {
    const CrossEntropyPart& part = row.Of(rank);
    whole.sum +=
        static_cast<float>(part.sum) * expf(static_cast<float>(part.largest) - whole.largest);
  }
  return whole;
}

struct Softmaxes {
  Softmax student, teacher;
};

__device__ Softmaxes Combine(const RowParts<DistillationPart>& row) {
  Softmaxes whole;
  Softmax &q = whole.student, &p = whole.teacher;
  for (int rank = 0; rank < row.ranks; ++rank) {
    q.largest = fmaxf(q.largest, static_cast<float>(row.Of(rank).student_largest));
    p.largest = fmaxf(p.largest, static_cast<float>(row.Of(rank).teacher_largest));
  }
  for (int rank = 0; rank < row.ranks; ++rank) {
    const DistillationPart& part = row.Of(rank);
    q.sum += static_cast<float>(part.student_sum) *
             expf(static_cast<float>(part.student_largest) - q.largest);
    p.sum += static_cast<float>(part.teacher_sum) *
             expf(static_cast<float>(part.teacher_largest) - p.largest);
  }
  return whole;
}

// sum_v p_v ((z_v - max z) - (y_v - max y)) over the whole vocabulary.
__device__ double CombineGaps(const RowParts<DistillationPart>& row, const Softmaxes& whole) {
  double gap = 0.0;
  for (int rank = 0; rank < row.ranks; ++rank) {
    const DistillationPart& part = row.Of(rank);
    const double student_shift = part.student_largest - static_cast<double>(whole.student.largest);
    const double teacher_shift = part.teacher_largest - static_cast<double>(whole.teacher.largest);
    gap += exp(teacher_shift) * (part.gap + part.teacher_sum * (teacher_shift - student_shift));
  }
  return gap / static_cast<double>(whole.teacher.sum);
}

// Where the results of a chunk's rows go; each may be null.
struct RowOutputs {
  BFloat16* d_logits;    // [rows, V] of the chunk
  float* token_losses;   // [T]
  int32_t* predictions;  // [T]
  double* losses;        // [T]
};

// The block's row counts as nothing.
__device__ void StoreNothing(const RowOutputs& outputs, int64_t token, const Row& row) {
  StoreZeros(outputs.d_logits == nullptr ? nullptr : outputs.d_logits + blockIdx.x * row.vocabulary,
             row);
  if (threadIdx.x != 0) return;
  if (outputs.token_losses != nullptr) outputs.token_losses[token] = 0.0F;
  if (outputs.predictions != nullptr) outputs.predictions[token] = -1;
  if (outputs.losses != nullptr) outputs.losses[token] = 0.0;
}

__device__ void StoreLoss(const RowOutputs& outputs, int64_t token, double loss) {
  if (outputs.token_losses != nullptr) outputs.token_losses[token] = static_cast<float>(loss);
  if (outputs.losses != nullptr) outputs.losses[token] = loss;
}

struct CrossEntropyDeviceArgs {
  const float* logits;     // [rows, V] of the chunk
  const int32_t* targets;  // [T]
  const float* weights;    // [T]
  RowOutputs outputs;
  int64_t first_token;
  Row row;
  double gradient_scale;  // of (softmax - target), but for the row's weight
  Fault* fault;
  // Of a split vocabulary.
  int64_t first, whole;  // where the part begins, and all of it
  CrossEntropyPart* own;
  RowParts<CrossEntropyPart> parts;
};

// Grid: one block per row of the chunk.
__global__ void __launch_bounds__(kThreads, 2)
    CrossEntropyPartKernel(const __grid_constant__ CrossEntropyDeviceArgs args) {
  __shared__ SoftmaxScratch scratch;
  const int64_t token = args.first_token + blockIdx.x;
  const int64_t target = args.targets[token];
  CrossEntropyPart& own = args.own[blockIdx.x];
  if (args.weights[token] == 0.0F || target < 0 || target >= args.whole) {
    if (threadIdx.x == 0) own = {};
    return;
  }
  const float* const logits = args.logits + blockIdx.x * args.row.vocabulary;
  const Softmax softmax = SoftmaxOf(logits, args.row, scratch);
  if (threadIdx.x != 0) return;
  const int64_t at = target - args.first;
  const bool is_mine = at >= 0 && at < args.row.vocabulary;
  own = {.largest = static_cast<double>(softmax.largest),
         .sum = static_cast<double>(softmax.sum),
         .target_logit = is_mine ? static_cast<double>(logits[at]) : 0.0,
         .argmax = static_cast<double>(args.first + softmax.argmax)};
}

// Grid: one block per row of the chunk. kIsSplit: what the pass before it found is gathered.
template <bool kIsSplit>
__global__ void __launch_bounds__(kThreads, 2)
    CrossEntropyKernel(const __grid_constant__ CrossEntropyDeviceArgs args) {
  __shared__ SoftmaxScratch scratch;
  const Row& row = args.row;
  const int64_t token = args.first_token + blockIdx.x;
  const float weight = args.weights[token];
  if (weight == 0.0F) return StoreNothing(args.outputs, token, row);
  const int32_t target_token = args.targets[token];
  const int64_t vocabulary = kIsSplit ? args.whole : row.vocabulary;
  if (target_token < 0 || target_token >= vocabulary) {
    if (threadIdx.x == 0) {
      ReportFault(args.fault, FaultKind::kTargetOutsideVocabulary, token, target_token, vocabulary);
    }
    return StoreNothing(args.outputs, token, row);
  }
  const float* const logits = args.logits + blockIdx.x * row.vocabulary;
  const Softmax softmax = [&] {
    if constexpr (kIsSplit) return Combine(args.parts);
    return SoftmaxOf(logits, row, scratch);
  }();
  const int64_t target = kIsSplit ? target_token - args.first : target_token;
  if (threadIdx.x == 0) {
    float target_logit;
    if constexpr (kIsSplit) {
      const int owner = static_cast<int>(target_token / row.vocabulary);
      target_logit = static_cast<float>(args.parts.Of(owner).target_logit);
    } else {
      target_logit = logits[target];
    }
    StoreLoss(args.outputs, token,
              log(static_cast<double>(softmax.sum)) -
                  static_cast<double>(target_logit - softmax.largest));
    if (args.outputs.predictions != nullptr) {
      args.outputs.predictions[token] = static_cast<int32_t>(softmax.argmax);
    }
  }
  if (args.outputs.d_logits == nullptr) return;
  BFloat16* const d_logits = args.outputs.d_logits + blockIdx.x * row.vocabulary;
  const auto factor = static_cast<float>(args.gradient_scale * static_cast<double>(weight));
  const float inverse_sum = 1.0F / softmax.sum;
  const auto gradient = [&](float logit, int64_t index) {
    return factor * (expf(logit - softmax.largest) * inverse_sum - (index == target ? 1.0F : 0.0F));
  };
  const int64_t tiles = CeilDivide(row.vocabulary, kTile);
  for (int64_t tile = tiles - 1; tile >= 0; --tile) {
    const int64_t begin = tile * kTile + int64_t{threadIdx.x} * kFour;
    float4 loaded[kVectors];
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      loaded[i] = LoadFour(logits, begin + int64_t{i} * kStep, row);
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int64_t at = begin + int64_t{i} * kStep;
      StoreFour(make_float4(gradient(loaded[i].x, at), gradient(loaded[i].y, at + 1),
                            gradient(loaded[i].z, at + 2), gradient(loaded[i].w, at + 3)),
                d_logits, at, row);
    }
  }
}

struct DistillationDeviceArgs {
  const float *student, *teacher;  // [rows, V] of the chunk: logits
  const float* weights;            // [T]
  RowOutputs outputs;
  int64_t first_token;
  Row row;
  double gradient_scale;  // of (student's softmax - teacher's), but for the row's weight
  // Of a split vocabulary.
  DistillationPart* own;
  RowParts<DistillationPart> parts;
};

// Grid: one block per row of the chunk.
__global__ void __launch_bounds__(kThreads, 2)
    DistillationPartKernel(const __grid_constant__ DistillationDeviceArgs args) {
  __shared__ SoftmaxScratch student_scratch, teacher_scratch;
  __shared__ double gap_scratch[kWarp];
  const Row& row = args.row;
  DistillationPart& own = args.own[blockIdx.x];
  if (args.weights[args.first_token + blockIdx.x] == 0.0F) {
    if (threadIdx.x == 0) own = {};
    return;
  }
  const float* const student = args.student + blockIdx.x * row.vocabulary;
  const float* const teacher = args.teacher + blockIdx.x * row.vocabulary;
  const Softmax q = SoftmaxOf(student, row, student_scratch);
  const Softmax p = SoftmaxOf(teacher, row, teacher_scratch);
  float gap = 0.0F;
  const auto add = [&](float y, float z, int64_t index) {
    if (index >= row.vocabulary) return;
    y -= q.largest;
    z -= p.largest;
    gap += expf(z) * (z - y);
  };
  for (int64_t at = int64_t{threadIdx.x} * kFour; at < row.vocabulary; at += kStep) {
    const float4 y = LoadFour(student, at, row), z = LoadFour(teacher, at, row);
    add(y.x, z.x, at);
    add(y.y, z.y, at + 1);
    add(y.z, z.z, at + 2);
    add(y.w, z.w, at + 3);
  }
  const double total_gap = BlockSum(static_cast<double>(gap), gap_scratch);
  if (threadIdx.x != 0) return;
  own = {.student_largest = static_cast<double>(q.largest),
         .student_sum = static_cast<double>(q.sum),
         .teacher_largest = static_cast<double>(p.largest),
         .teacher_sum = static_cast<double>(p.sum),
         .gap = total_gap};
}

// Grid: one block per row of the chunk. kIsSplit: what the pass before it found is gathered.
//
//   KL = sum_v p_v ((z_v - max z) - (y_v - max y))
//        - log sum exp(z - max z) + log sum exp(y - max y)
//
// for the teacher's logits z and the student's y. Equal rows give exactly 0, and a gradient of 0.
template <bool kIsSplit>
__global__ void __launch_bounds__(kThreads, 2)
    DistillationKernel(const __grid_constant__ DistillationDeviceArgs args) {
  __shared__ SoftmaxScratch student_scratch, teacher_scratch;
  __shared__ double gap_scratch[kWarp];
  const Row& row = args.row;
  const int64_t token = args.first_token + blockIdx.x;
  const float weight = args.weights[token];
  if (weight == 0.0F) return StoreNothing(args.outputs, token, row);
  const float* const student = args.student + blockIdx.x * row.vocabulary;
  const float* const teacher = args.teacher + blockIdx.x * row.vocabulary;
  const Softmaxes softmaxes = [&] {
    if constexpr (kIsSplit) return Combine(args.parts);
    const Softmax of_student = SoftmaxOf(student, row, student_scratch);
    return Softmaxes{of_student, SoftmaxOf(teacher, row, teacher_scratch)};
  }();
  const Softmax &q = softmaxes.student, &p = softmaxes.teacher;
  const float inverse_q = 1.0F / q.sum, inverse_p = 1.0F / p.sum;
  BFloat16* const d_logits = args.outputs.d_logits == nullptr
                                 ? nullptr
                                 : args.outputs.d_logits + blockIdx.x * row.vocabulary;
  const auto factor = static_cast<float>(args.gradient_scale * static_cast<double>(weight));
  float gap = 0.0F;
  // Both probabilities are rounded before the difference: fused into it, equal rows would leave a
  // remainder.
  const auto add = [&](float y, float z, int64_t index) {
    if (index >= row.vocabulary) return 0.0F;
    y -= q.largest;
    z -= p.largest;
    const float probability = __fmul_rn(expf(z), inverse_p);
    gap += probability * (z - y);
    return factor * (__fmul_rn(expf(y), inverse_q) - probability);
  };
  const int64_t steps = CeilDivide(row.vocabulary, kStep);
#pragma unroll 2
  for (int64_t step = steps - 1; step >= 0; --step) {
    const int64_t at = step * kStep + int64_t{threadIdx.x} * kFour;
    const float4 y = LoadFour(student, at, row), z = LoadFour(teacher, at, row);
    const float4 gradient = make_float4(add(y.x, z.x, at), add(y.y, z.y, at + 1),
                                        add(y.z, z.z, at + 2), add(y.w, z.w, at + 3));
    if (d_logits != nullptr) StoreFour(gradient, d_logits, at, row);
  }
  double total_gap = 0.0;
  if constexpr (!kIsSplit) total_gap = BlockSum(static_cast<double>(gap), gap_scratch);
  if (threadIdx.x != 0) return;
  if constexpr (kIsSplit) total_gap = CombineGaps(args.parts, softmaxes);
  StoreLoss(args.outputs, token,
            total_gap - log(static_cast<double>(p.sum)) + log(static_cast<double>(q.sum)));
}

// Grid: one block per row. Rows of weight 0 become zeros.
__global__ void __launch_bounds__(kRowThreads)
    MaskRowsKernel(const BFloat16* rows, const float* weights, int64_t width, bool is_aligned,
                   BFloat16* masked) {
  const bool is_kept = weights[blockIdx.x] != 0.0F;
  const int64_t row = blockIdx.x * width;
  for (int64_t c = int64_t{threadIdx.x} * kLanes; c < width; c += kRowThreads * kLanes) {
    const Packed packed =
        is_kept ? LoadPacked(rows + row, c, width, is_aligned) : Packed{0U, 0U, 0U, 0U};
    StorePacked(packed, masked + row, c, width, is_aligned);
  }
}

// One block: a thread adds every kSumThreads-th row, the threads are added in order.
__global__ void __launch_bounds__(kSumThreads)
    AddLossesKernel(const double* losses, const float* weights, int64_t count, double* loss_sum) {
  __shared__ double scratch[kWarp];
  double sum = 0.0;
#pragma unroll 4
  for (int64_t t = threadIdx.x; t < count; t += kSumThreads) {
    sum += static_cast<double>(weights[t]) * losses[t];
  }
  sum = BlockSum(sum, scratch);
  if (threadIdx.x == 0) *loss_sum += sum;
}

RowOutputs DeviceOutputs(const LossRows& rows) {
  return {.d_logits = BFloat16Data(rows.d_logits),
          .token_losses = DataOrNull<float>(rows.token_losses),
          .predictions = DataOrNull<int32_t>(rows.predictions),
          .losses = rows.losses};
}

// Runs a split loss: the pass over this rank's part, the gather, the pass behind it.
template <typename Part, typename Args>
absl::Status LaunchSplit(const ExecutionContext& context, const char* name,
                         const VocabularySplit& split, int64_t rows, void (*part_kernel)(Args),
                         void (*kernel)(Args), Args args) {
  constexpr auto kNumbers = static_cast<int64_t>(sizeof(Part) / sizeof(double));
  const ArenaScope scope(*context.arena);
  const TensorView own = context.arena->Tensor(DType::kFloat64, {rows, kNumbers});
  const TensorView all = context.arena->Tensor(DType::kFloat64, {split.ranks * rows, kNumbers});
  args.own = static_cast<Part*>(own.raw());
  args.parts = {static_cast<const Part*>(all.raw()), split.ranks};
  const LaunchShape shape{.grid = {rows}, .block = kThreads};
  RETURN_IF_ERROR(Launch(context, name, part_kernel, shape, args));
  RETURN_IF_ERROR(split.gather(own, all));
  return Launch(context, name, kernel, shape, args);
}

Row RowOf(const TensorView& logits) {
  return {logits.dim(1), logits.dim(1) % kFour == 0};
}

}  // namespace

absl::Status CrossEntropyRows(const ExecutionContext& context, const TensorView& logits,
                              const TensorView& targets, const LossRows& rows) {
  CrossEntropyDeviceArgs args{.logits = logits.data<float>(),
                              .targets = targets.data<int32_t>(),
                              .weights = rows.weights.data<float>(),
                              .outputs = DeviceOutputs(rows),
                              .first_token = rows.first_token,
                              .row = RowOf(logits),
                              .gradient_scale = rows.gradient_scale,
                              .fault = context.cuda->fault()};
  if (rows.split == nullptr) {
    return Launch(context, "CrossEntropyRows", CrossEntropyKernel<false>,
                  {.grid = {logits.dim(0)}, .block = kThreads}, args);
  }
  args.first = rows.split->rank * logits.dim(1);
  args.whole = rows.split->ranks * logits.dim(1);
  return LaunchSplit<CrossEntropyPart>(context, "CrossEntropyRows", *rows.split, logits.dim(0),
                                       CrossEntropyPartKernel, CrossEntropyKernel<true>, args);
}

absl::Status DistillationRows(const ExecutionContext& context, const TensorView& student,
                              const TensorView& teacher, const LossRows& rows) {
  const DistillationDeviceArgs args{.student = student.data<float>(),
                                    .teacher = teacher.data<float>(),
                                    .weights = rows.weights.data<float>(),
                                    .outputs = DeviceOutputs(rows),
                                    .first_token = rows.first_token,
                                    .row = RowOf(student),
                                    .gradient_scale = rows.gradient_scale};
  if (rows.split == nullptr) {
    return Launch(context, "DistillationRows", DistillationKernel<false>,
                  {.grid = {student.dim(0)}, .block = kThreads}, args);
  }
  return LaunchSplit<DistillationPart>(context, "DistillationRows", *rows.split, student.dim(0),
                                       DistillationPartKernel, DistillationKernel<true>, args);
}

absl::Status MaskRows(const ExecutionContext& context, const TensorView& rows, const float* weights,
                      const TensorView& masked) {
  const int64_t width = rows.dim(1);
  const BFloat16* const source = BFloat16Data(rows);
  BFloat16* const destination = BFloat16Data(masked);
  return Launch(context, "MaskRows", MaskRowsKernel, {.grid = {rows.dim(0)}, .block = kRowThreads},
                source, weights, width, width % kLanes == 0 && AreAligned({source, destination}),
                destination);
}

absl::Status AddLosses(const ExecutionContext& context, const double* losses,
                       const TensorView& weights, const TensorView& loss_sum) {
  return Launch(context, "AddLosses", AddLossesKernel, {.grid = {1}, .block = kSumThreads}, losses,
                weights.data<float>(), weights.size(), loss_sum.data<double>());
}

}  // namespace salamander::cuda
