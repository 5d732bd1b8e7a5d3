#include "model/parallel/nccl_communicator.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <nccl.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/stream.h"
#include "model/parallel/collective_watch.h"

namespace salamander {
namespace {

absl::Status NcclStatus(ncclResult_t result, const char* operation, int rank) {
  if (result == ncclSuccess) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("rank ", rank, ": ", operation,
                                             " failed: ", ncclGetErrorString(result), " (",
                                             ncclGetLastError(nullptr), ")"));
}

ncclDataType_t TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return ncclFloat32;
    case DType::kFloat64:
      return ncclFloat64;
    case DType::kBFloat16:
      return ncclBfloat16;
    case DType::kInt32:
      return ncclInt32;
  }
  return ncclFloat32;
}

class Nccl : public Communicator {
 public:
  Nccl(std::unique_ptr<Communicator> host, const NcclOptions& options, ncclComm_t comm)
      : host_(std::move(host)),
        options_(options),
        comm_(comm),
        marks_(options.execution),
        watch_(std::make_unique<CollectiveWatch>(
            CollectiveWatch::Options{.rank = host_->rank(),
                                     .timeout_seconds = options.timeout_seconds,
                                     .ended = [this] { return Ended(); },
                                     .on_failure = options.on_failure})) {}
  ~Nccl() override {
    watch_.reset();  // it looks at the communicator
    ncclCommDestroy(comm_);
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }

  absl::Status AllReduceSum(const TensorView& buffer) override {
    return Enqueue("all-reduce (sum)", buffer, [&] {
      return ncclAllReduce(buffer.raw(), buffer.raw(), static_cast<size_t>(buffer.size()),
                           TypeOf(buffer.dtype()), ncclSum, comm_, stream());
    });
  }
  absl::Status Broadcast(const TensorView& buffer, int root) override {
    return Enqueue("broadcast", buffer, [&] {
      return ncclBroadcast(buffer.raw(), buffer.raw(), static_cast<size_t>(buffer.size()),
                           TypeOf(buffer.dtype()), root, comm_, stream());
    });
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
    ASSIGN_OR_RETURN(auto part, host_->Split(color));
    return NcclCommunicator(std::move(part), options_);
  }

 private:
  cudaStream_t stream() const { return cuda::StreamOf(options_.execution); }

  // Collectives that have ended, each of which left a mark behind it.
  absl::StatusOr<int64_t> Ended() {
    ncclResult_t result = ncclSuccess;
    ncclCommGetAsyncError(comm_, &result);
    if (result != ncclInProgress) RETURN_IF_ERROR(NcclStatus(result, "a collective", rank()));
    return marks_.Passed();
  }

  template <typename Collective>
  absl::Status Enqueue(const char* operation, const TensorView& buffer,
                       const Collective& collective) {
    RETURN_IF_ERROR(NcclStatus(collective(), operation, rank()));
    RETURN_IF_ERROR(marks_.Enqueue());
    watch_->Enqueued(operation, buffer.bytes());
    return absl::OkStatus();
  }

  std::unique_ptr<Communicator> host_;
  NcclOptions options_;
  ncclComm_t comm_;
  cuda::StreamMarks marks_;
  std::unique_ptr<CollectiveWatch> watch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> NcclCommunicator(std::unique_ptr<Communicator> host,
                                                               const NcclOptions& options) {
  SALAMANDER_CHECK(options.on_failure != nullptr) << "nobody would end the job";
  ncclUniqueId id = {};
  absl::Status status;
  if (host->rank() == 0) status = NcclStatus(ncclGetUniqueId(&id), "NCCL's unique id", 0);
  RETURN_IF_ERROR(AgreeOnStatus(*host, status));
  ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                   host->AllGather({id.internal, sizeof(id.internal)}));
  std::copy(ids[0].begin(), ids[0].end(), id.internal);
  ncclComm_t comm = nullptr;
  RETURN_IF_ERROR(
      AgreeOnStatus(*host, NcclStatus(ncclCommInitRank(&comm, host->size(), id, host->rank()),
                                      "joining NCCL's communicator", host->rank())));
  return std::make_unique<Nccl>(std::move(host), options, comm);
}

}  // namespace salamander
