// Small dense products on tiles that sit in cache: the one inner loop of the blocked attention ops.
//   C[rows, columns] (+)= A[rows, inner] B[inner, columns]
// A register block of C stays in vector registers while the loop runs over `inner`; B is read by
// vectors along a row, A by broadcast. So A may lie either way round and needs no packing, and each
// element of C is one chain of multiply-adds in the order of `inner`: its value does not depend on
// where in a tile it stands or how the tile was cut.
#ifndef KERNELS_CPU_TILE_PRODUCT_H_
#define KERNELS_CPU_TILE_PRODUCT_H_

#include <cstdint>
#include <cstring>

namespace salamander::cpu {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kRegisterColumns = 4;  // vectors of C across one register block
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kRegisterColumns = 2;  // 16 registers hold 6 x 2, B and a broadcast
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kRegisterColumns = 2;
#endif

// Elements in one vector. Columns of C and strides of tiles are multiples of it.
template <typename T>
inline constexpr int64_t kLanes = kVectorBytes / static_cast<int64_t>(sizeof(T));

template <typename T>
constexpr int64_t RoundUpToLanes(int64_t count) {
  return (count + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

enum class TileLayout {
  kRows,     // A[i, k] is a[i * a_stride + k]
  kColumns,  // A[i, k] is a[k * a_stride + i]
};

template <typename T>
struct TileOperands {
  const T* a;
  int64_t a_stride;
  const T* b;  // [inner, columns]
  int64_t b_stride;
  T* c;  // [rows, columns]
  int64_t c_stride;
};

struct TileExtent {
  int64_t rows, columns, inner;  // columns: a multiple of kLanes
};

namespace tile_product_internal {

template <typename T>
struct VectorOf {
  using Type [[gnu::vector_size(kVectorBytes)]] = T;
};

// By single vectors: a copied array of them would leave the registers.
template <typename T>
inline typename VectorOf<T>::Type Load(const T* address) {
  typename VectorOf<T>::Type vector;
  std::memcpy(&vector, address, sizeof(vector));
  return vector;
}

template <typename T, TileLayout kLayout, bool kAccumulate, int kRows, int kColumns>
inline void RegisterBlock(const TileOperands<T>& tile, int64_t inner) {
  using Vector = typename VectorOf<T>::Type;
  Vector sums[kRows][kColumns] = {};
  const T* a = tile.a;
  const T* b = tile.b;
  for (int64_t k = 0; k < inner; ++k) {
    Vector b_row[kColumns];
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) b_row[j] = Load<T>(b + j * kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const T factor = kLayout == TileLayout::kRows ? a[i * tile.a_stride] : a[i];
#pragma GCC unroll 4
      for (int j = 0; j < kColumns; ++j) sums[i][j] += factor * b_row[j];
    }
    a += kLayout == TileLayout::kRows ? 1 : tile.a_stride;
    b += tile.b_stride;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kColumns; ++j) {
      T* c = tile.c + i * tile.c_stride + j * kLanes<T>;
      const Vector sum = kAccumulate ? Load<T>(c) + sums[i][j] : sums[i][j];
      std::memcpy(c, &sum, sizeof(sum));
    }
  }
}

// Every row of `kColumns` vectors of C.
template <typename T, TileLayout kLayout, bool kAccumulate, int kColumns>
inline void ColumnPanel(TileOperands<T> tile, int64_t rows, int64_t inner) {
  constexpr int kRows = kColumns == 4 ? 6 : (kRegisterColumns == 2 ? 6 : 8);
  const auto advance = [&tile](int64_t count) {
    tile.a += kLayout == TileLayout::kRows ? count * tile.a_stride : count;
    tile.c += count * tile.c_stride;
  };
  for (; rows >= kRows; rows -= kRows, advance(kRows)) {
    RegisterBlock<T, kLayout, kAccumulate, kRows, kColumns>(tile, inner);
  }
  if (rows >= 4) {
    RegisterBlock<T, kLayout, kAccumulate, 4, kColumns>(tile, inner);
    rows -= 4, advance(4);
  }
  if (rows >= 2) {
    RegisterBlock<T, kLayout, kAccumulate, 2, kColumns>(tile, inner);
    rows -= 2, advance(2);
  }
  if (rows == 1) RegisterBlock<T, kLayout, kAccumulate, 1, kColumns>(tile, inner);
}

template <typename T, TileLayout kLayout, bool kAccumulate>
inline void Product(TileOperands<T> tile, const TileExtent& extent) {
  int64_t vectors = extent.columns / kLanes<T>;
  const auto advance = [&tile, &vectors](int count) {
    tile.b += count * kLanes<T>;
    tile.c += count * kLanes<T>;
    vectors -= count;
  };
  while (vectors >= kRegisterColumns) {
    ColumnPanel<T, kLayout, kAccumulate, kRegisterColumns>(tile, extent.rows, extent.inner);
    advance(kRegisterColumns);
  }
  if (kRegisterColumns > 2 && vectors >= 2) {
    ColumnPanel<T, kLayout, kAccumulate, 2>(tile, extent.rows, extent.inner);
    advance(2);
  }
  if (vectors == 1) {
    ColumnPanel<T, kLayout, kAccumulate, 1>(tile, extent.rows, extent.inner);
  }
}

}  // namespace tile_product_internal

// C = A B
template <TileLayout kLayout, typename T>
void TileProduct(const TileOperands<T>& tile, const TileExtent& extent) {
  tile_product_internal::Product<T, kLayout, false>(tile, extent);
}

// C += A B
template <TileLayout kLayout, typename T>
void AddTileProduct(const TileOperands<T>& tile, const TileExtent& extent) {
  tile_product_internal::Product<T, kLayout, true>(tile, extent);
}

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_TILE_PRODUCT_H_
