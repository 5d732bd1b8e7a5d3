#include "model/parallel/nccl_communicator.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <nccl.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/cuda/stream.h"
#include "model/parallel/collective_watch.h"

namespace salamander {
namespace {

constexpr std::chrono::microseconds kAskEvery{100};

// Of a communicator that has nothing under way.
constexpr double kSecondsToClose = 10;

// What NCCL said of an operation that is over, or ncclInProgress where it took too long.
absl::Status NcclStatus(ncclResult_t result, absl::string_view operation, int rank,
                        const Device& device) {
  if (result == ncclSuccess) return absl::OkStatus();
  const std::string where = absl::StrCat("rank ", rank, ", device ", device.index, ": ", operation);
  constexpr char kRemedy[] =
      "look for the first rank that failed in the job's output, and run again with "
      "NCCL_DEBUG=INFO to see what NCCL does";
  if (result == ncclInProgress) {
    return absl::DeadlineExceededError(absl::StrCat(
        where, " did not end in time: another rank has died or cannot be reached; ", kRemedy));
  }
  return absl::UnavailableError(absl::StrCat(where, " failed: ", ncclGetErrorString(result), " (",
                                             ncclGetLastError(nullptr), "); ", kRemedy));
}

// NCCL's calls return at once and go on by themselves. Waits until the communicator is done with
// one that said `state`; ncclInProgress where that takes longer than `seconds`, if they are not 0.
ncclResult_t Settled(ncclComm_t comm, ncclResult_t state, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  while (state == ncclInProgress && (seconds <= 0 || Clock::now() < end)) {
    std::this_thread::sleep_for(kAskEvery);
    const ncclResult_t asked = ncclCommGetAsyncError(comm, &state);
    if (asked != ncclSuccess) return asked;
  }
  return state;
}

// A communicator that nobody closes is given up, and what it has under way on the device with it:
// to wait for a peer that is gone would be to wait for ever.
struct GiveUp {
  void operator()(ncclComm_t comm) const { ncclCommAbort(comm); }
};
using OwnedComm = std::unique_ptr<ncclComm, GiveUp>;

void Close(OwnedComm comm) {
  const ncclResult_t state = Settled(comm.get(), ncclCommFinalize(comm.get()), kSecondsToClose);
  if (state == ncclSuccess) ncclCommDestroy(comm.release());
}

absl::StatusOr<OwnedComm> Join(const Communicator& host, const ncclUniqueId& id,
                               const NcclOptions& options) {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;  // a call that blocks would do so for ever where a rank stays away
  ncclComm_t comm = nullptr;
  const ncclResult_t begun = ncclCommInitRankConfig(&comm, host.size(), id, host.rank(), &config);
  OwnedComm owned(comm);
  RETURN_IF_ERROR(NcclStatus(Settled(comm, begun, options.setup_seconds),
                             absl::StrCat("joining NCCL's communicator of ", host.size(), " ranks"),
                             host.rank(), options.execution.device));
  return owned;
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
  Nccl(std::unique_ptr<Communicator> host, const NcclOptions& options, OwnedComm comm)
      : Communicator(host->name()),
        host_(std::move(host)),
        options_(options),
        comm_(std::move(comm)),
        marks_(options.execution),
        watch_(std::make_unique<CollectiveWatch>(
            CollectiveWatch::Options{.rank = host_->rank(),
                                     .timeout_seconds = options.timeout_seconds,
                                     .log = host_->log(),
                                     .group = host_->name(),
                                     .ended = [this] { return Ended(); },
                                     .on_failure = options.on_failure})) {}
  ~Nccl() override {
    watch_.reset();  // it asks the communicator
    const auto ended = Ended();
    if (ended.ok() && *ended == begun_) Close(std::move(comm_));
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string transport() const override { return "NCCL"; }
  CollectiveLog* log() const override { return host_->log(); }

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
    ASSIGN_OR_RETURN(auto part, host_->Split(color, name));
    return NcclCommunicator(std::move(part), options_);
  }

 private:
  absl::Status DoAllReduceSum(const TensorView& buffer) override {
    return Enqueue("all-reduce (sum)", buffer, [&] {
      return ncclAllReduce(buffer.raw(), buffer.raw(), static_cast<size_t>(buffer.size()),
                           TypeOf(buffer.dtype()), ncclSum, comm_.get(), stream());
    });
  }
  absl::Status DoBroadcast(const TensorView& buffer, int root) override {
    return Enqueue("broadcast", buffer, [&] {
      return ncclBroadcast(buffer.raw(), buffer.raw(), static_cast<size_t>(buffer.size()),
                           TypeOf(buffer.dtype()), root, comm_.get(), stream());
    });
  }
  absl::Status DoAllGather(const TensorView& mine, const TensorView& all) override {
    return Enqueue("all-gather", all, [&] {
      return ncclAllGather(mine.raw(), all.raw(), static_cast<size_t>(mine.size()),
                           TypeOf(mine.dtype()), comm_.get(), stream());
    });
  }
  absl::Status DoReduceScatterSum(const TensorView& all, const TensorView& mine) override {
    return Enqueue("reduce-scatter (sum)", all, [&] {
      return ncclReduceScatter(all.raw(), mine.raw(), static_cast<size_t>(mine.size()),
                               TypeOf(mine.dtype()), ncclSum, comm_.get(), stream());
    });
  }
  absl::Status DoAllToAll(const TensorView& sent, const TensorView& received) override {
    return Enqueue("all-to-all", sent, [&] { return SendAndReceive(sent, received); });
  }

  absl::Status DoShift(const TensorView& sent, const TensorView& received,
                       const Neighbours& neighbours) override {
    return Enqueue("shift", sent, [&] {
      const auto count = static_cast<size_t>(sent.size());
      const ncclDataType_t type = TypeOf(sent.dtype());
      ncclResult_t state = ncclGroupStart();
      if (neighbours.to >= 0)
        state = ncclSend(sent.raw(), count, type, neighbours.to, comm_.get(), stream());
      if (neighbours.from >= 0 && (state == ncclSuccess || state == ncclInProgress))
        state = ncclRecv(received.raw(), count, type, neighbours.from, comm_.get(), stream());
      const ncclResult_t ended = ncclGroupEnd();
      return state == ncclSuccess || state == ncclInProgress ? ended : state;
    });
  }

  // Every rank's part, in one group of calls.
  ncclResult_t SendAndReceive(const TensorView& sent, const TensorView& received) const {
    const int64_t rows = sent.dim(0) / size();
    const auto count = static_cast<size_t>(rows * sent.row_size());
    const ncclDataType_t type = TypeOf(sent.dtype());
    ncclResult_t state = ncclGroupStart();
    for (int peer = 0; peer < size(); ++peer) {
      state =
          ncclSend(sent.Rows(peer * rows, rows).raw(), count, type, peer, comm_.get(), stream());
      if (state != ncclSuccess && state != ncclInProgress) break;
      state = ncclRecv(received.Rows(peer * rows, rows).raw(), count, type, peer, comm_.get(),
                       stream());
      if (state != ncclSuccess && state != ncclInProgress) break;
    }
    const ncclResult_t ended = ncclGroupEnd();
    return state == ncclSuccess || state == ncclInProgress ? ended : state;
  }

  cudaStream_t stream() const { return cuda::StreamOf(options_.execution); }
  absl::Status StatusOf(ncclResult_t result, const char* operation) const {
    return NcclStatus(result, operation, rank(), options_.execution.device);
  }

  // Collectives that have ended, each of which left a mark behind it.
  absl::StatusOr<int64_t> Ended() {
    ncclResult_t state = ncclSuccess;
    ncclCommGetAsyncError(comm_.get(), &state);
    if (state != ncclInProgress) RETURN_IF_ERROR(StatusOf(state, "NCCL's communicator"));
    return marks_.Passed();
  }

  // The stream holds the collective once NCCL is done with the call, which connects to peers where
  // it has not yet, and waits for them.
  template <typename Collective>
  absl::Status Enqueue(const char* operation, const TensorView& buffer,
                       const Collective& collective) {
    watch_->Begin(operation, buffer.bytes());
    ++begun_;
    const ncclResult_t state = Settled(comm_.get(), collective(), options_.timeout_seconds);
    RETURN_IF_ERROR(StatusOf(state, operation));
    RETURN_IF_ERROR(marks_.Enqueue());
    return absl::OkStatus();
  }

  std::unique_ptr<Communicator> host_;
  NcclOptions options_;
  OwnedComm comm_;
  cuda::StreamMarks marks_;
  int64_t begun_ = 0;
  std::unique_ptr<CollectiveWatch> watch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Communicator>> NcclCommunicator(std::unique_ptr<Communicator> host,
                                                               const NcclOptions& options) {
  SALAMANDER_CHECK(options.on_failure != nullptr) << "nobody would end the job";
  ncclUniqueId id = {};
  absl::Status status;
  if (host->rank() == 0) {
    status =
        NcclStatus(ncclGetUniqueId(&id), "making NCCL's unique id", 0, options.execution.device);
  }
  RETURN_IF_ERROR(AgreeOnStatus(*host, status));
  ASSIGN_OR_RETURN(const std::vector<std::string> ids,
                   host->AllGather({id.internal, sizeof(id.internal)}));
  std::copy(ids[0].begin(), ids[0].end(), id.internal);
  auto comm = Join(*host, id, options);
  RETURN_IF_ERROR(AgreeOnStatus(*host, comm.status()));
  return std::make_unique<Nccl>(std::move(host), options, *std::move(comm));
}

}  // namespace salamander
