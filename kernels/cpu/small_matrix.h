// Dense products and transposes of tiles that live in the cache. Below about 64 x 64 x 64 a BLAS
// call spends as long on packing and locking as on arithmetic; tiles are packed already and padded
// with zeros, so that these loops have no edges.
#ifndef KERNELS_CPU_SMALL_MATRIX_H_
#define KERNELS_CPU_SMALL_MATRIX_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

namespace salamander::cpu {

// The widest vector of the target, and how many rows of sums fit its registers beside operands.
#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64, kTileRows = 8;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32, kTileRows = 4;
#else
inline constexpr int kVectorBytes = 16, kTileRows = 4;
#endif

template <typename Element>
struct Simd {
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Element));
  // Rows and columns of every tile are a multiple of this.
  static constexpr int kPadding = std::max(kLanes, kTileRows);
  typedef Element Vector __attribute__((vector_size(kVectorBytes)));

  static Vector Load(const Element* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof(vector));
    return vector;
  }
  static void Store(Element* to, Vector vector) { std::memcpy(to, &vector, sizeof(vector)); }
  static int64_t Pad(int64_t count) { return (count + kPadding - 1) / kPadding * kPadding; }
};

// Which way round the left factor lies.
enum class LeftFactor {
  kRowMajor,     // element (i, k) is a[i * a_stride + k]
  kColumnMajor,  // element (i, k) is a[k * a_stride + i]
};

// result = a b, or result += a b; b and result row-major. `columns` is a multiple of Simd::kLanes,
// `rows` and `inner` are free. Each element is one chain of multiply-adds in the order of `inner`:
// it does not depend on where in a tile it stands or how the tile was cut.
template <typename Element>
struct SmallProduct {
  const Element* a;
  int64_t a_stride;
  const Element* b;
  int64_t b_stride;
  Element* result;
  int64_t result_stride;
  int64_t rows, columns, inner;
  bool accumulate = false;
};

namespace small_matrix_internal {

// kRows rows and kVectors vectors of the result stay in registers while `inner` runs; b is read by
// vectors, a by broadcast.
template <LeftFactor kLeft, int kRows, int kVectors, typename Element>
inline void MultiplyTile(const SmallProduct<Element>& p, int64_t row, int64_t column) {
  using S = Simd<Element>;
  constexpr bool kIsRowMajor = kLeft == LeftFactor::kRowMajor;
  typename S::Vector sums[kRows][kVectors];
  Element* const result = p.result + row * p.result_stride + column;
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = p.accumulate ? S::Load(result + r * p.result_stride + v * S::kLanes)
                                : typename S::Vector{};
    }
  }
  const Element* const a = p.a + (kIsRowMajor ? row * p.a_stride : row);
  const Element* b = p.b + column;
  for (int64_t k = 0; k < p.inner; ++k, b += p.b_stride) {
    typename S::Vector b_row[kVectors];
    for (int v = 0; v < kVectors; ++v) b_row[v] = S::Load(b + v * S::kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Element factor = kIsRowMajor ? a[r * p.a_stride + k] : a[k * p.a_stride + r];
      for (int v = 0; v < kVectors; ++v) sums[r][v] += factor * b_row[v];
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      S::Store(result + r * p.result_stride + v * S::kLanes, sums[r][v]);
    }
  }
}

// Every row of kVectors vectors of the result.
template <LeftFactor kLeft, int kVectors, typename Element>
inline void MultiplyColumns(const SmallProduct<Element>& p, int64_t column) {
  int64_t row = 0;
  for (; row + kTileRows <= p.rows; row += kTileRows) {
    MultiplyTile<kLeft, kTileRows, kVectors>(p, row, column);
  }
  if (kTileRows > 4 && row + 4 <= p.rows) {
    MultiplyTile<kLeft, 4, kVectors>(p, row, column);
    row += 4;
  }
  for (; row < p.rows; ++row) MultiplyTile<kLeft, 1, kVectors>(p, row, column);
}

}  // namespace small_matrix_internal

template <typename Element, LeftFactor kLeft = LeftFactor::kRowMajor>
inline void Multiply(const SmallProduct<Element>& p) {
  constexpr int64_t kLanes = Simd<Element>::kLanes;
  int64_t column = 0;
  for (; column + 2 * kLanes <= p.columns; column += 2 * kLanes) {
    small_matrix_internal::MultiplyColumns<kLeft, 2>(p, column);
  }
  for (; column < p.columns; column += kLanes) {
    small_matrix_internal::MultiplyColumns<kLeft, 1>(p, column);
  }
}

namespace small_matrix_internal {

// The lower (offset 0) or upper (offset lanes / 2) halves of two vectors, interleaved.
template <int kOffset, typename Vector, int... kLane>
inline Vector InterleaveHalves(Vector a, Vector b, std::integer_sequence<int, kLane...>) {
  constexpr int kLanes = sizeof...(kLane);
  return __builtin_shufflevector(a, b, (kOffset + kLane / 2 + (kLane % 2) * kLanes)...);
}

}  // namespace small_matrix_internal

// to[column][row] = from[row][column]; rows and columns are multiples of Simd::kLanes.
template <typename Element>
inline void Transpose(const Element* from, int64_t from_stride, int64_t rows, int64_t columns,
                      Element* to, int64_t to_stride) {
  using S = Simd<Element>;
  constexpr int kLanes = S::kLanes;
  using Lanes = std::make_integer_sequence<int, kLanes>;
  for (int64_t row = 0; row < rows; row += kLanes) {
    for (int64_t column = 0; column < columns; column += kLanes) {
      typename S::Vector block[kLanes], next[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] = S::Load(from + (row + i) * from_stride + column);
      }
      // A perfect shuffle of the rows, log2(lanes) times over, is a transpose.
      for (int width = 1; width < kLanes; width *= 2) {
        for (int i = 0; i < kLanes / 2; ++i) {
          using small_matrix_internal::InterleaveHalves;
          next[2 * i] = InterleaveHalves<0>(block[i], block[i + kLanes / 2], Lanes());
          next[2 * i + 1] = InterleaveHalves<kLanes / 2>(block[i], block[i + kLanes / 2], Lanes());
        }
        for (int i = 0; i < kLanes; ++i) block[i] = next[i];
      }
      for (int i = 0; i < kLanes; ++i) S::Store(to + (column + i) * to_stride + row, block[i]);
    }
  }
}

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_SMALL_MATRIX_H_
