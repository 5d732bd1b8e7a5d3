#include "kernels/cpu/matrix_product.h"

#include <algorithm>

#include <cblas.h>

#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

void Gemm(CBLAS_TRANSPOSE a_form, CBLAS_TRANSPOSE b_form, const MatrixProduct<float>& p) {
  cblas_sgemm(CblasRowMajor, a_form, b_form, static_cast<int>(p.rows), static_cast<int>(p.columns),
              static_cast<int>(p.inner), 1.0F, p.a.data, static_cast<int>(p.a.stride), p.b.data,
              static_cast<int>(p.b.stride), p.beta, p.result, static_cast<int>(p.result_stride));
}

void Gemm(CBLAS_TRANSPOSE a_form, CBLAS_TRANSPOSE b_form, const MatrixProduct<double>& p) {
  cblas_dgemm(CblasRowMajor, a_form, b_form, static_cast<int>(p.rows), static_cast<int>(p.columns),
              static_cast<int>(p.inner), 1.0, p.a.data, static_cast<int>(p.a.stride), p.b.data,
              static_cast<int>(p.b.stride), p.beta, p.result, static_cast<int>(p.result_stride));
}

struct Tile {
  int64_t rows, columns;
};

// Halves the longer side until there are enough tiles for a desktop's cores, and further where
// tiles are still so large that a server's cores would go without.
Tile TileOf(int64_t rows, int64_t columns) {
  constexpr int64_t kFewestTiles = 8, kLongestSide = 512, kShortestSide = 64;
  Tile tile{rows, columns};
  const auto halved = [](int64_t side) { return CeilDivide(CeilDivide(side, 2), 16) * 16; };
  while (true) {
    const bool enough =
        CeilDivide(rows, tile.rows) * CeilDivide(columns, tile.columns) >= kFewestTiles;
    int64_t& longer = tile.rows >= tile.columns ? tile.rows : tile.columns;
    if (longer <= (enough ? kLongestSide : kShortestSide)) return tile;
    longer = halved(longer);
  }
}

template <typename Real>
MatrixProduct<Real> TilePart(const MatrixProduct<Real>& p, const Tile& tile, int64_t index) {
  const int64_t across = CeilDivide(p.columns, tile.columns);
  const int64_t row = index / across * tile.rows, column = index % across * tile.columns;
  MatrixProduct<Real> part = p;
  part.rows = std::min(tile.rows, p.rows - row);
  part.columns = std::min(tile.columns, p.columns - column);
  part.a.data += p.a.transposed ? row : row * p.a.stride;
  part.b.data += p.b.transposed ? column * p.b.stride : column;
  part.result += row * p.result_stride + column;
  return part;
}

template <typename Real>
void MultiplyTiles(const MatrixProduct<Real>& p) {
  // Products that OpenBLAS too runs on the calling thread, whatever the number of threads.
  constexpr int64_t kSerialProduct = 1 << 18;
  const CBLAS_TRANSPOSE a_form = p.a.transposed ? CblasTrans : CblasNoTrans;
  const CBLAS_TRANSPOSE b_form = p.b.transposed ? CblasTrans : CblasNoTrans;
  if (p.rows * p.columns * p.inner <= kSerialProduct) return Gemm(a_form, b_form, p);
  const Tile tile = TileOf(p.rows, p.columns);
  const int64_t tiles = CeilDivide(p.rows, tile.rows) * CeilDivide(p.columns, tile.columns);
  // Inside a parallel region BLAS keeps to the calling thread; hence the region for one tile too.
#pragma omp parallel for schedule(dynamic)
  for (int64_t index = 0; index < tiles; ++index) {
    Gemm(a_form, b_form, TilePart(p, tile, index));
  }
}

}  // namespace

void Multiply(const MatrixProduct<float>& product) {
  MultiplyTiles(product);
}
void Multiply(const MatrixProduct<double>& product) {
  MultiplyTiles(product);
}

}  // namespace salamander::cpu
