#include "model/parallel/mpi_communicator.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <utility>

#include <mpi.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/bfloat16.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

// MPI counts are int; longer buffers go in pieces.
constexpr int64_t kLargestCount = int64_t{1} << 28;

// Of one step of a sum over ranks' parts, for each rank; bounds the memory it takes.
constexpr int64_t kSumElements = int64_t{1} << 20;

absl::Status MpiStatus(int code, absl::string_view operation, int rank) {
  if (code == MPI_SUCCESS) return absl::OkStatus();
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return absl::UnavailableError(
      absl::StrCat("rank ", rank, ": ", operation, " failed: ", text,
                   "; look for the first rank that died in the job's output"));
}

MPI_Datatype TypeOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return MPI_FLOAT;
    case DType::kFloat64:
      return MPI_DOUBLE;
    case DType::kInt32:
      return MPI_INT32_T;
    case DType::kBFloat16:
      break;
  }
  SALAMANDER_CHECK(false) << "MPI adds no " << Name(dtype);
  return MPI_DATATYPE_NULL;
}

// to[i] = the parts' elements i, added in the parts' order.
template <typename Element, typename Load, typename Store>
void AddParts(const Element* parts, int64_t count, int ranks, Element* to, const Load& load,
              const Store& store) {
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < count; ++i) {
    auto total = load(parts[i]);
    for (int rank = 1; rank < ranks; ++rank) total += load(parts[rank * count + i]);
    to[i] = store(total);
  }
}

// bf16 is added in fp32, others in their own type.
void AddParts(const char* parts, int ranks, const TensorView& sum) {
  const auto add = [&]<typename Element>(Element, const auto& load, const auto& store) {
    AddParts(reinterpret_cast<const Element*>(parts), sum.size(), ranks,
             static_cast<Element*>(sum.raw()), load, store);
  };
  switch (sum.dtype()) {
    case DType::kFloat32:
      return add(0.0F, std::identity(), std::identity());
    case DType::kFloat64:
      return add(0.0, std::identity(), std::identity());
    case DType::kBFloat16:
      return add(uint16_t{0}, FloatOfBfloat16, Bfloat16OfFloat);
    case DType::kInt32:
      break;
  }
  SALAMANDER_CHECK(false) << "no sum of " << Name(sum.dtype());
}

