#include "model/parallel/parallel_context.h"

#include <array>
#include <cstdint>
#include <utility>

#include "kernels/base/status_macros.h"
#include "model/parallel/device_communicator.h"
#include "model/parallel/planned_communicator.h"

namespace salamander {
namespace {

// Every rank of `all` counts on from the largest number that one has come to.
absl::Status AlignCollectiveNumbers(Communicator& all) {
  if (all.log() == nullptr) return absl::OkStatus();
  std::array<int64_t, 1> number = {all.log()->record().last.number};
  RETURN_IF_ERROR(all.AllReduceMax(absl::MakeSpan(number)));
  all.log()->AdvanceTo(number[0] + 1);  // the reduction itself counts
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ParallelContext> ParallelContext::Create(Communicator& world, const MeshShape& shape,
                                                        const ExecutionContext& execution,
                                                        absl::Span<const int> holder_counts) {
  const MeshCoordinate at = CoordinateOf(shape, world.rank());
  ParallelContext parallel(world, shape, at);
  // The ranks of a group share the color: their place on the axes that the group does not run
  // along.
  const auto group = [&](int color,
                         const char* name) -> absl::StatusOr<std::unique_ptr<Communicator>> {
    ASSIGN_OR_RETURN(auto host, world.Split(color, name));
    return DeviceCommunicator(std::move(host), execution);
  };
  ASSIGN_OR_RETURN(parallel.data_, world.Split(at.context * shape.tensor + at.tensor, "data"));
  ASSIGN_OR_RETURN(parallel.context_, group(at.data * shape.tensor + at.tensor, "context"));
  ASSIGN_OR_RETURN(parallel.tensor_, group(at.data * shape.context + at.context, "tensor"));
  ASSIGN_OR_RETURN(parallel.replicas_, group(at.tensor, "replicas"));
  for (const int count : holder_counts) {
    if (count == shape.tensor) continue;
    ASSIGN_OR_RETURN(parallel.holders_[count], group(world.rank() / count, "holders"));
  }
  return parallel;
}

ParallelContext ParallelContext::Planned(const MeshShape& shape, const MeshCoordinate& at,
                                         absl::Span<const int> holder_counts) {
  auto world = PlannedCommunicator("world", RankOf(shape, at), shape.ranks());
  ParallelContext parallel(*world, shape, at);
  parallel.planned_world_ = std::move(world);
  parallel.data_ = PlannedCommunicator("data", at.data, shape.data);
  parallel.context_ = PlannedCommunicator("context", at.context, shape.context);
  parallel.tensor_ = PlannedCommunicator("tensor", at.tensor, shape.tensor);
  parallel.replicas_ = PlannedCommunicator("replicas", at.data * shape.context + at.context,
                                           shape.data * shape.context);
  for (const int count : holder_counts) {
    if (count == shape.tensor) continue;
    parallel.holders_[count] = PlannedCommunicator("holders", at.tensor % count, count);
  }
  return parallel;
}

double ParallelContext::SecondsInPasses() const {
  double seconds = context_->seconds() + tensor_->seconds();
  for (const auto& [count, ranks] : holders_) seconds += ranks->seconds();
  return seconds;
}

Communicator& ParallelContext::holders(int count) const {
  if (count == shape_.tensor) return *tensor_;
  const auto found = holders_.find(count);
  SALAMANDER_CHECK(found != holders_.end())
      << "no group of " << count << " holders among " << shape_.tensor << " tensor ranks was made";
  return *found->second;
}

absl::Status AgreeAfterPasses(const ParallelContext* parallel, Communicator& all,
                              const absl::Status& status) {
  if (!status.ok() && parallel != nullptr && parallel->has_collectives_in_passes()) return status;
  RETURN_IF_ERROR(AgreeOnStatus(all, status));
  return AlignCollectiveNumbers(all);
}

}  // namespace salamander
