#include "model/parallel/communicator.h"

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

class SingleRank : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  std::string transport() const override { return "nothing"; }
  absl::Status AllReduceSum(const TensorView&) override { return absl::OkStatus(); }
  absl::Status AllReduceSum(absl::Span<double>) override { return absl::OkStatus(); }
  absl::Status AllReduceMax(absl::Span<int64_t>) override { return absl::OkStatus(); }
  absl::Status Broadcast(const TensorView&, int) override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view text) override {
    return std::vector<std::string>{std::string(text)};
  }
  absl::Status Barrier() override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int) override {
    return SingleRankCommunicator();
  }
};

}  // namespace

std::unique_ptr<Communicator> SingleRankCommunicator() {
  return std::make_unique<SingleRank>();
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
