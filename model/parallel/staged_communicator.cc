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
      : host_(std::move(host)), execution_(execution), piece_bytes_(piece_bytes) {}

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string transport() const override { return host_->transport() + " by way of the host"; }

  absl::Status AllReduceSum(const TensorView& buffer) override {
    if (size() == 1) return absl::OkStatus();
    return InPieces(buffer, [&](const TensorView& piece) { return host_->AllReduceSum(piece); });
  }
  absl::Status Broadcast(const TensorView& buffer, int root) override {
    if (size() == 1) return absl::OkStatus();
    return InPieces(buffer, [&](const TensorView& piece) { return host_->Broadcast(piece, root); });
  }

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
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color) override {
    ASSIGN_OR_RETURN(std::unique_ptr<Communicator> part, host_->Split(color));
    return StagedCommunicator(std::move(part), execution_, piece_bytes_);
  }

 private:
  // A rank whose device failed still takes part in the piece's collective: the others wait for it.
  template <typename Collective>
  absl::Status InPieces(const TensorView& buffer, const Collective& collective) {
    const auto element = static_cast<int64_t>(SizeOf(buffer.dtype()));
    const TensorView flat = buffer.Reshape({buffer.size()});
    const int64_t length = std::min(std::max<int64_t>(piece_bytes_ / element, 1), flat.size());
    std::vector<char> memory(static_cast<size_t>(length * element));
    absl::Status of_device;
    for (int64_t begin = 0; begin < flat.size(); begin += length) {
      const TensorView rows = flat.Rows(begin, std::min(length, flat.size() - begin));
      const TensorView piece(memory.data(), rows.dtype(), {rows.size()});
      if (of_device.ok()) of_device = CopyToHost(execution_, rows, memory.data());
      RETURN_IF_ERROR(collective(piece));
      if (of_device.ok()) of_device = CopyFromHost(execution_, memory.data(), rows);
    }
    return AgreeOnStatus(*host_, of_device);
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
