// A checkpoint that a thread writes while training goes on. The rank's shard is copied to memory of
// the host, and the thread writes it from there; it makes no collective call. At a step's boundary
// the ranks agree on whether all have written, and the first publishes the checkpoint then: it is
// complete under its name or absent, whenever a rank dies.
#ifndef TRAINER_RUN_BACKGROUND_SAVE_H_
#define TRAINER_RUN_BACKGROUND_SAVE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "kernels/base/arena.h"
#include "kernels/base/execution_context.h"
#include "model/checkpoint/checkpoint.h"
#include "model/parallel/communicator.h"

namespace salamander {

// Host memory for one rank's shard, kept from save to save: its pages are touched once.
class StagingMemory {
 public:
  // What the pieces take here.
  static int64_t BytesFor(absl::Span<const TensorPiece> pieces);

  // The same pieces on the host, valid until the next call. Waits for `where`'s stream.
  absl::StatusOr<std::vector<TensorPiece>> Take(absl::Span<const TensorPiece> pieces,
                                                const ExecutionContext& where);
  int64_t bytes() const { return memory_.capacity_bytes(); }

 private:
  Arena memory_ = Arena::Adopt(nullptr, 0, nullptr);
};

// Whether every rank of every host may take so many bytes more of its memory: together no more than
// half of what programs can still have (trainer/run/host_memory.h). Collective.
absl::StatusOr<bool> HasMemoryForAll(int64_t bytes, Communicator& world);

class BackgroundSave {
 public:
  // Copies the pieces, which lie on `where`'s device, and returns once they may change. Collective;
  // the memory is the save's until its end.
  static absl::StatusOr<std::unique_ptr<BackgroundSave>> Begin(
      const std::string& path, absl::Span<const TensorPiece> pieces,
      std::map<std::string, std::string> metadata, Communicator& ranks,
      const ExecutionContext& where, StagingMemory& memory);

  // Stops the thread where it still writes. What was not published leaves nothing.
  ~BackgroundSave();
  BackgroundSave(const BackgroundSave&) = delete;
  BackgroundSave& operator=(const BackgroundSave&) = delete;

  const std::string& path() const { return path_; }

  // Whether every rank has written its shard, or failed to. Collective; does not wait for threads.
  absl::StatusOr<bool> IsWritten(Communicator& ranks) const;

  // Waits for this rank's thread and publishes. Collective; once. Fails on every rank where one
  // failed to write.
  absl::Status Finish(Communicator& ranks);

 private:
  BackgroundSave(std::string path, std::map<std::string, std::string> metadata,
                 CheckpointWriter writer)
      : path_(std::move(path)), metadata_(std::move(metadata)), writer_(std::move(writer)) {}

  std::string path_;
  std::map<std::string, std::string> metadata_;
  CheckpointWriter writer_;  // the thread's while it runs, but for Cancel
  absl::Status written_;     // the same
  std::atomic<bool> is_done_ = false;
  std::thread thread_;
};

}  // namespace salamander

#endif  // TRAINER_RUN_BACKGROUND_SAVE_H_
