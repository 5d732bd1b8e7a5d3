#include "kernels/cuda/runtime.h"

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/architectures.h"
#include "kernels/cuda/attention/cudnn_attention.h"
#include "kernels/cuda/linear/products.h"
#include "kernels/cuda/queue/status.h"
#include "kernels/cuda/requirements.h"

namespace salamander::cuda {
namespace {

absl::Status StatusOf(const Fault& fault) {
  const bool is_target = static_cast<FaultKind>(fault.kind) == FaultKind::kTargetOutsideVocabulary;
  const int rank = GetLogPosition().rank;
  return absl::InvalidArgumentError(absl::StrCat(
      rank < 0 ? "" : absl::StrCat("rank ", rank, ": "), is_target ? "target " : "token ",
      fault.value, " in row ", fault.row, " lies outside the vocabulary of ", fault.bound,
      "; the data was made with another tokenizer than the model's"));
}

// Of the current device. A driver too old to say so is taken to share nothing.
bool IsSharedByMps() {
  int device = 0, is_shared = 0;
  cudaGetDevice(&device);
  if (cudaDeviceGetAttribute(&is_shared, cudaDevAttrMpsEnabled, device) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return is_shared != 0;
}

}  // namespace

Runtime::Runtime(const cudaDeviceProp& properties)
    : properties_(properties), has_whole_device_(!IsSharedByMps()) {}

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create(int index) {
  cudaDeviceProp properties;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, index));
  RETURN_IF_ERROR(CheckGpu(properties.name, properties.major, properties.minor));
  RETURN_IF_CUDA_ERROR(cudaSetDevice(index));
  RETURN_IF_ERROR(CheckArchitecture(properties));
  std::unique_ptr<Runtime> runtime(new Runtime(properties));
  RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&runtime->stream_, cudaStreamNonBlocking));
  ASSIGN_OR_RETURN(runtime->stream_queue_, StreamQueue::Create(runtime->stream_));
  runtime->queue_ = runtime->stream_queue_.get();
  ASSIGN_OR_RETURN(runtime->products_, Products::Create());
  RETURN_IF_CUDA_ERROR(cudaMalloc(&runtime->fault_, sizeof(Fault)));
  RETURN_IF_CUDA_ERROR(cudaMallocHost(&runtime->seen_fault_, sizeof(Fault)));
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(runtime->fault_, 0, sizeof(Fault), runtime->stream_));
  return runtime;
}

Runtime::~Runtime() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  cudnn_attention_.reset();
  products_.reset();
  stream_queue_.reset();
  cudaFree(fault_);
  cudaFreeHost(seen_fault_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

CudnnAttention* Runtime::cudnn_attention() {
  if (!has_looked_for_cudnn_) cudnn_attention_ = CudnnAttention::Open(stream_, properties_);
  has_looked_for_cudnn_ = true;
  return cudnn_attention_.get();
}

absl::Status Runtime::CheckGrid(const KernelLaunch& launch) const {
  const Grid& grid = launch.grid;
  const int* const most = properties_.maxGridSize;
  if (grid.x <= most[0] && grid.y <= most[1] && grid.z <= most[2]) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(launch.name, ": a grid of ", grid.x, " x ", grid.y,
                                               " x ", grid.z, " blocks, ", properties_.name,
                                               " takes ", most[0], " x ", most[1], " x ", most[2],
                                               "; use a shorter stream"));
}

// A kernel may take 48 KiB, what it declares included, before it is allowed more.
absl::Status Runtime::AllowSharedMemory(const KernelLaunch& launch) {
  if (launch.shared_bytes == 0) return absl::OkStatus();
  const auto most = static_cast<int64_t>(properties_.sharedMemPerBlockOptin);
  if (launch.shared_bytes > most) {
    return absl::UnimplementedError(absl::StrCat(
        launch.name, ": needs ", launch.shared_bytes, " bytes of shared memory a block, ",
        properties_.name, " has ", most, "; use a model with a smaller head dim, or device: cpu"));
  }
  int64_t& allowed = allowed_shared_bytes_[launch.kernel];
  if (launch.shared_bytes <= allowed) return absl::OkStatus();
  RETURN_IF_CUDA_ERROR(cudaFuncSetAttribute(launch.kernel,
                                            cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(launch.shared_bytes)));
  allowed = launch.shared_bytes;
  return absl::OkStatus();
}

absl::Status Runtime::Launch(const KernelLaunch& launch) {
  if (launch.grid.x == 0 || launch.grid.y == 0 || launch.grid.z == 0) return absl::OkStatus();
  RETURN_IF_ERROR(CheckGrid(launch));
  RETURN_IF_ERROR(AllowSharedMemory(launch));
  return queue_->Launch(launch);
}

absl::Status Runtime::Fill(void* destination, int byte, int64_t bytes) {
  return bytes == 0 ? absl::OkStatus() : queue_->Fill(destination, byte, bytes);
}

absl::Status Runtime::Copy(const void* source, void* destination, int64_t bytes) {
  return bytes == 0 ? absl::OkStatus() : queue_->Copy(source, destination, bytes);
}

absl::Status Runtime::Upload(const void* host, void* destination, int64_t bytes) {
  return bytes == 0 ? absl::OkStatus() : queue_->Upload(host, destination, bytes);
}

absl::Status Runtime::Download(const void* source, void* host, int64_t bytes) {
  if (bytes > 0) RETURN_IF_ERROR(queue_->Download(source, host, bytes));
  return Wait();
}

absl::Status Runtime::Wait() {
  if (queue_ != stream_queue_.get()) return queue_->Wait();
  RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(seen_fault_, fault_, sizeof(Fault), cudaMemcpyDeviceToHost, stream_));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  if (seen_fault_->kind == 0) return absl::OkStatus();
  const Fault fault = *seen_fault_;
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(fault_, 0, sizeof(Fault), stream_));
  return StatusOf(fault);
}

}  // namespace salamander::cuda