// Owns its MPI communicator. Keeps its collectives in `log`, which outlives it.
class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(absl::string_view name, MPI_Comm comm, CollectiveLog& log)
      : Communicator(name), comm_(comm), log_(log) {
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
  }
  ~MpiCommunicator() override { MPI_Comm_free(&comm_); }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string transport() const override { return "MPI"; }
  CollectiveLog* log() const override { return &log_; }

  using Communicator::AllGather;
  using Communicator::AllReduceSum;
  absl::Status AllReduceSum(absl::Span<double> values) override {
    return DoAllReduceSum(TensorView::Of(values.data(), {static_cast<int64_t>(values.size())}));
  }

  absl::Status AllReduceMax(absl::Span<int64_t> values) override {
    const LoggedCollective logged(&log_, name(), "all-reduce (max)",
                                  static_cast<int64_t>(values.size() * sizeof(int64_t)));
    return Check(MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()),
                               MPI_INT64_T, MPI_MAX, comm_),
                 "all-reduce (max)");
  }

  absl::StatusOr<std::vector<std::string>> AllGather(absl::string_view text) override;

  absl::Status Barrier() override {
    const LoggedCollective logged(&log_, name(), "barrier", 0);
    return Check(MPI_Barrier(comm_), "barrier");
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color,
                                                      absl::string_view part_name) override {
    const LoggedCollective logged(&log_, name(), "split", 0);
    MPI_Comm part = MPI_COMM_NULL;
    RETURN_IF_ERROR(Check(MPI_Comm_split(comm_, color, rank_, &part), "split"));
    return std::make_unique<MpiCommunicator>(part_name, part, log_);
  }

 private:
  absl::Status Check(int code, absl::string_view operation) const {
    return MpiStatus(code, operation, rank_);
  }

  absl::Status DoAllReduceSum(const TensorView& buffer) override {
    const LoggedCollective logged(&log_, name(), "all-reduce (sum)", buffer.bytes());
    return InPieces(buffer, [&](void* data, int count) {
      return Check(MPI_Allreduce(MPI_IN_PLACE, data, count, TypeOf(buffer.dtype()), MPI_SUM, comm_),
                   "all-reduce (sum)");
    });
  }

  absl::Status DoBroadcast(const TensorView& buffer, int root) override {
    const LoggedCollective logged(&log_, name(), "broadcast", buffer.bytes());
    return InPieces(buffer, [&](void* data, int count) {
      return Check(MPI_Bcast(data, count, TypeOf(buffer.dtype()), root, comm_), "broadcast");
    });
  }

  absl::Status DoAllGather(const TensorView& mine, const TensorView& all) override {
    const LoggedCollective logged(&log_, name(), "all-gather", all.bytes());
    const bool in_place = BytesOf(mine) == BytesOf(all) + rank_ * mine.bytes();
    return InBlocks(mine.bytes(), [&](int64_t begin, MPI_Datatype strided, int bytes) {
      const void* const sent = in_place ? MPI_IN_PLACE : BytesOf(mine) + begin;
      return Check(MPI_Allgather(sent, bytes, MPI_BYTE, BytesOf(all) + begin, 1, strided, comm_),
                   "all-gather");
    });
  }

  // Through all-to-all, so that the sum goes in the order of ranks.
  absl::Status DoReduceScatterSum(const TensorView& all, const TensorView& mine) override {
    const LoggedCollective logged(&log_, name(), "reduce-scatter (sum)", all.bytes());
    const int64_t piece = std::min(kSumElements, mine.size());
    const auto element = static_cast<int64_t>(SizeOf(mine.dtype()));
    std::vector<char> parts(static_cast<size_t>(size_ * piece * element));
    const TensorView flat = mine.Reshape({mine.size()});
    for (int64_t begin = 0; begin < mine.size(); begin += piece) {
      const int64_t count = std::min(piece, mine.size() - begin);
      RETURN_IF_ERROR(WithStrided(mine.bytes(), count * element, [&](MPI_Datatype strided) {
        return Check(MPI_Alltoall(BytesOf(all) + begin * element, 1, strided, parts.data(),
                                  static_cast<int>(count * element), MPI_BYTE, comm_),
                     "reduce-scatter");
      }));
      AddParts(parts.data(), size_, flat.Rows(begin, count));
    }
    return absl::OkStatus();
  }

  absl::Status DoAllToAll(const TensorView& sent, const TensorView& received) override {
    const LoggedCollective logged(&log_, name(), "all-to-all", sent.bytes());
    return InBlocks(sent.bytes() / size_, [&](int64_t begin, MPI_Datatype strided, int) {
      return Check(MPI_Alltoall(BytesOf(sent) + begin, 1, strided, BytesOf(received) + begin, 1,
                                strided, comm_),
                   "all-to-all");
    });
  }

  absl::Status DoShift(const TensorView& sent, const TensorView& received,
                       const Neighbours& neighbours) override {
    const LoggedCollective logged(&log_, name(), "shift", sent.bytes());
    const auto rank_of = [](int neighbour) { return neighbour < 0 ? MPI_PROC_NULL : neighbour; };
    for (int64_t begin = 0; begin < sent.bytes(); begin += kLargestCount) {
      const int bytes = static_cast<int>(std::min(kLargestCount, sent.bytes() - begin));
      RETURN_IF_ERROR(
          Check(MPI_Sendrecv(BytesOf(sent) + begin, bytes, MPI_BYTE, rank_of(neighbours.to), 0,
                             BytesOf(received) + begin, bytes, MPI_BYTE, rank_of(neighbours.from),
                             0, comm_, MPI_STATUS_IGNORE),
                "shift"));
    }
    return absl::OkStatus();
  }

  static char* BytesOf(const TensorView& tensor) { return static_cast<char*>(tensor.raw()); }

  // With a type of `bytes` bytes whose next element begins `stride` bytes on: the same bytes of
  // every rank's part.
  template <typename Use>
  absl::Status WithStrided(int64_t stride, int64_t bytes, const Use& use) const {
    MPI_Datatype block = MPI_DATATYPE_NULL, strided = MPI_DATATYPE_NULL;
    RETURN_IF_ERROR(Check(MPI_Type_contiguous(static_cast<int>(bytes), MPI_BYTE, &block), "type"));
    RETURN_IF_ERROR(Check(MPI_Type_create_resized(block, 0, stride, &strided), "type"));
    MPI_Type_free(&block);
    RETURN_IF_ERROR(Check(MPI_Type_commit(&strided), "type"));
    const absl::Status status = use(strided);
    MPI_Type_free(&strided);
    return status;
  }

  // A part of `stride` bytes for each rank, in pieces that MPI can count: from byte `begin` of
  // every part on so many bytes.
  template <typename Use>
  absl::Status InBlocks(int64_t stride, const Use& use) const {
    for (int64_t begin = 0; begin < stride; begin += kLargestCount) {
      const int64_t bytes = std::min(kLargestCount, stride - begin);
      RETURN_IF_ERROR(WithStrided(stride, bytes, [&](MPI_Datatype strided) {
        return use(begin, strided, static_cast<int>(bytes));
      }));
    }
    return absl::OkStatus();
  }

  template <typename Collective>
  absl::Status InPieces(const TensorView& buffer, const Collective& collective) {
    const auto element = static_cast<int64_t>(SizeOf(buffer.dtype()));
    for (int64_t begin = 0; begin < buffer.size(); begin += kLargestCount) {
      const int64_t count = std::min(kLargestCount, buffer.size() - begin);
      RETURN_IF_ERROR(
          collective(static_cast<char*>(buffer.raw()) + begin * element, static_cast<int>(count)));
    }
    return absl::OkStatus();
  }

  MPI_Comm comm_;
  CollectiveLog& log_;
  int rank_ = 0;
  int size_ = 1;
};

