// How the sums of dK and dV on Hopper (block_attention_backward_keys_hopper.cu) travel from chunk
// to chunk of queries and end in dk and dv.
#ifndef KERNELS_CUDA_ATTENTION_KEY_SUMS_HOPPER_CUH_
#define KERNELS_CUDA_ATTENTION_KEY_SUMS_HOPPER_CUH_

#include <cstdint>

#include "kernels/cuda/attention/key_items_hopper.cuh"
#include "kernels/cuda/warpgroup.cuh"

namespace salamander::cuda {

// The sums of a piece's keys: [dk or dv, four columns' sums, thread of the warpgroup].
template <int kD>
constexpr int64_t kSumFloats = 2 * int64_t{kD} * kPieceKeys;

constexpr int kKeysBarrier = 1;  // of the first warpgroup

// Adds `factor` times a thread's columns of one of its two rows to the row in global memory.
template <int kD>
__device__ void AddRow(const float (&d)[kD / 8][4], int half, float factor, BFloat16* row) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    auto* const pair = reinterpret_cast<__nv_bfloat162*>(row + i * 8 + lane % 4 * 2);
    const float2 before = __bfloat1622float2(*pair);
    *pair = __floats2bfloat162_rn(before.x + factor * d[i][2 * half],
                                  before.y + factor * d[i][2 * half + 1]);
  }
}

template <int kD>
__device__ void AddToKeys(const BackwardArgs& backward, const KeyChunk& chunk, const KeyPiece& keys,
                          const float (&dk)[kD / 8][4], const float (&dv)[kD / 8][4]) {
  const AttentionArgs& args = backward.attention;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int key = static_cast<int>(threadIdx.x) / kWarp * 16 + lane / 4 + 8 * half;
    if (key >= keys.count) continue;
    const int64_t row =
        ((chunk.key_begin + keys.begin + key) * args.key_heads + keys.key_head) * kD;
    AddRow<kD>(dk, half, args.scale, backward.dk + row);
    AddRow<kD>(dv, half, 1.0F, backward.dv + row);
  }
}

template <int kD>
__device__ void StoreSums(const float (&d)[kD / 8][4], float* sums) {
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    __stcg(reinterpret_cast<float4*>(sums) + i * kWarpgroup + threadIdx.x,
           make_float4(d[i][0], d[i][1], d[i][2], d[i][3]));
  }
}

template <int kD>
__device__ void AddSums(const float* sums, float (&d)[kD / 8][4]) {
#pragma unroll
  for (int i = 0; i < kD / 8; ++i) {
    const float4 four =
        __ldcg(reinterpret_cast<const float4*>(sums) + i * kWarpgroup + threadIdx.x);
    d[i][0] += four.x, d[i][1] += four.y, d[i][2] += four.z, d[i][3] += four.w;
  }
}

// What other blocks of threads stored before their release is seen after the load, and the reverse.
__device__ inline int LoadAcquired(const int* source) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(source) : "memory");
  return value;
}
__device__ inline void StoreReleased(int* destination, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(destination), "r"(value) : "memory");
}

// By the first warpgroup: adds the sums of the chunks before, in their order whatever the order in
// which the chunks come to their ends, and hands them on, or adds them to dk and dv.
template <int kD>
__device__ void HandOn(const KeysArgs& args, const KeyItem& item, float (&dk)[kD / 8][4],
                       float (&dv)[kD / 8][4]) {
  const KeyPiece& keys = item.keys;
  const int64_t block = keys.key_head * args.blocks + item.chunk->first_block + keys.block;
  const int64_t index = block * args.pieces + keys.piece;
  float* const sums = args.sums + index * kSumFloats<kD>;
  if (item.readers.before > 0) {
    if (threadIdx.x == 0) {
      while (LoadAcquired(args.added + index) != item.readers.before) __nanosleep(64);
    }
    NamedBarrier(kKeysBarrier, kWarpgroup);
    AddSums<kD>(sums, dk);
    AddSums<kD>(sums + kSumFloats<kD> / 2, dv);
  }
  const int count = item.readers.before + item.readers.count;
  if (count == item.readers.all) {
    AddToKeys<kD>(args.backward, *item.chunk, keys, dk, dv);
    return;
  }
  StoreSums<kD>(dk, sums);
  StoreSums<kD>(dv, sums + kSumFloats<kD> / 2);
  __threadfence();
  NamedBarrier(kKeysBarrier, kWarpgroup);
  if (threadIdx.x == 0) StoreReleased(args.added + index, count);
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_ATTENTION_KEY_SUMS_HOPPER_CUH_
