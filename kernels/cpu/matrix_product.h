// Matrix products by BLAS: result = op(a) op(b) + beta * result, all row-major.
// BLAS libraries order their sums by the number of threads, so a product is cut here into tiles
// that depend on its shape alone, and each tile is one call that runs on one thread: same bits for
// any number of threads. The price is packing operands once per tile, 5 to 10 % at widths of 256.
#ifndef KERNELS_CPU_MATRIX_PRODUCT_H_
#define KERNELS_CPU_MATRIX_PRODUCT_H_

#include <cstdint>

namespace salamander::cpu {

template <typename Real>
struct MatrixOperand {
  const Real* data;
  int64_t stride;           // elements from one stored row to the next
  bool transposed = false;  // the product takes the transpose of what is stored
};

template <typename Real>
struct MatrixProduct {
  int64_t rows, columns, inner;  // of the result, and the length of its sums
  MatrixOperand<Real> a;         // [rows, inner], or stored [inner, rows] and transposed
  MatrixOperand<Real> b;         // [inner, columns], or stored [columns, inner] and transposed
  Real* result;                  // [rows, columns]
  int64_t result_stride;
  Real beta = 0;  // 0 overwrites, NaN too; 1 accumulates
};

void Multiply(const MatrixProduct<float>& product);
void Multiply(const MatrixProduct<double>& product);

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_MATRIX_PRODUCT_H_
