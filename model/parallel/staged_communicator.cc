#include "model/parallel/staged_communicator.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

class Staged : public Communicator {
 public:
  Staged(std::unique_ptr<Communicator> host, const ExecutionContext& execution, int64_t piece_bytes)
      : Communicator(host->name()),
        host_(std::move(host)),
        execution_(execution),
        piece_bytes_(piece_bytes) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string transport() const override { return host_->transport() + " by way of the host"; }
  CollectiveLog* log() const override { return host_->log(); }
  // Without what the device was waited for, whose work is this rank's own.
  double seconds() const override { return host_->seconds(); }

  using Communicator::AllGather;
  using Communicator::AllReduceSum;
  absl::Status AllReduceSum(absl::Span<double> values) override {
    return host_->AllReduceSum(values);
  }
  absl::Status AllReduceMax(absl::Span<int64_t> values) override {
    return host_->AllReduceMax(values);
  }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view text) override {
    return host_->AllGather(text);
  }
  absl::Status Barrier() override { return host_->Barrier(); }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color, absl::string_view name) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, host_->Split(color, name));
    return StagedCommunicator(std::move(part), execution_, piece_bytes_);
  }

 private:
  absl::Status DoAllReduceSum(const TensorView& buffer) override {
    return InPieces({buffer, 1}, {buffer, 1}, [&](const TensorView& piece, const TensorView&) {
      return host_->AllReduceSum(piece);
    });
  }
  absl::Status DoBroadcast(const TensorView& buffer, int root) override {
    return InPieces({buffer, 1}, {buffer, 1}, [&](const TensorView& piece, const TensorView&) {
      return host_->Broadcast(piece, root);
    });
  }
  absl::Status DoAllGather(const TensorView& mine, const TensorView& all) override {
    return InPieces({mine, 1}, {all, size()}, [&](const TensorView& sent, const TensorView& got) {
      return host_->AllGather(sent, got);
    });
  }
  absl::Status DoReduceScatterSum(const TensorView& all, const TensorView& mine) override {
    return InPieces({all, size()}, {mine, 1}, [&](const TensorView& sent, const TensorView& got) {
      return host_->ReduceScatterSum(sent, got);
    });
  }
  absl::Status DoAllToAll(const TensorView& sent, const TensorView& received) override {
    return InPieces(
        {sent, size()}, {received, size()},
        [&](const TensorView& from, const TensorView& to) { return host_->AllToAll(from, to); });
  }

  absl::Status DoShift(const TensorView& sent, const TensorView& received,
                       const Neighbours& neighbours) override {
    const int step = neighbours.to >= 0 ? neighbours.to - rank() : rank() - neighbours.from;
    return InPieces({sent, 1}, {received, 1}, [&](const TensorView& from, const TensorView& to) {
      return host_->Shift(from, to, step);
    });
  }

  // A tensor of one part, or of a part for each rank.
  struct Parts {
    const TensorView& tensor;
    int count;
  };

  // A rank whose device failed still takes part in the pieces' collectives: the others wait for it.
  // The same tensor on both sides: in place.
  template <typename Collective>
  absl::Status InPieces(const Parts& sent, const Parts& received, const Collective& collective) {
    if (size() == 1 && sent.tensor.raw() == received.tensor.raw()) return absl::OkStatus();
    const bool in_place =
        sent.tensor.raw() == received.tensor.raw() && sent.count == received.count;
    const int64_t part = sent.tensor.size() / sent.count;
    const auto element = static_cast<int64_t>(SizeOf(sent.tensor.dtype()));
    const int64_t parts = in_place ? sent.count : sent.count + received.count;
    const int64_t length = std::min(std::max<int64_t>(piece_bytes_ / (element * parts), 1), part);
    std::vector<char> memory(static_cast<size_t>(length * element * parts));
    char* const behind = in_place ? memory.data() : memory.data() + sent.count * length * element;
    absl::Status of_device;
    for (int64_t begin = 0; begin < part; begin += length) {
      const int64_t count = std::min(length, part - begin);
      const TensorView from(memory.data(), sent.tensor.dtype(), {sent.count * count});
      const TensorView to(behind, sent.tensor.dtype(), {received.count * count});
      of_device.Update(EachPart(sent, begin, count, [&](const TensorView& rows, int index) {
        return CopyToHost(execution_, rows, from.Rows(index * count, count).raw());
      }));
      RETURN_IF_ERROR(collective(from, to));
      if (!of_device.ok()) continue;
      of_device = EachPart(received, begin, count, [&](const TensorView& rows, int index) {
        return CopyFromHost(execution_, to.Rows(index * count, count).raw(), rows);
      });
    }
    return AgreeOnStatus(*host_, of_device);
  }

  template <typename Move>
  static absl::Status EachPart(const Parts& parts, int64_t begin, int64_t count, const Move& move) {
    const TensorView flat = parts.tensor.Reshape({parts.tensor.size()});
    for (int index = 0; index < parts.count; ++index) {
      const int64_t row = flat.size() / parts.count * index + begin;
      RETURN_IF_ERROR(move(flat.Rows(row, count), index));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<Communicator> host_;
  ExecutionContext execution_;
  int64_t piece_bytes_;
};

}  // namespace

std::unique_ptr<Communicator> StagedCommunicator(std::unique_ptr<Communicator> host,
                                                 const ExecutionContext& execution,
                                                 int64_t piece_bytes) {
  return std::make_unique<Staged>(std::move(host), execution, piece_bytes);
}

}  // namespace salamander
