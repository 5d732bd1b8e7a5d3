#include "tests/gpu/gpu_context.h"

#include <cstdlib>
#include <vector>

#include "kernels/base/logging.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

template <typename Value>
Value ValueOrDie(absl::StatusOr<Value> value) {
  SALAMANDER_CHECK(value.ok()) << value.status().ToString();
  return *std::move(value);
}

void CheckOk(const absl::Status& status) {
  SALAMANDER_CHECK(status.ok()) << status.ToString();
}

}  // namespace

GpuContext::GpuContext(int64_t tensor_bytes, int64_t scratch_bytes, const DeviceOptions& options)
    : session_(ValueOrDie(DeviceSession::Open({DeviceKind::kCuda, 0}, options))),
      tensors_(ValueOrDie(session_->ReserveScratch(tensor_bytes))),
      scratch_(ValueOrDie(session_->ReserveScratch(scratch_bytes))),
      context_(session_->Context(scratch_)) {
  // To compute-sanitizer's initcheck, poison would be a value like any other.
  if (std::getenv("SALAMANDER_TEST_LEAVES_MEMORY_UNINITIALISED") != nullptr) return;
  for (Arena* arena : {&tensors_, &scratch_}) {
    const int64_t floats = arena->capacity_bytes() / 4;
    const TensorView all = arena->Tensor(DType::kFloat32, {floats});
    const std::vector<uint8_t> ones(size_t{1} << 20, 0xFF);
    const auto step = static_cast<int64_t>(ones.size()) / 4;
    for (int64_t begin = 0; begin < floats; begin += step) {
      CheckOk(CopyFromHost(context_, ones.data(), all.Rows(begin, std::min(step, floats - begin))));
    }
    arena->RewindTo(0);
  }
}

GpuContext::~GpuContext() {
  EXPECT_TRUE(session_->Wait().ok());
  EXPECT_EQ(scratch_.used_bytes(), 0) << "an op kept scratch memory";
}

TensorView GpuContext::Upload(const TestTensor& tensor, DType dtype) {
  const TensorView source = tensor.View();
  if (source.empty()) return source;
  const TestTensor converted =
      source.dtype() == DType::kInt32 || source.dtype() == dtype ? tensor : tensor.As(dtype);
  const TensorView host = converted.View();
  const TensorView flat = tensors_.Tensor(host.dtype(), {host.size()});
  CheckOk(CopyFromHost(context_, host.raw(), flat));
  switch (host.rank()) {
    case 1:
      return flat;
    case 2:
      return flat.Reshape({host.dim(0), host.dim(1)});
    case 3:
      return flat.Reshape({host.dim(0), host.dim(1), host.dim(2)});
    default:
      return flat.Reshape({host.dim(0), host.dim(1), host.dim(2), host.dim(3)});
  }
}

TensorView GpuContext::Poisoned(DType dtype, std::initializer_list<int64_t> dims) {
  const TensorView tensor = tensors_.Tensor(dtype, dims);
  const std::vector<uint8_t> ones(static_cast<size_t>(tensor.bytes()), 0xFF);
  CheckOk(CopyFromHost(context_, ones.data(), tensor));
  return tensor;
}

TensorView GpuContext::Zeros(DType dtype, std::initializer_list<int64_t> dims) {
  const TensorView tensor = tensors_.Tensor(dtype, dims);
  CheckOk(Zero(context_, tensor));
  return tensor;
}

TestTensor GpuContext::Download(const TensorView& tensor) {
  TestTensor host;
  switch (tensor.rank()) {
    case 1:
      host = TestTensor(tensor.dtype(), {tensor.dim(0)});
      break;
    case 2:
      host = TestTensor(tensor.dtype(), {tensor.dim(0), tensor.dim(1)});
      break;
    case 3:
      host = TestTensor(tensor.dtype(), {tensor.dim(0), tensor.dim(1), tensor.dim(2)});
      break;
    default:
      host =
          TestTensor(tensor.dtype(), {tensor.dim(0), tensor.dim(1), tensor.dim(2), tensor.dim(3)});
  }
  CheckOk(CopyToHost(context_, tensor, host.View().raw()));
  return host;
}

}  // namespace salamander
