// The rows of an output head that take part in a loss, a chunk at a time. Rows of weight 0 are left
// out before any arithmetic: whatever they hold (NaN too) cannot reach a result.
#ifndef KERNELS_CPU_HEAD_CHUNK_H_
#define KERNELS_CPU_HEAD_CHUNK_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/base/arena.h"
#include "kernels/base/tensor_view.h"

namespace salamander::cpu {

// Rows whose logits exist at once: about 4 MB of them, which stay in the cache between their
// passes, but enough rows for an efficient product with a very large vocabulary.
inline int64_t HeadChunkRows(int64_t vocabulary, DType dtype) {
  constexpr int64_t kBytes = int64_t{4} << 20, kFewest = 64, kMost = 1024;
  return std::clamp(kBytes / (vocabulary * static_cast<int64_t>(SizeOf(dtype))), kFewest, kMost);
}

class HeadChunks {
 public:
  HeadChunks(Arena& arena, const TensorView& loss_weights, int64_t rows)
      : arena_(arena),
        weights_(loss_weights.data<float>()),
        tokens_(loss_weights.dim(0)),
        capacity_(std::min(rows, tokens_)),
        rows_(arena.Array<int64_t>(capacity_)) {}

  // Moves to the next chunk; false after the last.
  bool Next() {
    count_ = 0;
    for (; next_ < tokens_ && count_ < capacity_; ++next_) {
      if (weights_[next_] != 0) rows_[count_++] = next_;
    }
    return count_ > 0;
  }

  int64_t capacity() const { return capacity_; }
  int64_t count() const { return count_; }
  int64_t row(int64_t i) const { return rows_[i]; }
  double weight(int64_t i) const { return static_cast<double>(weights_[rows_[i]]); }

  // The chunk's rows of a [T, C] tensor: a view of it where they are neighbours, else a copy.
  TensorView Gather(const TensorView& tensor) const {
    if (AreNeighbours()) return tensor.Rows(rows_[0], count_);
    const TensorView copy = arena_.Tensor(tensor.dtype(), {count_, tensor.dim(1)});
    for (int64_t i = 0; i < count_; ++i) CopyRow(tensor.Rows(rows_[i], 1), copy.Rows(i, 1));
    return copy;
  }

  // Where to write the chunk's rows of `tensor`, to be followed by Scatter.
  TensorView Output(const TensorView& tensor) const {
    if (AreNeighbours()) return tensor.Rows(rows_[0], count_);
    return arena_.Tensor(tensor.dtype(), {count_, tensor.dim(1)});
  }
  void Scatter(const TensorView& output, const TensorView& tensor) const {
    if (AreNeighbours()) return;
    for (int64_t i = 0; i < count_; ++i) CopyRow(output.Rows(i, 1), tensor.Rows(rows_[i], 1));
  }

 private:
  bool AreNeighbours() const { return rows_[count_ - 1] - rows_[0] == count_ - 1; }
  static void CopyRow(const TensorView& from, const TensorView& to) {
    std::memcpy(to.raw(), from.raw(), static_cast<size_t>(from.bytes()));
  }

  Arena& arena_;
  const float* weights_;
  int64_t tokens_;
  int64_t capacity_;
  int64_t* rows_;
  int64_t count_ = 0;
  int64_t next_ = 0;
};

}  // namespace salamander::cpu

#endif  // KERNELS_CPU_HEAD_CHUNK_H_
