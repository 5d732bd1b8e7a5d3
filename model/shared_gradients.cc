#include "model/shared_gradients.h"

#include <cstdint>
#include <map>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// They stand end to end in the arena for the collective.
absl::Status SumTogether(const ExecutionContext& execution, const std::vector<TensorView>& shared,
                         Communicator& holders) {
  int64_t size = 0;
  for (const TensorView& tensor : shared) size += tensor.size();
  const ArenaScope scope(*execution.arena);
  const TensorView packed = execution.arena->Tensor(shared.front().dtype(), {size});
  int64_t at = 0;
  for (const TensorView& tensor : shared) {
    RETURN_IF_ERROR(Copy(execution, tensor, packed.Rows(at, tensor.size())));
    at += tensor.size();
  }
  RETURN_IF_ERROR(holders.AllReduceSum(packed));
  at = 0;
  for (const TensorView& tensor : shared) {
    RETURN_IF_ERROR(Copy(execution, packed.Rows(at, tensor.size()), tensor));
    at += tensor.size();
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SumSharedGradients(const ExecutionContext& execution, const ParameterLayout& layout,
                                const ParameterBuffer& gradients, const ParallelContext& parallel) {
  std::map<int, std::vector<TensorView>> by_holders;
  for (const ParameterSpec& spec : layout.specs()) {
    if (spec.holders > 1) by_holders[spec.holders].push_back(gradients.View(spec));
  }
  for (const auto& [holders, shared] : by_holders) {
    RETURN_IF_ERROR(SumTogether(execution, shared, parallel.holders(holders)));
  }
  return absl::OkStatus();
}

}  // namespace salamander
