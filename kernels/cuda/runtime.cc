#include "kernels/cuda/runtime.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/status.h"

namespace salamander::cuda {
namespace {

constexpr int64_t kStagingHalfBytes = int64_t{4} << 20;
constexpr int64_t kStagingAlignment = 16;
constexpr int kLeastMajor = 8;  // bf16 tensor cores and cp.async

absl::Status CheckDevice(const cudaDeviceProp& properties) {
  if (properties.major >= kLeastMajor) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      properties.name, " has compute capability ", properties.major, ".", properties.minor,
      "; the CUDA backend needs ", kLeastMajor, ".0 (A100) or newer, use device: cpu"));
}

absl::Status CheckDriver() {
  int driver = 0;
  int runtime = 0;
  RETURN_IF_CUDA_ERROR(cudaDriverGetVersion(&driver));
  RETURN_IF_CUDA_ERROR(cudaRuntimeGetVersion(&runtime));
  if (driver / 1000 >= runtime / 1000) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the NVIDIA driver serves CUDA ", driver / 1000, ".", driver % 1000 / 10,
                   " and this program was built with CUDA ", runtime / 1000, ".",
                   runtime % 1000 / 10, "; update the driver, or build with an older toolkit"));
}

absl::Status StatusOf(const Fault& fault) {
  switch (static_cast<FaultKind>(fault.kind)) {
    case FaultKind::kNone:
      return absl::OkStatus();
    case FaultKind::kTokenOutsideVocabulary:
      return absl::InvalidArgumentError(absl::StrCat("token ", fault.value, " in row ", fault.row,
                                                     " lies outside the vocabulary of ",
                                                     fault.bound));
    case FaultKind::kTargetOutsideVocabulary:
      return absl::InvalidArgumentError(absl::StrCat("target ", fault.value, " in row ", fault.row,
                                                     " lies outside the vocabulary of ",
                                                     fault.bound));
  }
  return absl::InternalError(absl::StrCat("unknown fault ", fault.kind));
}

}  // namespace

absl::StatusOr<std::unique_ptr<StagingRing>> StagingRing::Create(cudaStream_t stream) {
  void* memory = nullptr;
  RETURN_IF_CUDA_ERROR(cudaMallocHost(&memory, kHalves * kStagingHalfBytes));
  cudaEvent_t events[kHalves] = {};
  for (cudaEvent_t& event : events) {
    RETURN_IF_CUDA_ERROR(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  }
  return std::unique_ptr<StagingRing>(
      new StagingRing(stream, static_cast<char*>(memory), events[0], events[1]));
}

StagingRing::~StagingRing() {
  for (cudaEvent_t event : done_) cudaEventDestroy(event);
  cudaFreeHost(memory_);
}

absl::Status StagingRing::Upload(const void* source, int64_t bytes, void* destination) {
  const auto* from = static_cast<const char*>(source);
  auto* to = static_cast<char*>(destination);
  for (int64_t begin = 0; begin < bytes; begin += kStagingHalfBytes) {
    const int64_t piece = std::min(kStagingHalfBytes, bytes - begin);
    RETURN_IF_ERROR(UploadPiece(from + begin, piece, to + begin));
  }
  return absl::OkStatus();
}

absl::Status StagingRing::UploadPiece(const char* source, int64_t bytes, char* destination) {
  if (used_ + bytes > kStagingHalfBytes) {
    RETURN_IF_CUDA_ERROR(cudaEventRecord(done_[half_], stream_));
    half_ = (half_ + 1) % kHalves;
    used_ = 0;
    RETURN_IF_CUDA_ERROR(cudaEventSynchronize(done_[half_]));
  }
  char* const staged = memory_ + half_ * kStagingHalfBytes + used_;
  std::memcpy(staged, source, static_cast<size_t>(bytes));
  used_ += (bytes + kStagingAlignment - 1) / kStagingAlignment * kStagingAlignment;
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(destination, staged, static_cast<size_t>(bytes),
                                       cudaMemcpyHostToDevice, stream_));
  return absl::OkStatus();
}

Runtime::Runtime(const cudaDeviceProp& properties) : properties_(properties) {}

absl::StatusOr<std::unique_ptr<Runtime>> Runtime::Create(int index) {
  RETURN_IF_ERROR(CheckDriver());
  cudaDeviceProp properties;
  RETURN_IF_CUDA_ERROR(cudaGetDeviceProperties(&properties, index));
  RETURN_IF_ERROR(CheckDevice(properties));
  RETURN_IF_CUDA_ERROR(cudaSetDevice(index));
  std::unique_ptr<Runtime> runtime(new Runtime(properties));
  RETURN_IF_CUDA_ERROR(cudaStreamCreateWithFlags(&runtime->stream_, cudaStreamNonBlocking));
  ASSIGN_OR_RETURN(runtime->staging_, StagingRing::Create(runtime->stream_));
  ASSIGN_OR_RETURN(runtime->products_, Products::Create(runtime->stream_));
  RETURN_IF_CUDA_ERROR(cudaMalloc(&runtime->fault_, sizeof(Fault)));
  RETURN_IF_CUDA_ERROR(cudaMallocHost(&runtime->seen_fault_, sizeof(Fault)));
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(runtime->fault_, 0, sizeof(Fault), runtime->stream_));
  return runtime;
}

Runtime::~Runtime() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  cudnn_attention_.reset();
  products_.reset();
  staging_.reset();
  cudaFree(fault_);
  cudaFreeHost(seen_fault_);
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

CudnnAttention* Runtime::cudnn_attention() {
  if (!has_looked_for_cudnn_) cudnn_attention_ = CudnnAttention::Open(stream_, properties_);
  has_looked_for_cudnn_ = true;
  return cudnn_attention_.get();
}

absl::Status Runtime::Download(const void* source, int64_t bytes, void* destination) {
  RETURN_IF_CUDA_ERROR(cudaMemcpyAsync(destination, source, static_cast<size_t>(bytes),
                                       cudaMemcpyDeviceToHost, stream_));
  return Wait();
}

absl::Status Runtime::Wait() {
  RETURN_IF_CUDA_ERROR(
      cudaMemcpyAsync(seen_fault_, fault_, sizeof(Fault), cudaMemcpyDeviceToHost, stream_));
  RETURN_IF_CUDA_ERROR(cudaStreamSynchronize(stream_));
  if (seen_fault_->kind == 0) return absl::OkStatus();
  const Fault fault = *seen_fault_;
  RETURN_IF_CUDA_ERROR(cudaMemsetAsync(fault_, 0, sizeof(Fault), stream_));
  return StatusOf(fault);
}

}  // namespace salamander::cuda