absl::StatusOr<std::vector<std::string>> MpiCommunicator::AllGather(absl::string_view text) {
  const LoggedCollective logged(&log_, name(), "all-gather (text)",
                                static_cast<int64_t>(text.size()));
  const int length = static_cast<int>(text.size());
  std::vector<int> lengths(static_cast<size_t>(size_)), offsets(static_cast<size_t>(size_));
  RETURN_IF_ERROR(Check(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, comm_),
                        "all-gather (lengths)"));
  int total = 0;
  for (size_t rank = 0; rank < lengths.size(); ++rank) {
    offsets[rank] = total;
    total += lengths[rank];
  }
  std::string all(static_cast<size_t>(total), '\0');
  RETURN_IF_ERROR(Check(MPI_Allgatherv(text.data(), length, MPI_CHAR, all.data(), lengths.data(),
                                       offsets.data(), MPI_CHAR, comm_),
                        "all-gather (text)"));
  std::vector<std::string> texts;
  for (size_t rank = 0; rank < lengths.size(); ++rank) {
    texts.push_back(
        all.substr(static_cast<size_t>(offsets[rank]), static_cast<size_t>(lengths[rank])));
  }
  return texts;
}

bool LaunchedAsJob() {
  for (const char* variable :
       {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "SLURM_STEP_NUM_TASKS"}) {
    if (std::getenv(variable) != nullptr) return true;
  }
  return false;
}

absl::StatusOr<RankWatchOptions> WatchOptions() {
  RankWatchOptions options;
  ASSIGN_OR_RETURN(options.limits, WatchLimits::FromEnvironment());
  options.tell = [](const std::string& text) { LogError(text); };
  return options;
}

