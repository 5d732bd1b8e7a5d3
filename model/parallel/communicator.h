// Collectives among a group of ranks. One interface; MPI between CPU ranks is one side of it. Every
// call is collective: all ranks of the group make it, in the same order. A failure names rank and
// operation.
#ifndef MODEL_PARALLEL_COMMUNICATOR_H_
#define MODEL_PARALLEL_COMMUNICATOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "kernels/base/tensor_view.h"

namespace salamander {

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // What tensors travel by: "MPI", "NCCL".
  virtual std::string transport() const = 0;

  // In place, the same bits on every rank. fp32 or fp64.
  virtual absl::Status AllReduceSum(const TensorView& buffer) = 0;
  virtual absl::Status AllReduceSum(absl::Span<double> values) = 0;
  virtual absl::Status AllReduceMax(absl::Span<int64_t> values) = 0;

  virtual absl::Status Broadcast(const TensorView& buffer, int root) = 0;

  // Every rank receives every rank's text, by rank.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view text) = 0;

  virtual absl::Status Barrier() = 0;

  // The ranks of this group that give the same color, ordered by rank.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) = 0;
};

// A group of one: every collective is the identity.
std::unique_ptr<Communicator> SingleRankCommunicator();

// Makes every rank agree: the rank's own failure where it has one, else the first failing rank's,
// else OK. Decisions that change control flow go through here, so that no rank waits in a
// collective that another will not enter.
absl::Status AgreeOnStatus(Communicator& communicator, const absl::Status& status);

}  // namespace salamander

#endif  // MODEL_PARALLEL_COMMUNICATOR_H_
