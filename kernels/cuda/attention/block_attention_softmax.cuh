// The online softmax of block attention (Milakov and Gimelshein 2018, arXiv 1805.02867), in base 2,
// from a maximum of -infinity, on products in the layout of MultiplyAdd.
#ifndef KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_SOFTMAX_CUH_
#define KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_SOFTMAX_CUH_

#include <cfloat>
#include <cmath>

#include "kernels/cuda/attention/block_attention_mma.cuh"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {

// The running softmax of a thread's two rows; the denominator is the thread's share.
struct RowState {
  float maximum[2] = {-INFINITY, -INFINITY};
  float denominator[2] = {0.0F, 0.0F};
};

// Maxima are those of q . k, or of its negative where the scale is below 0. A scale of 0 is the
// least number, whose weights are equal too, so that -infinity stays what it is.
__device__ inline float SoftmaxScale(float scale) {
  return fmaxf(fabsf(scale) * kLog2E, FLT_MIN);
}

// Turns products q . k into weights relative to the new maximum; what was summed before is to be
// multiplied by factor[] (Rescale). The thread's two rows read the first keys[] of the 64.
// Requires: scale > 0.
__device__ inline void Soften(float (&scores)[8][4], const int (&keys)[2], bool is_masked,
                              float scale, RowState& state, float (&factor)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (is_masked) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (i * 8 + lane % 4 * 2 + j % 2 >= keys[j / 2]) scores[i][j] = -INFINITY;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float maximum = -INFINITY;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      maximum = fmaxf(maximum, fmaxf(scores[i][2 * half], scores[i][2 * half + 1]));
    }
    maximum = fmaxf(maximum, __shfl_xor_sync(kFullMask, maximum, 1));
    maximum = fmaxf(maximum, __shfl_xor_sync(kFullMask, maximum, 2));
    maximum = fmaxf(maximum * scale, state.maximum[half]);
    // A row that has met no key yet keeps weights of 2^-infinity.
    const float shift = maximum == -INFINITY ? 0.0F : maximum;
    factor[half] = Exp2(state.maximum[half] - shift);
    state.maximum[half] = maximum;
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 2 * half; j < 2 * half + 2; ++j) {
        scores[i][j] = Exp2(fmaf(scores[i][j], scale, -shift));
        sum += scores[i][j];
      }
    }
    state.denominator[half] = state.denominator[half] * factor[half] + sum;
  }
}

// Multiplies the thread's two rows by factor[]; nothing where no row of the warp met a new maximum.
template <int kCount>
__device__ inline void Rescale(const float (&factor)[2], float (&out)[kCount][4]) {
  if (__all_sync(kFullMask, factor[0] == 1.0F && factor[1] == 1.0F)) return;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) out[i][j] *= factor[j / 2];
  }
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_BLOCK_ATTENTION_SOFTMAX_CUH_
