#include "tests/distributed/sharded_state.h"

#include "kernels/base/random.h"
#include "tests/model/tiny_model.h"

namespace salamander {

std::vector<MeshShape> MeshesOf(int ranks) {
  std::vector<MeshShape> shapes;
  for (int tensor = 1; tensor <= ranks; ++tensor) {
    if (ranks % tensor != 0 || !CheckTensorShards(SplittableConfig(), tensor).ok()) continue;
    for (int context = 1; context <= ranks / tensor; ++context) {
      if (ranks / tensor % context != 0) continue;
      shapes.push_back({.data = ranks / tensor / context, .context = context, .tensor = tensor});
    }
  }
  return shapes;
}

float ExactValue(const ParameterSpec& spec, int64_t whole_index, uint64_t draw) {
  const uint64_t drawn =
      HashCounter(HashCounter(draw, HashName(spec.name)), static_cast<uint64_t>(whole_index));
  return static_cast<float>(static_cast<int64_t>(drawn % 129) - 64) / 64.0F;
}

}  // namespace salamander
