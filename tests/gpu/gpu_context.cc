#include "tests/gpu/gpu_context.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include <gmock/gmock.h>

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

// By copies of what is set already: a host would take seconds for the memory of a long stream.
void SetEveryBit(const ExecutionContext& context, const TensorView& tensor) {
  const int64_t size = tensor.size();
  const TensorView flat = tensor.Reshape({size});
  const int64_t first = std::min(size, int64_t{1} << 18);
  const std::vector<uint8_t> ones(static_cast<size_t>(flat.Rows(0, first).bytes()), 0xFF);
  CheckOk(CopyFromHost(context, ones.data(), flat.Rows(0, first)));
  for (int64_t set = first; set < size;) {
    const int64_t next = std::min(set, size - set);
    CheckOk(Copy(context, flat.Rows(0, next), flat.Rows(set, next)));
    set += next;
  }
}

int64_t WholeAlignments(int64_t bytes) {
  return (bytes + Arena::kAlignment - 1) / Arena::kAlignment * Arena::kAlignment;
}

}  // namespace

int64_t FreeGpuBytes() {
  const auto session = ValueOrDie(DeviceSession::Open({DeviceKind::kCuda, 0}));
  return ValueOrDie(session->FreeBytes());
}

GpuContext::GpuContext(int64_t tensor_bytes, int64_t scratch_bytes, const DeviceOptions& options)
    : session_(ValueOrDie(DeviceSession::Open({DeviceKind::kCuda, 0}, options))),
      tensors_(ValueOrDie(session_->ReserveScratch(WholeAlignments(tensor_bytes)))),
      scratch_(ValueOrDie(session_->ReserveScratch(WholeAlignments(scratch_bytes)))),
      context_(session_->Context(scratch_)) {
  // To compute-sanitizer's initcheck, poison would be a value like any other.
  if (std::getenv("SALAMANDER_TEST_LEAVES_MEMORY_UNINITIALISED") != nullptr) return;
  for (Arena* arena : {&tensors_, &scratch_}) {
    SetEveryBit(context_, arena->Tensor(DType::kFloat32, {arena->capacity_bytes() / 4}));
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
  return InRowsLike(flat, host);
}

TensorView GpuContext::Poisoned(DType dtype, std::initializer_list<int64_t> dims) {
  const TensorView tensor = tensors_.Tensor(dtype, dims);
  SetEveryBit(context_, tensor);
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

TensorView InRowsLike(const TensorView& flat, const TensorView& like) {
  const int64_t rows = flat.size() / like.row_size();
  switch (like.rank()) {
    case 1:
      return flat;
    case 2:
      return flat.Reshape({rows, like.dim(1)});
    case 3:
      return flat.Reshape({rows, like.dim(1), like.dim(2)});
    default:
      return flat.Reshape({rows, like.dim(1), like.dim(2), like.dim(3)});
  }
}

void ExpectUnimplemented(const absl::Status& status, std::initializer_list<const char*> parts) {
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  for (const char* part : parts) {
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
  }
}

}  // namespace salamander
