// Collectives among a group of ranks. One interface; MPI between CPU ranks is one side of it. Every
// call is collective: all ranks of the group make it, in the same order. A failure names rank and
// operation. What tensors' collectives send is counted.
#ifndef MODEL_PARALLEL_COMMUNICATOR_H_
#define MODEL_PARALLEL_COMMUNICATOR_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"
#include "model/parallel/watch/collective_log.h"

namespace salamander {

// Collectives of tensors.
enum class Collective { kAllReduce, kBroadcast, kAllGather, kReduceScatter, kAllToAll, kShift };
inline constexpr int kCollectives = 6;
absl::string_view Name(Collective collective);

// What one kind of collective has cost a rank so far.
struct CollectiveTraffic {
  int64_t calls = 0;
  int64_t payload_bytes = 0;  // of the longer of the tensors that go in and out

  bool operator==(const CollectiveTraffic&) const = default;
};
using Traffic = std::array<CollectiveTraffic, kCollectives>;  // by Collective

// Bytes that each of `ranks` ranks sends where no algorithm can send less.
double WireBytes(Collective collective, int64_t payload_bytes, int ranks);

class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  virtual int rank() const = 0;
  virtual int size() const = 0;

  // What tensors travel by: "MPI", "NCCL".
  virtual std::string transport() const = 0;

  // What the group is called in messages and metrics: "world", "tensor".
  const std::string& name() const { return name_; }

  // Where the rank keeps its collectives, of this group and all others; nullptr: nowhere.
  virtual CollectiveLog* log() const { return nullptr; }

  // In place, the same bits on every rank. fp32 or fp64.
  absl::Status AllReduceSum(const TensorView& buffer);

  absl::Status Broadcast(const TensorView& buffer, int root);

  // Rank r's `mine` becomes rows [r * n, (r + 1) * n) of `all` on every rank, n = mine.dim(0). Any
  // dtype. `mine` may lie in its place in `all`.
  absl::Status AllGather(const TensorView& mine, const TensorView& all);

  // `mine` becomes this rank's n rows of the sum of `all` over ranks, n = mine.dim(0). fp32, fp64
  // or bf16. The tensors do not overlap. On the host the sum goes in the order of ranks, bf16's in
  // fp32.
  absl::Status ReduceScatterSum(const TensorView& all, const TensorView& mine);

  // Rows [r * n, (r + 1) * n) of `sent` go to rank r, n = dim(0) / size(); what rank r sends comes
  // to the same rows of `received`. Any dtype. The tensors do not overlap.
  absl::Status AllToAll(const TensorView& sent, const TensorView& received);

  // `sent` goes to rank + step, and `received` is what rank - step sent, like `sent`; where there
  // is no such rank it holds nothing of meaning. step is 1 or -1. Any dtype. The tensors do not
  // overlap.
  absl::Status Shift(const TensorView& sent, const TensorView& received, int step);

  // Of numbers on the host.
  virtual absl::Status AllReduceSum(absl::Span<double> values) = 0;
  virtual absl::Status AllReduceMax(absl::Span<int64_t> values) = 0;

  // Every rank receives every rank's text, by rank.
  virtual absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view text) = 0;

  virtual absl::Status Barrier() = 0;

  // The ranks of this group that give the same color, ordered by rank.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color,
                                                              absl::string_view name) = 0;

  const Traffic& traffic() const { return traffic_; }

  // That this rank has spent in collectives of tensors, most of them waiting for the others. Of
  // NCCL's, which the device waits for, they are what enqueueing took.
  virtual double seconds() const { return seconds_; }

 protected:
  explicit Communicator(absl::string_view name) : name_(name) {}

  // Of a shift; -1 where there is none.
  struct Neighbours {
    int to, from;
  };

 private:
  virtual absl::Status DoAllReduceSum(const TensorView& buffer) = 0;
  virtual absl::Status DoBroadcast(const TensorView& buffer, int root) = 0;
  virtual absl::Status DoAllGather(const TensorView& mine, const TensorView& all) = 0;
  virtual absl::Status DoReduceScatterSum(const TensorView& all, const TensorView& mine) = 0;
  virtual absl::Status DoAllToAll(const TensorView& sent, const TensorView& received) = 0;
  virtual absl::Status DoShift(const TensorView& sent, const TensorView& received,
                               const Neighbours& neighbours) = 0;

  void Count(Collective collective, const TensorView& payload);
  template <typename Call>
  absl::Status Timed(const Call& call);

  std::string name_;
  Traffic traffic_;
  double seconds_ = 0.0;
};

// A group of one: every collective is the identity. Tensors lie on `execution`'s device.
std::unique_ptr<Communicator> SingleRankCommunicator(absl::string_view name = "alone",
                                                     const ExecutionContext& execution = {});

// Makes every rank agree: the rank's own failure where it has one, else the first failing rank's,
// else OK. Decisions that change control flow go through here, so that no rank waits in a
// collective that another will not enter.
absl::Status AgreeOnStatus(Communicator& communicator, const absl::Status& status);

}  // namespace salamander

#endif  // MODEL_PARALLEL_COMMUNICATOR_H_
