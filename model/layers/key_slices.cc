#include "model/layers/key_slices.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

KeysAndValues RowsOfAllSlices(const MixerPass& pass, int ranks, const TensorView& own) {
  const auto all = [&] {
    return pass.execution->arena->Tensor(own.dtype(), {own.dim(0) * ranks, own.dim(1), own.dim(2)});
  };
  return {all(), all()};
}

}  // namespace

absl::StatusOr<KeysAndValues> GatherSlices(const MixerPass& pass, const KeysAndValues& own) {
  Communicator* const ranks = ContextRanks(pass);
  if (ranks == nullptr) return own;
  const KeysAndValues all = RowsOfAllSlices(pass, ranks->size(), own.keys);
  RETURN_IF_ERROR(ranks->AllGather(own.keys, all.keys));
  RETURN_IF_ERROR(ranks->AllGather(own.values, all.values));
  return all;
}

absl::StatusOr<KeysAndValues> ZeroGradients(const MixerPass& pass, const KeysAndValues& own) {
  Communicator* const ranks = ContextRanks(pass);
  const KeysAndValues all = ranks == nullptr ? own : RowsOfAllSlices(pass, ranks->size(), own.keys);
  RETURN_IF_ERROR(Zero(*pass.execution, all.keys));
  RETURN_IF_ERROR(Zero(*pass.execution, all.values));
  return all;
}

absl::Status ScatterGradients(const MixerPass& pass, const KeysAndValues& all,
                              const KeysAndValues& own) {
  Communicator* const ranks = ContextRanks(pass);
  if (ranks == nullptr) return absl::OkStatus();
  RETURN_IF_ERROR(ranks->ReduceScatterSum(all.keys, own.keys));
  return ranks->ReduceScatterSum(all.values, own.values);
}

}  // namespace salamander
