// The mesh a step runs on and the communicators along its axes; passed down to layers and the
// training loop.
#ifndef MODEL_PARALLEL_PARALLEL_CONTEXT_H_
#define MODEL_PARALLEL_PARALLEL_CONTEXT_H_

#include <memory>
#include <utility>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/status_macros.h"
#include "model/parallel/communicator.h"
#include "model/parallel/device_communicator.h"
#include "model/parallel/mesh.h"

namespace salamander {

class ParallelContext {
 public:
  // Collective over `world`, which outlives the context. Tensors of the axes' collectives lie on
  // `execution`'s device; the world's lie on the host.
  static absl::StatusOr<ParallelContext> Create(Communicator& world, const MeshShape& shape,
                                                const ExecutionContext& execution) {
    const MeshCoordinate at = CoordinateOf(shape, world.rank());
    ASSIGN_OR_RETURN(auto data, world.Split(at.context * shape.tensor + at.tensor));
    ASSIGN_OR_RETURN(data, DeviceCommunicator(std::move(data), execution));
    return ParallelContext(world, shape, at, std::move(data));
  }

  const MeshShape& shape() const { return shape_; }
  const MeshCoordinate& coordinate() const { return coordinate_; }
  Communicator& world() const { return *world_; }
  Communicator& data() const {
    return *data_;
  }  // ranks that hold the same weights and see other sequences

 private:
  ParallelContext(Communicator& world, const MeshShape& shape, const MeshCoordinate& coordinate,
                  std::unique_ptr<Communicator> data)
      : shape_(shape), coordinate_(coordinate), world_(&world), data_(std::move(data)) {}

  MeshShape shape_;
  MeshCoordinate coordinate_;
  Communicator* world_;
  std::unique_ptr<Communicator> data_;
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_PARALLEL_CONTEXT_H_
