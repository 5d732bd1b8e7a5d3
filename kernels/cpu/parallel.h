// How the CPU ops divide work. What one task computes depends on the problem's size alone, never on
// the number of threads, so results are the same bits for any number of them.
#ifndef KERNELS_CPU_PARALLEL_H_
#define KERNELS_CPU_PARALLEL_H_

#include <algorithm>
#include <cstdint>

#include "kernels/base/arena.h"
#include "kernels/base/tensor_view.h"

namespace salamander::cpu {

// Elements below which starting threads costs more than they save (about 10 us of work).
constexpr int64_t kSerialElements = 1 << 15;

// Elements of one task where elements do not depend on each other.
constexpr int64_t kElementsPerPiece = 8192;

// Rows whose contributions to a sum over rows are added up by one task.
constexpr int64_t kRowsPerBlock = 64;

constexpr int64_t CeilDivide(int64_t count, int64_t divisor) {
  return (count + divisor - 1) / divisor;
}

// Calls function(Real{}) with Real the tensors' element type: float or double.
template <typename Function>
void ForReal(DType dtype, const Function& function) {
  if (dtype == DType::kFloat64) return function(double{});
  SALAMANDER_CHECK(dtype == DType::kFloat32)
      << "the CPU computes in float32 or float64, not in " << Name(dtype);
  function(float{});
}

// Null where the view is empty: not given.
template <typename Real>
Real* DataOrNull(const TensorView& view) {
  return view.empty() ? nullptr : view.data<Real>();
}

// Calls task(i) for i in [0, tasks), in parallel where they touch `elements` enough in all.
template <typename Task>
void ParallelFor(int64_t tasks, int64_t elements, const Task& task) {
#pragma omp parallel for schedule(static) if (tasks > 1 && elements > kSerialElements)
  for (int64_t i = 0; i < tasks; ++i) task(i);
}

// Calls task(begin, end) for consecutive pieces of [0, size).
template <typename Task>
void ParallelPieces(int64_t size, const Task& task) {
  ParallelFor(CeilDivide(size, kElementsPerPiece), size, [&](int64_t piece) {
    const int64_t begin = piece * kElementsPerPiece;
    task(begin, std::min(size, begin + kElementsPerPiece));
  });
}

// Receives a sum over rows.
template <typename Real>
struct ColumnSums {
  Real* total;  // [columns], added to; null: no sums
  int64_t columns;
};

// Calls task(begin, end, sums) for consecutive blocks of [0, rows) and adds the blocks' sums, each
// [columns] and zero at first, to the total in the order of the blocks. Without a total tasks get
// null. A row counts for `row_elements` of work.
template <typename Real, typename Task>
void ParallelRowBlocks(Arena& arena, int64_t rows, int64_t row_elements, ColumnSums<Real> result,
                       const Task& task) {
  const ArenaScope scope(arena);
  Real* const total = result.total;
  const int64_t columns =
      result.columns;  // not a structured binding: clang refuses those in OpenMP
  const int64_t blocks = CeilDivide(rows, kRowsPerBlock);
  Real* const sums = total == nullptr ? nullptr : arena.Array<Real>(blocks * columns);
  ParallelFor(blocks, rows * row_elements, [=, &task](int64_t block) {
    Real* const own = sums == nullptr ? nullptr : sums + block * columns;
    if (own != nullptr) std::fill_n(own, columns, Real(0));
    task(block * kRowsPerBlock, std::min(rows, (block + 1) * kRowsPerBlock), own);
  });
  if (total == nullptr || blocks == 0) return;
  for (int64_t block = 1; block < blocks; ++block) {
    const Real* const own = sums + block * columns;
#pragma omp simd
    for (int64_t c = 0; c < columns; ++c) sums[c] += own[c];
  }
  for (int64_t c = 0; c < columns; ++c) total[c] += sums[c];
}

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_PARALLEL_H_
