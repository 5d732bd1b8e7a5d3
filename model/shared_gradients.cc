#include "model/shared_gradients.h"

#include <functional>

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// Calls visit(gradients, begin) for each of the shard's pieces of shared parameters with the place
// of this rank's holders in the packed buffer: one place for each set of holders, in the order of
// ranks. Returns its size.
absl::StatusOr<int64_t> VisitShared(
    const ParameterLayout& layout, const ShardLayout& shard, const ParameterBuffer& gradients,
    const std::function<absl::Status(const TensorView&, int64_t)>& visit) {
  int64_t begin = 0;
  for (const ShardLayout::Piece& piece : shard.pieces()) {
    const ParameterSpec& spec = layout.specs()[piece.parameter];
    if (spec.holders == 1) continue;
    const int64_t set = layout.shard().rank / spec.holders;
    RETURN_IF_ERROR(
        visit(gradients.Flat().Rows(piece.flat_begin, piece.count), begin + set * piece.count));
    begin += layout.shard().ranks / spec.holders * piece.count;
  }
  return begin;
}

}  // namespace

absl::Status SumSharedGradients(const ExecutionContext& execution, const ParameterLayout& layout,
                                const ShardLayout& shard, const ParameterBuffer& gradients,
                                const ParallelContext& parallel) {
  if (parallel.tensor().size() == 1) return absl::OkStatus();
  const auto count = [](const TensorView&, int64_t) { return absl::OkStatus(); };
  ASSIGN_OR_RETURN(const int64_t size, VisitShared(layout, shard, gradients, count));
  if (size == 0) return absl::OkStatus();
  const ArenaScope scope(*execution.arena);
  const TensorView packed = execution.arena->Tensor(gradients.Flat().dtype(), {size});
  RETURN_IF_ERROR(Zero(execution, packed));
  const auto pack = [&](const TensorView& gradient, int64_t begin) {
    return Copy(execution, gradient, packed.Rows(begin, gradient.size()));
  };
  RETURN_IF_ERROR(VisitShared(layout, shard, gradients, pack).status());
  RETURN_IF_ERROR(parallel.tensor().AllReduceSum(packed));
  const auto unpack = [&](const TensorView& gradient, int64_t begin) {
    return Copy(execution, packed.Rows(begin, gradient.size()), gradient);
  };
  return VisitShared(layout, shard, gradients, unpack).status();
}

}  // namespace salamander
