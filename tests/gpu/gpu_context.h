// Where a CUDA op under test runs: an open device with two arenas, one for the tensors of the test
// and one for the op's scratch, both filled with NaN first so that a read of what nothing wrote
// shows. Tests begin with SKIP_WITHOUT_GPU(), or the macro below, which say aloud that they did not
// run.
#ifndef TESTS_GPU_GPU_CONTEXT_H_
#define TESTS_GPU_GPU_CONTEXT_H_

#include <cstdint>
#include <initializer_list>
#include <memory>

#include <gtest/gtest.h>

#include "absl/status/status.h"

#include "kernels/base/arena.h"
#include "kernels/base/execution_context.h"
#include "kernels/device.h"
#include "tests/support/random_tensor.h"

#define SKIP_WITHOUT_GPU()                                                           \
  if (::salamander::CudaDeviceCount() == 0) {                                        \
    GTEST_SKIP() << "no NVIDIA GPU here: this test of the CUDA backend did not run"; \
  }

// Begins a test of much memory. Its name holds Long: scripts/gpu_check leaves such tests out under
// the sanitizer.
#define SKIP_WITHOUT_GPU_MEMORY(bytes)                                                      \
  SKIP_WITHOUT_GPU();                                                                       \
  if (const int64_t free_bytes = ::salamander::FreeGpuBytes(); free_bytes < (bytes)) {      \
    GTEST_SKIP() << "this test of the CUDA backend did not run: it takes " << (bytes) / 1e9 \
                 << " GB of the GPU's memory, " << static_cast<double>(free_bytes) / 1e9    \
                 << " GB are free";                                                         \
  }

namespace salamander {

// Of the first GPU. Requires: there is one.
int64_t FreeGpuBytes();

inline constexpr DeviceOptions kDeterministic{.is_deterministic = true};

class GpuContext {
 public:
  explicit GpuContext(int64_t tensor_bytes = int64_t{1} << 30,
                      int64_t scratch_bytes = int64_t{1} << 30, const DeviceOptions& options = {});
  // Waits, and fails the test where an op kept scratch memory or met a fault.
  ~GpuContext();
  GpuContext(const GpuContext&) = delete;
  GpuContext& operator=(const GpuContext&) = delete;

  operator const ExecutionContext&() const { return context_; }  // NOLINT: that is its purpose

  DeviceSession& session() { return *session_; }

  // A tensor of the device with these elements in `dtype` (int32 stays). An empty one stays empty.
  TensorView Upload(const TestTensor& tensor, DType dtype = DType::kBFloat16);
  // One whose every bit is set: NaN in every float, -1 in int32.
  TensorView Poisoned(DType dtype, std::initializer_list<int64_t> dims);
  TensorView Zeros(DType dtype, std::initializer_list<int64_t> dims);

  // Waits for the stream.
  TestTensor Download(const TensorView& tensor);
  absl::Status Wait() { return session_->Wait(); }

 private:
  std::unique_ptr<DeviceSession> session_;
  Arena tensors_, scratch_;
  ExecutionContext context_;
};

// The elements of `flat` in rows like those of `like`, as many as there are.
TensorView InRowsLike(const TensorView& flat, const TensorView& like);

// A copy rounded to bf16 and widened again: what the device sees of an input, for the oracle.
inline TestTensor Rounded(const TestTensor& tensor, DType dtype = DType::kFloat64) {
  return tensor.As(DType::kBFloat16).As(dtype);
}

// What no kernel is built for: the message says what was found, what is expected and what to do.
void ExpectUnimplemented(const absl::Status& status, std::initializer_list<const char*> parts);

// Relative root-mean-square error of rounding to bf16 once: 8 bits of mantissa, errors uniform.
inline constexpr double kBFloat16Rounding = 0x1p-9;

}  // namespace salamander

#endif  // TESTS_GPU_GPU_CONTEXT_H_
