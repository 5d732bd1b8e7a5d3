// What generation keeps between calls, for a fixed number of sequences: keys, values and pooled
// keys of the softmax layers (one row per position, `capacity` rows per sequence), and the
// recurrent state of the Lightning layers.
#ifndef MODEL_DECODE_CACHE_H_
#define MODEL_DECODE_CACHE_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/base/arena.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"
#include "kernels/device.h"
#include "model/config.h"

namespace salamander {

struct LayerCache {
  TensorView keys, values;  // [slots * capacity, Hkv, D]
  TensorView fine_keys,
      coarse_keys;    // pooled, see block_selection.h; empty unless the model is sparse
  TensorView states;  // [slots, H, D, D] in the StatisticsType
};

class DecodeCache {
 public:
  // Memory of the session's device, zeroed, so every sequence starts empty; keys and values in the
  // activations' dtype. `capacity` is rounded up to whole blocks.
  static absl::StatusOr<DecodeCache> Create(const ModelConfig& config, DType activations,
                                            int64_t slots, int64_t capacity,
                                            DeviceSession& session);

  int64_t slots() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t capacity() const { return capacity_; }
  int64_t length(int64_t slot) const { return lengths_[static_cast<size_t>(slot)]; }
  const LayerCache& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }

  // The segment under which the next `count` tokens of a sequence go through the model, their rows
  // starting at `query_begin`. Fails where they would not fit.
  absl::StatusOr<Segment> NextSegment(int64_t slot, int64_t query_begin, int64_t count) const;

  // Says that those tokens are now in.
  void Advance(int64_t slot, int64_t count) { lengths_[static_cast<size_t>(slot)] += count; }

 private:
  DecodeCache(Arena memory, int64_t capacity, int64_t slots)
      : memory_(std::move(memory)), capacity_(capacity), lengths_(static_cast<size_t>(slots), 0) {}

  Arena memory_;
  int64_t capacity_;
  std::vector<int64_t> lengths_;
  std::vector<LayerCache> layers_;
};

}  // namespace salamander

#endif  // MODEL_DECODE_CACHE_H_
