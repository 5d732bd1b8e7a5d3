// Ops that are enqueued again and again, as one CUDA graph. The ops' host code runs each time, as
// ever; from the third time on it only revises the graph, which costs a fraction of the launches.
// Where it asks for other work, a longer list of kernels say, the graph is recorded anew; where it
// does so again and again, as with documents cut otherwise each time, recording is not worth its
// cost, and for a while the ops are enqueued one by one.
#ifndef KERNELS_CUDA_GRAPH_REPLAY_H_
#define KERNELS_CUDA_GRAPH_REPLAY_H_

#include <memory>

#include "kernels/cuda/graph_recording.h"
#include "kernels/cuda/runtime.h"
#include "kernels/device.h"

namespace salamander::cuda {

class GraphReplay : public Replay {
 public:
  explicit GraphReplay(Runtime& runtime) : runtime_(runtime) {}

  absl::Status Run(const std::function<absl::Status()>& enqueue) override;

 private:
  absl::Status Record(const std::function<absl::Status()>& enqueue);

  Runtime& runtime_;
  // The first time, kernels are loaded and libraries choose algorithms, which no recording may see.
  bool is_first_ = true;
  std::unique_ptr<GraphRecording> recording_;
  int unused_recordings_ = 0;  // in a row: made, and not replayed once
  int direct_runs_left_ = 0;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_GRAPH_REPLAY_H_