// The same on all ranks: rank 0's, cut to a length.
std::string FromFirstRank(const std::string& text) {
  std::array<char, 4096> bytes = {};
  std::copy_n(text.begin(), std::min(text.size(), bytes.size() - 1), bytes.begin());
  MPI_Bcast(bytes.data(), static_cast<int>(bytes.size()), MPI_CHAR, 0, MPI_COMM_WORLD);
  return bytes.data();
}

std::string RandomToken() {
  std::random_device random;
  return absl::StrCat(absl::Hex(random(), absl::kZeroPad8), absl::Hex(random(), absl::kZeroPad8));
}

// Collective. Ranks that cannot reach rank 0 are no reason not to run.
std::unique_ptr<RankWatch> WatchRanks(Communicator& world, const CollectiveLog& log,
                                      const RankWatchOptions& options) {
  absl::StatusOr<std::unique_ptr<RankWatch>> watch = nullptr;
  if (world.rank() == 0) watch = RankWatch::Open(options, log);
  const bool is_open = watch.ok() && *watch != nullptr;
  const std::string addresses = FromFirstRank(is_open ? (*watch)->addresses() : "");
  if (world.rank() != 0) watch = RankWatch::Join(options, log, addresses);
  const absl::Status agreed = AgreeOnStatus(world, watch.status());
  if (agreed.ok()) return *std::move(watch);
  if (world.rank() == 0) {
    LogWarning(absl::StrCat("ranks do not watch each other: ", agreed.message(),
                            "; one that is lost is left to the launcher to notice"));
  }
  return nullptr;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MpiEnvironment>> MpiEnvironment::Start() {
  std::unique_ptr<MpiEnvironment> environment(new MpiEnvironment);
  if (!LaunchedAsJob()) {
    environment->world_ = SingleRankCommunicator();
    return environment;
  }
  ASSIGN_OR_RETURN(RankWatchOptions options, WatchOptions());
  int provided = 0;
  RETURN_IF_ERROR(
      MpiStatus(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "start", -1));
  environment->has_mpi_ = true;
  MPI_Comm world = MPI_COMM_NULL;
  RETURN_IF_ERROR(MpiStatus(MPI_Comm_dup(MPI_COMM_WORLD, &world), "duplicate the world", -1));
  int rank = 0, size = 1;
  MPI_Comm_rank(world, &rank);
  MPI_Comm_size(world, &size);
  options.token = FromFirstRank(RandomToken());
  options.ranks = size;
  // Not the token: whoever is on the host can read the names of files.
  const std::string job = FromFirstRank(RandomToken());
  environment->log_ = std::make_unique<CollectiveLog>(RecordFolder(), job, rank);
  // The process's main thread may be in a collective for ever.
  options.end_process = [log = environment->log_.get()](int exit_code) {
    log->RemoveFile();
    std::_Exit(exit_code);
  };
  environment->world_ = std::make_unique<MpiCommunicator>("world", world, *environment->log_);
  if (environment->world_->size() > 1)
    environment->watch_ = WatchRanks(*environment->world_, *environment->log_, options);
  return environment;
}

MpiEnvironment::~MpiEnvironment() {
  watch_.reset();
  world_.reset();
  if (has_mpi_) MPI_Finalize();
}

bool MpiEnvironment::AllArriveWithin(double seconds) {
  if (!has_mpi_) return true;
  MPI_Request request = MPI_REQUEST_NULL;
  int arrived = 0;
  if (MPI_Ibarrier(MPI_COMM_WORLD, &request) != MPI_SUCCESS) return false;
  for (const double end = MPI_Wtime() + seconds; MPI_Wtime() < end && arrived == 0;) {
    if (MPI_Test(&request, &arrived, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return arrived != 0;
}

void MpiEnvironment::Abort(int exit_code, absl::string_view why) {
  if (watch_ != nullptr) watch_->TellFailure(why, exit_code);
  if (has_mpi_) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace salamander
