#include "model/decode_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "model/layers/block_selection_shape.h"

namespace salamander {
namespace {

struct CacheShape {
  DType dtype;
  int64_t slots;
  int64_t rows;  // slots * capacity
};

LayerCache MakeLayerCache(const ModelConfig& config, const LayerConfig& layer,
                          const CacheShape& shape, Arena& memory) {
  LayerCache cache;
  if (layer.mixer == MixerKind::kLightning || layer.has_candidate) {
    const LightningConfig& lightning = config.lightning;
    cache.states =
        memory.Tensor(StatisticsType(shape.dtype),
                      {shape.slots, lightning.heads, lightning.head_dim, lightning.head_dim});
  }
  if (layer.mixer == MixerKind::kLightning) return cache;
  const SoftmaxConfig& softmax = config.softmax;
  const auto rows_of_keys = [&](int64_t rows) {
    return memory.Tensor(shape.dtype, {rows, softmax.kv_heads, softmax.head_dim});
  };
  cache.keys = rows_of_keys(shape.rows);
  cache.values = rows_of_keys(shape.rows);
  if (softmax.use_sparse) {
    const BlockSelectionShape selection = SelectionShape(softmax.sparse);
    cache.fine_keys = rows_of_keys(FineKeyRows(shape.rows, selection));
    cache.coarse_keys = rows_of_keys(CoarseKeyRows(shape.rows, selection));
  }
  return cache;
}

// What the layers' caches take, found by making them where there is no memory.
int64_t CacheBytes(const ModelConfig& config, const CacheShape& shape) {
  Arena planned = Arena::Planned();
  for (const LayerConfig& layer : config.layers) MakeLayerCache(config, layer, shape, planned);
  return planned.used_bytes();
}

}  // namespace

absl::StatusOr<DecodeCache> DecodeCache::Create(const ModelConfig& config, DType activations,
                                                int64_t slots, int64_t capacity,
                                                DeviceSession& session) {
  // Whole blocks, so that no pooled row is shared by two sequences.
  const int64_t block = config.softmax.use_sparse ? config.softmax.sparse.block_size : 1;
  const int64_t rounded = (std::max<int64_t>(capacity, 1) + block - 1) / block * block;
  const CacheShape shape{activations, slots, slots * rounded};
  ASSIGN_OR_RETURN(Arena memory, session.Reserve(CacheBytes(config, shape) + Arena::kAlignment));
  DecodeCache cache(std::move(memory), rounded, slots);
  for (const LayerConfig& layer : config.layers) {
    cache.layers_.push_back(MakeLayerCache(config, layer, shape, cache.memory_));
  }
  return cache;
}

absl::StatusOr<Segment> DecodeCache::NextSegment(int64_t slot, int64_t query_begin,
                                                 int64_t count) const {
  const int64_t first = length(slot);
  if (first + count > capacity_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "sequence ", slot, " has ", first, " tokens and ", count, " more do not fit the cache of ",
        capacity_, "; create it for a longer length"));
  }
  return Segment{.query_begin = query_begin,
                 .query_count = count,
                 .key_begin = slot * capacity_,
                 .first_position = first,
                 .state_in = static_cast<int32_t>(slot),
                 .state_out = static_cast<int32_t>(slot)};
}

}  // namespace salamander
