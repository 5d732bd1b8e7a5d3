// Matrix products of row-major tensors by cuBLASLt: bf16 operands, fp32 accumulation, bf16 or fp32
// result. The algorithm of a shape comes from cuBLASLt's heuristic once and is kept: never from
// timing, so that a run chooses the same ones each time. A few rows take a kernel of ours
// (few_rows.h).
#ifndef KERNELS_CUDA_LINEAR_PRODUCTS_H_
#define KERNELS_CUDA_LINEAR_PRODUCTS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

#include <cublasLt.h>

#include "absl/status/statusor.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

namespace salamander::cuda {

// result [M, N] = scale * a' b' (+ result where `accumulate`), a' [M, K] and b' [K, N]
struct Product {
  TensorView a;  // [M, K] bf16, or [K, M] where transpose_a
  TensorView b;  // [K, N] bf16, or [N, K] where transpose_b
  bool transpose_a = false;
  bool transpose_b = false;
  TensorView result;  // [M, N] bf16 or fp32
  double scale = 1.0;
  bool accumulate = false;
};

class Products {
 public:
  static absl::StatusOr<std::unique_ptr<Products>> Create();
  ~Products();
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Enqueues the product. Deterministic: where a sum is split, its parts are added in order.
  absl::Status Run(const ExecutionContext& context, const Product& product);

 private:
  // Everything the heuristic looks at: sizes, transposes, result type, accumulate, alignment.
  using Key = std::tuple<int64_t, int64_t, int64_t, bool, bool, DType, bool, uint32_t>;
  struct Plan;

  Products(cublasLtHandle_t handle, void* workspace);
  absl::StatusOr<const Plan*> PlanFor(const Key& key);

  cublasLtHandle_t handle_;
  void* workspace_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace salamander::cuda

#endif  // KERNELS_CUDA_LINEAR_PRODUCTS_H_
