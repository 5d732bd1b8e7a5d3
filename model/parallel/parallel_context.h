// The mesh a step runs on and the communicators along its axes; passed down to layers and the
// training loop. docs/parallelism.md draws it.
#ifndef MODEL_PARALLEL_PARALLEL_CONTEXT_H_
#define MODEL_PARALLEL_PARALLEL_CONTEXT_H_

#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "model/parallel/communicator.h"
#include "model/parallel/mesh.h"

namespace salamander {

class ParallelContext {
 public:
  // Collective over `world`, which outlives the context. Tensors of the groups' collectives lie on
  // `execution`'s device; those of world and data on the host. `holder_counts`: of the models that
  // will run (HolderCounts in model/parameters.h).
  static absl::StatusOr<ParallelContext> Create(Communicator& world, const MeshShape& shape,
                                                const ExecutionContext& execution,
                                                absl::Span<const int> holder_counts = {});

  // The place of a rank at `at` in a mesh that is not there: its collectives do nothing
  // (planned_communicator.h).
  static ParallelContext Planned(const MeshShape& shape, const MeshCoordinate& at,
                                 absl::Span<const int> holder_counts = {});

  const MeshShape& shape() const { return shape_; }
  const MeshCoordinate& coordinate() const { return coordinate_; }
  Communicator& world() const { return *world_; }

  // Ranks that see other sequences, with the same weights and the same slice of each sequence.
  // Their tensors travel among the replicas: this group shares out sequences, and has the host's
  // collectives alone.
  Communicator& data() const { return *data_; }
  // Ranks that see the other slices of the same sequences, with the same weights; in their order.
  Communicator& context() const { return *context_; }
  // Ranks that hold the other parts of the same weights and see the same tokens.
  Communicator& tensor() const { return *tensor_; }
  // Of the tensor ranks, the `count` neighbours that hold the same elements of a parameter as this
  // one (ParameterSpec::holders). Requires: all of them, or a count that was given to Create.
  Communicator& holders(int count) const;
  // Data x context: ranks that hold the same weights. Gradients are summed, and the optimizer's
  // state is sharded, among them.
  Communicator& replicas() const { return *replicas_; }

  // Communicator::seconds of the groups that a pass has collectives in: context, tensor, holders.
  double SecondsInPasses() const;

  // Whether ranks wait for each other inside a pass, and not only between passes.
  bool has_collectives_in_passes() const { return shape_.tensor > 1 || shape_.context > 1; }

 private:
  ParallelContext(Communicator& world, const MeshShape& shape, const MeshCoordinate& coordinate)
      : shape_(shape), coordinate_(coordinate), world_(&world) {}

  MeshShape shape_;
  MeshCoordinate coordinate_;
  std::unique_ptr<Communicator> planned_world_;  // null: `world_` is another's
  Communicator* world_;
  std::unique_ptr<Communicator> data_, context_, tensor_, replicas_;
  std::map<int, std::unique_ptr<Communicator>> holders_;  // by count
};

// AgreeOnStatus over `all` after the passes of this rank; `parallel` is what they ran on, null
// where the rank was alone. Where ranks wait for each other inside a pass, the rank's own failure
// comes back at once, to end the job: its neighbours are in a collective of a pass that it left,
// and would never come to agree. Where all are well their collectives' numbers are made the same:
// passes over other tokens may take other collectives.
absl::Status AgreeAfterPasses(const ParallelContext* parallel, Communicator& all,
                              const absl::Status& status);

}  // namespace salamander

#endif  // MODEL_PARALLEL_PARALLEL_CONTEXT_H_
