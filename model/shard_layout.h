// Which elements of a rank's flat parameters its optimizer keeps state for, where several ranks
// hold the same weights (ZeRO-1: arXiv 1910.02054, sec. 5.1).
//
//   flat buffer   | bucket 0              | bucket 1              | ... |
//                 | rank 0 | rank 1 | ... | rank 0 | rank 1 | ... |
//   rank's shard  | its part of bucket 0 | of bucket 1 | ...
//
// A bucket is what one reduce-scatter or all-gather moves. Parts do not heed parameters: a shard is
// a list of pieces of them.
#ifndef MODEL_SHARD_LAYOUT_H_
#define MODEL_SHARD_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

#include "kernels/base/tensor_view.h"
#include "model/parameters.h"

namespace salamander {

class ShardLayout {
 public:
  // 128 MiB of fp32: far past where a collective reaches its full rate, and a small part of a model
  // that needs several devices.
  static constexpr int64_t kBucketElements = int64_t{1} << 25;

  // A run of elements of one parameter.
  struct Piece {
    size_t parameter = 0;  // its place in the layout's specs
    int64_t begin = 0;     // in the rank's part of the parameter
    int64_t count = 0;
    int64_t flat_begin = 0;   // in the flat buffer
    int64_t shard_begin = 0;  // in the shard
  };
  struct Bucket {
    int64_t begin = 0;        // in the flat buffer
    int64_t part = 0;         // elements of each rank
    int64_t shard_begin = 0;  // of this rank's part, in its shard

    int64_t mine(int rank) const { return begin + rank * part; }
  };

  // Requires: the layout was made for a multiple of `ranks` replicas.
  ShardLayout(const ParameterLayout& layout, int rank, int ranks,
              int64_t bucket_elements = kBucketElements);

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  int64_t size() const { return size_; }  // elements of the rank's shard, padding included
  absl::Span<const Bucket> buckets() const { return buckets_; }
  absl::Span<const Piece> pieces() const { return pieces_; }  // ascending, no padding among them

 private:
  void AddPieces(const ParameterLayout& layout, const Bucket& bucket);

  int rank_, ranks_;
  int64_t size_ = 0;
  std::vector<Bucket> buckets_;
  std::vector<Piece> pieces_;
};

}  // namespace salamander

#endif  // MODEL_SHARD_LAYOUT_H_
