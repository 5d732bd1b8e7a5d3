// One chunk of c <= 64 tokens of one head of a decayed causal product, in packed tiles. With
// l = exp(-slope), S the state [key dim, value dim] before the chunk and e the query offset:
//   O_i = l^(i+e) q_i S + sum_{j <= i} l^(i-j) (q_i . k_j) v_j        U = sum_j l^(c-e-j) k_j^T v_j
// and the state after the chunk is l^c S + U. e = 1 where the state is the one after the token
// before the chunk (the forward recurrence), e = 0 where it already belongs to the first token (the
// adjoint recurrence, which runs backwards). Exponents are never positive, so that nothing
// overflows, and c is the true length of a ragged last chunk.
#ifndef KERNELS_CPU_LIGHTNING_CHUNK_H_
#define KERNELS_CPU_LIGHTNING_CHUNK_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/base/arena.h"
#include "kernels/cpu/small_matrix.h"

namespace salamander::cpu {

inline constexpr int64_t kLightningChunk = 64;

// l^n for n in [0, 64], and 0 for the pairs a causal mask hides: Weights(n)[j] = l^(n-j), 0 where
// j > n, so that every vector of weights a chunk needs is a contiguous run.
template <typename Element>
class DecayTable {
 public:
  static constexpr int64_t kSize = 2 * kLightningChunk;

  explicit DecayTable(Element* storage) : powers_(storage) {}
  void Fill(double slope) {
    // A weight too small to change a sum is zero at once: products with it would be denormal.
    constexpr double kSmallest =
        std::numeric_limits<Element>::min() / std::numeric_limits<Element>::epsilon();
    for (int64_t i = 0; i < kSize; ++i) {
      const int64_t n = kLightningChunk - i;
      const double power = n >= 0 ? std::exp(-slope * static_cast<double>(n)) : 0.0;
      powers_[i] = power < kSmallest ? Element(0) : static_cast<Element>(power);
    }
  }
  const Element* Weights(int64_t n) const { return powers_ + kLightningChunk - n; }
  Element Power(int64_t n) const { return *Weights(n); }

 private:
  Element* powers_;
};

// Where the rows of a chunk are: element offset of its first row's head, and to the next row
// (negative where the sequence is walked backwards).
struct ChunkRows {
  int64_t first;
  int64_t step;
  int64_t count;
};

template <typename Element>
class LightningChunk {
 public:
  using S = Simd<Element>;

  LightningChunk(Arena& arena, int64_t dim)
      : dim_(dim),
        stride_(S::Pad(dim)),
        query_(arena.Array<Element>(kLightningChunk * stride_)),
        value_(arena.Array<Element>(kLightningChunk * stride_)),
        key_(arena.Array<Element>(kLightningChunk * stride_)),
        key_columns_(arena.Array<Element>(stride_ * kLightningChunk)),
        scores_(arena.Array<Element>(kTileRows * kLightningChunk)),
        out_(arena.Array<Element>(kTileRows * stride_)) {}

  static int64_t StateSize(int64_t dim) { return S::Pad(dim) * S::Pad(dim); }

  void LoadQueries(const Element* query, const ChunkRows& rows, Element scale) {
    Pack(query, rows, scale, query_);
  }

  void LoadKeysAndValues(const Element* key, const Element* value, const ChunkRows& rows,
                         Element scale) {
    Pack(key, rows, scale, key_);
    Pack(value, rows, Element(1), value_);
    Transpose(key_, stride_, S::Pad(rows.count), stride_, key_columns_, kLightningChunk);
  }

  // Writes O. `state` may be null: zero.
  void Emit(const Element* state, const DecayTable<Element>& decay, int64_t query_offset,
            const ChunkRows& rows, Element* out) {
    for (int64_t i = 0; i < rows.count; i += kTileRows) {
      ScoreTile(i, decay);
      const Element* const query = query_ + i * stride_;
      if (state != nullptr) {
        Multiply<Element>(
            {query, stride_, state, stride_, out_, stride_, kTileRows, stride_, dim_});
        for (int64_t r = 0; r < kTileRows; ++r) {
          const Element weight = decay.Power(std::min(i + r + query_offset, kLightningChunk));
          for (int64_t d = 0; d < stride_; ++d) out_[r * stride_ + d] *= weight;
        }
      }
      Multiply<Element>({scores_, kLightningChunk, value_, stride_, out_, stride_, kTileRows,
                         stride_, std::min<int64_t>(i + kTileRows, rows.count), state != nullptr});
      for (int64_t r = 0; r < std::min<int64_t>(kTileRows, rows.count - i); ++r) {
        std::copy_n(out_ + r * stride_, dim_, out + rows.first + (i + r) * rows.step);
      }
    }
  }

  // Writes U. Call after Emit: it weights the loaded keys in place.
  void Contribute(const DecayTable<Element>& decay, int64_t query_offset, int64_t count,
                  Element* update) {
    const Element* const weights = decay.Weights(count - query_offset);
    const int64_t columns = S::Pad(count);
    for (int64_t d = 0; d < dim_; ++d) {
      Element* const key = key_columns_ + d * kLightningChunk;
      for (int64_t j = 0; j < columns; ++j) key[j] *= weights[j];
    }
    Multiply<Element>(
        {key_columns_, kLightningChunk, value_, stride_, update, stride_, stride_, stride_, count});
  }

 private:
  // Rows of one head, scaled, with zeros to the padded sizes.
  void Pack(const Element* from, const ChunkRows& rows, Element scale, Element* to) const {
    for (int64_t r = 0; r < rows.count; ++r) {
      const Element* const row = from + rows.first + r * rows.step;
      for (int64_t d = 0; d < dim_; ++d) to[r * stride_ + d] = scale * row[d];
      std::fill(to + r * stride_ + dim_, to + (r + 1) * stride_, Element(0));
    }
    std::fill(to + rows.count * stride_, to + S::Pad(rows.count) * stride_, Element(0));
  }

  // Weighted scores of queries [i, i + kTileRows) with the keys up to the last of them.
  void ScoreTile(int64_t i, const DecayTable<Element>& decay) {
    const int64_t columns = (i + kTileRows + S::kLanes - 1) / S::kLanes * S::kLanes;
    Multiply<Element>({query_ + i * stride_, stride_, key_columns_, kLightningChunk, scores_,
                       kLightningChunk, kTileRows, columns, dim_});
    for (int64_t r = 0; r < kTileRows; ++r) {
      const Element* const weights = decay.Weights(i + r);
      Element* const scores = scores_ + r * kLightningChunk;
      for (int64_t j = 0; j < columns; ++j) scores[j] *= weights[j];
    }
  }

  int64_t dim_;
  int64_t stride_;  // dim_, padded
  Element* query_;
  Element* value_;
  Element* key_;
  Element* key_columns_;  // [dim, chunk]
  Element* scores_;
  Element* out_;
};

// state = power * state + update; `update` receives the state before. Sequential and split sweeps
// both advance by this function, so that they give the same bits.
template <typename Element>
inline void AdvanceState(Element power, int64_t count, Element* state, Element* update) {
  for (int64_t i = 0; i < count; ++i) {
    const Element before = state[i];
    state[i] = power * before + update[i];
    update[i] = before;
  }
}

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_LIGHTNING_CHUNK_H_
