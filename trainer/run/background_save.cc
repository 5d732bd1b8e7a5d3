#include "trainer/run/background_save.h"

#include <array>
#include <utility>

#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/parallel/placement.h"
#include "trainer/run/host_memory.h"

namespace salamander {

int64_t StagingMemory::BytesFor(absl::Span<const TensorPiece> pieces) {
  int64_t bytes = 0;
  for (const TensorPiece& piece : pieces) bytes += piece.rows.bytes() + Arena::kAlignment;
  return bytes;
}

absl::StatusOr<std::vector<TensorPiece>> StagingMemory::Take(absl::Span<const TensorPiece> pieces,
                                                             const ExecutionContext& where) {
  const int64_t bytes = BytesFor(pieces);
  if (memory_.capacity_bytes() < bytes) {
    memory_ = Arena::Adopt(nullptr, 0, nullptr);  // before there are two
    ASSIGN_OR_RETURN(memory_, Arena::Reserve(bytes));
  }
  memory_.RewindTo(0);
  std::vector<TensorPiece> staged(pieces.begin(), pieces.end());
  for (TensorPiece& piece : staged) {
    const TensorView from = piece.rows;
    piece.rows = memory_.Tensor(from.dtype(), {from.dim(0), from.row_size()});
    RETURN_IF_ERROR(CopyToHost(where, from, piece.rows.raw()));
  }
  return staged;
}

absl::StatusOr<bool> HasMemoryForAll(int64_t bytes, Communicator& world) {
  ASSIGN_OR_RETURN(const Placement on_host, PlacementOnHost(world));
  // Ranks hold about the same; the largest share is taken for all.
  std::array<int64_t, 1> most = {bytes};
  RETURN_IF_ERROR(world.AllReduceMax(absl::MakeSpan(most)));
  const bool is_short = most[0] > AvailableHostBytes() / 2 / on_host.ranks;
  std::array<int64_t, 1> any_short = {is_short ? 1 : 0};
  RETURN_IF_ERROR(world.AllReduceMax(absl::MakeSpan(any_short)));
  return any_short[0] == 0;
}

absl::StatusOr<std::unique_ptr<BackgroundSave>> BackgroundSave::Begin(
    const std::string& path, absl::Span<const TensorPiece> pieces,
    std::map<std::string, std::string> metadata, Communicator& ranks, const ExecutionContext& where,
    StagingMemory& memory) {
  ASSIGN_OR_RETURN(CheckpointWriter writer, CheckpointWriter::Begin(path, ranks));
  auto staged = memory.Take(pieces, where);
  RETURN_IF_ERROR(AgreeOnStatus(ranks, staged.status()));
  std::unique_ptr<BackgroundSave> save(
      new BackgroundSave(path, std::move(metadata), std::move(writer)));
  save->thread_ = std::thread([owner = save.get(), mine = *std::move(staged)] {
    owner->written_ = owner->writer_.WriteShard(mine);
    owner->is_done_.store(true, std::memory_order_release);
  });
  return save;
}

BackgroundSave::~BackgroundSave() {
  if (!thread_.joinable()) return;
  writer_.Cancel();
  thread_.join();
}

absl::StatusOr<bool> BackgroundSave::IsWritten(Communicator& ranks) const {
  std::array<int64_t, 1> is_busy = {is_done_.load(std::memory_order_acquire) ? 0 : 1};
  RETURN_IF_ERROR(ranks.AllReduceMax(absl::MakeSpan(is_busy)));
  return is_busy[0] == 0;
}

absl::Status BackgroundSave::Finish(Communicator& ranks) {
  thread_.join();
  return writer_.Publish(written_, metadata_, ranks);
}

}  // namespace salamander
