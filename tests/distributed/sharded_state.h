// The meshes of some ranks, and numbers for a model's elements that do not depend on who holds them
// and whose sums are exact in any order.
#ifndef TESTS_DISTRIBUTED_SHARDED_STATE_H_
#define TESTS_DISTRIBUTED_SHARDED_STATE_H_

#include <cstdint>
#include <vector>

#include "model/parallel/mesh.h"
#include "model/parameters.h"

namespace salamander {

// All shapes of so many ranks that the splittable model (tests/model/tiny_model.h) can take.
std::vector<MeshShape> MeshesOf(int ranks);

// A multiple of 1/64 in [-1, 1] for an element of the whole parameter; `draw` tells apart what is
// drawn for it.
float ExactValue(const ParameterSpec& spec, int64_t whole_index, uint64_t draw);

}  // namespace salamander

#endif  // TESTS_DISTRIBUTED_SHARDED_STATE_H_
