// The instructions of the tensor cores that only sm_90a has: wgmma of bf16 with fp32 accumulation,
// by a warpgroup (four consecutive warps), on operands in shared memory (PTX ISA, "Asynchronous
// Warpgroup Level Matrix Multiply-Accumulate"); barriers in shared memory between the warps that
// fill it and those that compute; and registers handed from the ones to the others.
//
// Operands lie in panels: [rows][64 columns] of bf16, rows of 128 bytes, 1024-byte aligned, the
// 16-byte chunks of a row permuted as ChunkOffset<64> does, which is wgmma's 128-byte swizzle. A
// wider tile is several panels. An operand is read along its columns (the product sums over
// columns) or transposed (the product sums over rows).
//
// Files that call anything of this are compiled for sm_90a alone (salamander_kernels_hopper in
// CMakeLists.txt), and their kernels launched there alone (`Runtime::has_warpgroups`).
#ifndef KERNELS_CUDA_WARPGROUP_CUH_
#define KERNELS_CUDA_WARPGROUP_CUH_

#include <cstdint>

#include "kernels/cuda/tensor_core.cuh"
#include "kernels/cuda/vector.cuh"

namespace salamander::cuda {

constexpr int kWarpgroup = 4 * kWarp;
constexpr int kPanelColumns = 64;
constexpr int kPanelRowBytes = 2 * kPanelColumns;

// Where wgmma finds an operand. Encoding: "Matrix descriptor" of the PTX ISA, 128-byte swizzle.
__device__ inline uint64_t PanelDescriptor(uint32_t address, uint32_t leading_bytes,
                                           uint32_t stride_bytes) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  return kSwizzle128 | (uint64_t{stride_bytes >> 4} << 32) | (uint64_t{leading_bytes >> 4} << 16) |
         ((address & 0x3FFFFU) >> 4);
}

// 16 columns from `column` of the rows from the panel's `row` on, a multiple of 8: an operand that
// the product sums over columns. `panel` is the address of the panel, column < 64.
__device__ inline uint64_t AlongColumns(uint32_t panel, int row, int column) {
  return PanelDescriptor(panel + row * kPanelRowBytes + column * 2, 16, 8 * kPanelRowBytes);
}

// 16 rows from `row`, a multiple of 8, of all columns of neighbouring panels `panel_bytes` apart:
// an operand that the product sums over rows, to be read transposed.
__device__ inline uint64_t AlongRows(uint32_t panel, int row, uint32_t panel_bytes) {
  return PanelDescriptor(panel + row * kPanelRowBytes, panel_bytes, 8 * kPanelRowBytes);
}

// Before the first wgmma, and wherever registers of one were touched since the last.
__device__ inline void FenceProducts() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ inline void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Returns when at most kPending of the newest groups are under way.
template <int kPending>
__device__ inline void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving what reads accumulators to before the wait for them.
template <int kCount>
__device__ inline void HoldProduct(float (&d)[kCount][4]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    asm volatile("" : "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])::"memory");
  }
}

// d = a b, or d += a b where `accumulate`: a 64 x 16, b 16 x N. Warp w of the group holds rows 16 w
// to 16 w + 15 of d, its lanes as MultiplyAdd's: d[i] are columns 8 i to 8 i + 7. A left operand in
// registers is held likewise. Asynchronous: d is there, and a may change, after WaitForProducts.
template <bool kTransposedB>
__device__ inline void WarpgroupMultiplyAdd(float (&d)[8][4], uint64_t a, uint64_t b,
                                            bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, "
      "%32, %33, accumulates, 1, 1, 0, %35;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3])
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kTransposedB ? 1 : 0));
}

template <bool kTransposedB>
__device__ inline void WarpgroupMultiplyAdd(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b,
                                            bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
      "}, "
      "{%32, %33, %34, %35}, %36, accumulates, 1, 1, %38;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
        "n"(kTransposedB ? 1 : 0));
}

template <bool kTransposedB>
__device__ inline void WarpgroupMultiplyAdd(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b,
                                            bool accumulate) {
  asm volatile(
      "{\n.reg .pred accumulates;\nsetp.ne.b32 accumulates, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
      "}, "
      "{%64, %65, %66, %67}, %68, accumulates, 1, 1, %70;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]),
        "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]),
        "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]),
        "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]),
        "+f"(d[15][2]), "+f"(d[15][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(accumulate)),
        "n"(kTransposedB ? 1 : 0));
}

// Makes ordinary and asynchronous (cp.async) stores of the thread to shared memory visible to
// wgmma.
__device__ inline void FenceSharedForProducts() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Registers of each thread of a warpgroup, up or down to kCount; by all its warps.
template <int kCount>
__device__ inline void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ inline void GiveRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// A barrier in shared memory (mbarrier, sm_80 and newer) with phases of alternating parity.
class SharedBarrier {
 public:
  __device__ explicit SharedBarrier(uint64_t* memory) : address_(SharedAddress(memory)) {}

  // By one thread, before a __syncthreads().
  __device__ void Init(int arrivals) const {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address_), "r"(arrivals)
                 : "memory");
  }
  __device__ void Arrive() const {
    asm volatile(
        "{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}\n" ::"r"(address_)
        : "memory");
  }
  // Returns when the phase of that parity is over; phases count from 0.
  __device__ void Wait(int parity) const {
    asm volatile(
        "{\n.reg .pred done;\n"
        "wait_%=:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra done_%=;\n"
        "bra wait_%=;\n"
        "done_%=:\n}\n" ::"r"(address_),
        "r"(parity)
        : "memory");
  }

 private:
  uint32_t address_;
};

// A barrier among `threads` threads of the block, a multiple of a warp; `id` 1 to 15.
__device__ inline void NamedBarrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_WARPGROUP_CUH_
