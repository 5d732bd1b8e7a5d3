// Work that was handed over once, as a CUDA graph that can be launched again, and the two queues
// that work on it: GraphRecorder makes each piece a node behind the one before; GraphReviser walks
// the nodes while the same ops run again, and changes those whose arguments did.
//
// What the host uploads lies in pinned memory of the recording, one place a node: a revision writes
// the new values there, and the graph's copies read them. Kernels and copies take any new
// arguments, fills another place and value. A library's call is a graph of its own inside, which
// stays what it was recorded as.
#ifndef KERNELS_CUDA_QUEUE_GRAPH_RECORDING_H_
#define KERNELS_CUDA_QUEUE_GRAPH_RECORDING_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/cuda/queue/queue.h"

namespace salamander::cuda {

class GraphRecording {
 public:
  static absl::StatusOr<std::unique_ptr<GraphRecording>> Create(cudaStream_t stream);
  ~GraphRecording();
  GraphRecording(const GraphRecording&) = delete;
  GraphRecording& operator=(const GraphRecording&) = delete;

  // Requires: called once, when all nodes are in.
  absl::Status Instantiate();

  // Enqueues the graph. Requires: Instantiate.
  absl::Status Launch();

  // Waits until the last launch is done, and has read what was uploaded.
  absl::Status Wait();

 private:
  friend class GraphRecorder;
  friend class GraphReviser;

  enum class Kind { kKernel, kCall, kFill, kCopy, kUpload };
  struct Node {
    Kind kind;
    cudaGraphNode_t node = nullptr;
    const void* kernel = nullptr;
    Grid grid = {};
    dim3 block = {};
    int64_t shared_bytes = 0;
    std::vector<char> arguments = {};     // of a kernel, one behind the other
    std::vector<uint64_t> identity = {};  // of a call
    const void* source = nullptr;         // of a copy; of an upload, pinned
    void* destination = nullptr;
    int byte = 0;
    int64_t bytes = 0;
  };

  explicit GraphRecording(cudaStream_t stream) : stream_(stream) {}
  absl::StatusOr<void*> TakePinned(int64_t bytes);

  cudaStream_t stream_;
  cudaGraph_t graph_ = nullptr;
  cudaGraphExec_t executable_ = nullptr;
  cudaEvent_t done_ = nullptr;
  std::vector<Node> nodes_;
  std::vector<void*> pages_;  // pinned
  int64_t page_bytes_ = 0;    // of the last page
  int64_t page_used_ = 0;
};

class GraphRecorder : public Queue {
 public:
  explicit GraphRecorder(GraphRecording& recording) : recording_(recording) {}

  absl::Status Launch(const KernelLaunch& launch) override;
  absl::Status Call(const LibraryCall& call) override;
  absl::Status Fill(void* destination, int byte, int64_t bytes) override;
  absl::Status Copy(const void* source, void* destination, int64_t bytes) override;
  absl::Status Upload(const void* host, void* destination, int64_t bytes) override;
  absl::Status Download(const void* source, void* host, int64_t bytes) override;
  absl::Status Wait() override;

 private:
  using Node = GraphRecording::Node;
  // The nodes that the next one depends on.
  const cudaGraphNode_t* before() const;
  size_t before_count() const { return recording_.nodes_.empty() ? 0 : 1; }

  GraphRecording& recording_;
};

class GraphReviser : public Queue {
 public:
  explicit GraphReviser(GraphRecording& recording) : recording_(recording) {}

  absl::Status Launch(const KernelLaunch& launch) override;
  absl::Status Call(const LibraryCall& call) override;
  absl::Status Fill(void* destination, int byte, int64_t bytes) override;
  absl::Status Copy(const void* source, void* destination, int64_t bytes) override;
  absl::Status Upload(const void* host, void* destination, int64_t bytes) override;
  absl::Status Download(const void* source, void* host, int64_t bytes) override;
  absl::Status Wait() override { return Diverge(); }

  // Whether the ops asked for other work than was recorded, or did not come to their end: then one
  // of the calls above failed, or not all nodes were met, and the recording is of no more use.
  bool has_diverged() const { return diverged_ || next_ != recording_.nodes_.size(); }

 private:
  using Node = GraphRecording::Node;
  using Kind = GraphRecording::Kind;
  Node* NextOf(Kind kind);  // null where the next node is of another kind
  absl::Status Diverge();
  absl::Status Take(cudaError_t error);  // a change that the graph refuses is a divergence

  GraphRecording& recording_;
  size_t next_ = 0;
  bool diverged_ = false;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_QUEUE_GRAPH_RECORDING_H_
