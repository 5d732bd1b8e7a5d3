#include "model/parallel/communicator.h"

#include <chrono>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

class SingleRank : public Communicator {
 public:
  SingleRank(absl::string_view name, const ExecutionContext& execution)
      : Communicator(name), execution_(execution) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string transport() const override { return "nothing"; }
  using Communicator::AllGather;
  using Communicator::AllReduceSum;
  absl::Status AllReduceSum(absl::Span<double>) override { return absl::OkStatus(); }
  absl::Status AllReduceMax(absl::Span<int64_t>) override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view text) override {
    return std::vector<std::string>{std::string(text)};
  }
  absl::Status Barrier() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int, absl::string_view name) override {
    return SingleRankCommunicator(name, execution_);
  }

 private:
  absl::Status DoAllReduceSum(const TensorView&) override { return absl::OkStatus(); }
  absl::Status DoBroadcast(const TensorView&, int) override { return absl::OkStatus(); }
  absl::Status DoAllGather(const TensorView& mine, const TensorView& all) override {
    return Take(mine, all);
  }
  absl::Status DoReduceScatterSum(const TensorView& all, const TensorView& mine) override {
    return Take(all, mine);
  }
  absl::Status DoAllToAll(const TensorView& sent, const TensorView& received) override {
    return Take(sent, received);
  }
  absl::Status DoShift(const TensorView&, const TensorView&, const Neighbours&) override {
    return absl::OkStatus();
  }
  absl::Status Take(const TensorView& from, const TensorView& to) const {
    return from.raw() == to.raw() ? absl::OkStatus() : Copy(execution_, from, to);
  }

  ExecutionContext execution_;
};

// Whether `whole` is `ranks` parts of the rows and the kind of `part`.
bool IsWholeOf(const TensorView& whole, const TensorView& part, int ranks) {
  return whole.dtype() == part.dtype() && whole.rank() == part.rank() &&
         whole.dim(0) == part.dim(0) * ranks && whole.row_size() == part.row_size();
}

}  // namespace

absl::string_view Name(Collective collective) {
  switch (collective) {
    case Collective::kAllReduce:
      return "all-reduce";
    case Collective::kBroadcast:
      return "broadcast";
    case Collective::kAllGather:
      return "all-gather";
    case Collective::kReduceScatter:
      return "reduce-scatter";
    case Collective::kAllToAll:
      return "all-to-all";
    case Collective::kShift:
      return "shift";
  }
  return "";
}

double WireBytes(Collective collective, int64_t payload_bytes, int ranks) {
  const double share = static_cast<double>(payload_bytes) * (ranks - 1) / ranks;
  if (collective == Collective::kShift) return static_cast<double>(payload_bytes);
  return collective == Collective::kAllReduce ? 2 * share : share;
}

void Communicator::Count(Collective collective, const TensorView& payload) {
  CollectiveTraffic& counted = traffic_[static_cast<size_t>(collective)];
  ++counted.calls;
  counted.payload_bytes += payload.bytes();
}

template <typename Call>
absl::Status Communicator::Timed(const Call& call) {
  const auto start = std::chrono::steady_clock::now();
  absl::Status status = call();
  seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return status;
}

absl::Status Communicator::AllReduceSum(const TensorView& buffer) {
  Count(Collective::kAllReduce, buffer);
  return Timed([&] { return DoAllReduceSum(buffer); });
}

absl::Status Communicator::Broadcast(const TensorView& buffer, int root) {
  Count(Collective::kBroadcast, buffer);
  return Timed([&] { return DoBroadcast(buffer, root); });
}

absl::Status Communicator::AllGather(const TensorView& mine, const TensorView& all) {
  SALAMANDER_CHECK(IsWholeOf(all, mine, size()))
      << name_ << " of " << size() << ": " << mine.ShapeString() << " to " << all.ShapeString();
  Count(Collective::kAllGather, all);
  return Timed([&] { return DoAllGather(mine, all); });
}

absl::Status Communicator::ReduceScatterSum(const TensorView& all, const TensorView& mine) {
  SALAMANDER_CHECK(IsWholeOf(all, mine, size()))
      << name_ << " of " << size() << ": " << all.ShapeString() << " to " << mine.ShapeString();
  Count(Collective::kReduceScatter, all);
  return Timed([&] { return DoReduceScatterSum(all, mine); });
}

absl::Status Communicator::AllToAll(const TensorView& sent, const TensorView& received) {
  SALAMANDER_CHECK(IsWholeOf(sent, received, 1) && sent.dim(0) % size() == 0)
      << name_ << " of " << size() << ": " << sent.ShapeString() << " to "
      << received.ShapeString();
  Count(Collective::kAllToAll, sent);
  return Timed([&] { return DoAllToAll(sent, received); });
}

absl::Status Communicator::Shift(const TensorView& sent, const TensorView& received, int step) {
  SALAMANDER_CHECK(IsWholeOf(sent, received, 1) && (step == 1 || step == -1))
      << name_ << ": " << sent.ShapeString() << " to " << received.ShapeString() << " by " << step;
  const auto rank_or_none = [&](int rank) { return rank >= 0 && rank < size() ? rank : -1; };
  const Neighbours neighbours{rank_or_none(rank() + step), rank_or_none(rank() - step)};
  Count(Collective::kShift, neighbours.to < 0 ? sent.Rows(0, 0) : sent);
  return Timed([&] { return DoShift(sent, received, neighbours); });
}

std::unique_ptr<Communicator> SingleRankCommunicator(absl::string_view name,
                                                     const ExecutionContext& execution) {
  return std::make_unique<SingleRank>(name, execution);
}

absl::Status AgreeOnStatus(Communicator& communicator, const absl::Status& status) {
  ASSIGN_OR_RETURN(const std::vector<std::string> messages,
                   communicator.AllGather(status.ok() ? "" : absl::StrCat("!", status.message())));
  if (!status.ok()) return status;
  for (size_t rank = 0; rank < messages.size(); ++rank) {
    if (!messages[rank].empty()) {
      return absl::AbortedError(absl::StrCat("rank ", rank, " failed: ", messages[rank].substr(1)));
    }
  }
  return absl::OkStatus();
}

}  // namespace salamander
