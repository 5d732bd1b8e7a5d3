// Ops that are enqueued again and again, as one CUDA graph. The ops' host code runs each time, as
// ever; from the fourth time on it only revises a graph, which costs a fraction of the launches.
// Two graphs take turns, so that one is revised while the device works on the other.
//
// Where the ops ask for other work, a longer list of kernels say, the graph is recorded anew; where
// they do so again and again, as with documents cut otherwise each time, recording is not worth its
// cost, and for a while the ops are enqueued one by one.
#ifndef KERNELS_CUDA_GRAPH_REPLAY_H_
#define KERNELS_CUDA_GRAPH_REPLAY_H_

#include <array>
#include <memory>

#include "kernels/cuda/queue/graph_recording.h"
#include "kernels/cuda/runtime.h"
#include "kernels/device.h"

namespace salamander::cuda {

class GraphReplay : public Replay {
 public:
  explicit GraphReplay(Runtime& runtime) : runtime_(runtime) {}

  absl::Status Run(const std::function<absl::Status()>& enqueue) override;

 private:
  using Recording = std::unique_ptr<GraphRecording>;
  // Makes a recording and launches it, or enqueues one by one where the device has no memory for
  // a graph.
  absl::Status Record(const std::function<absl::Status()>& enqueue, Recording& recording);
  absl::StatusOr<Recording> MakeRecording(const std::function<absl::Status()>& enqueue);

  Runtime& runtime_;
  bool is_first_ = true;  // kernels are loaded when they first run, outside any recording
  std::array<Recording, 2> recordings_;
  size_t turn_ = 0;
  int divergences_ = 0;  // without a replay between them
  int direct_runs_left_ = 0;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_GRAPH_REPLAY_H_
