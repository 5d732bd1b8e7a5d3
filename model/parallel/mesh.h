// Where a rank stands in the data x context x tensor arrangement of all ranks; tensor is innermost,
// so that tensor neighbours share a host.
#ifndef MODEL_PARALLEL_MESH_H_
#define MODEL_PARALLEL_MESH_H_

#include "absl/status/statusor.h"

namespace salamander {

struct MeshShape {
  int data = 1;
  int context = 1;
  int tensor = 1;

  int ranks() const { return data * context * tensor; }
  bool operator==(const MeshShape&) const = default;
};

struct MeshCoordinate {
  int data = 0;
  int context = 0;
  int tensor = 0;

  bool operator==(const MeshCoordinate&) const = default;
};

// Requires: 0 <= rank < shape.ranks().
MeshCoordinate CoordinateOf(const MeshShape& shape, int rank);
int RankOf(const MeshShape& shape, const MeshCoordinate& coordinate);

// Fills `data` from the ranks that context and tensor leave. Fails where they do not divide, naming
// the sizes that do.
absl::StatusOr<MeshShape> FitMesh(int ranks, int context, int tensor);

}  // namespace salamander

#endif  // MODEL_PARALLEL_MESH_H_
