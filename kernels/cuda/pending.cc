// Ops that the CUDA backend does not have yet.
#include "absl/strings/str_cat.h"

#include "kernels/cuda/cuda_ops.h"

namespace salamander::cuda {
namespace {

absl::Status Pending(const char* op) {
  return absl::UnimplementedError(absl::StrCat(op, ": not on CUDA yet; use device: cpu"));
}

}  // namespace

absl::Status DenseAttentionForward(const ExecutionContext&, const DenseAttentionForwardArgs&) {
  return Pending("DenseAttentionForward");
}
absl::Status DenseAttentionBackward(const ExecutionContext&, const DenseAttentionBackwardArgs&) {
  return Pending("DenseAttentionBackward");
}

}  // namespace salamander::cuda
