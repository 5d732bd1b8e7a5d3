#include "kernels/cuda/linear/products.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"

#include "kernels/backend_ops.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/linear/few_rows.h"
#include "kernels/cuda/queue/status.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;  // what cuBLAS asks for on Hopper
constexpr uint32_t kBestAlignment = 256;
// How the parts of a sum over K may be added up where it is split among blocks: in fp32 and in a
// fixed order. Of the other ways one is in no fixed order and one rounds the parts to the result's
// type. Where no sum is split, a narrow result leaves most of the device idle: with 256 columns, or
// with a few rows, products of a 9B model took three to ten times as long.
constexpr uint32_t kReductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

// The largest power of two up to 256 that divides the address.
uint32_t AlignmentOf(const void* address) {
  const auto bits = reinterpret_cast<uintptr_t>(address);
  return bits == 0 ? kBestAlignment
                   : std::min<uint32_t>(kBestAlignment, 1U << std::min(std::countr_zero(bits), 8));
}

cudaDataType_t TypeOf(DType dtype) {
  return dtype == DType::kFloat32 ? CUDA_R_32F : CUDA_R_16BF;
}

}  // namespace

// cuBLASLt is column-major: it computes result^T = b'^T a'^T, so its first operand is our b.
struct Products::Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t first = nullptr, second = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm = {};

  Plan() = default;
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    cublasLtMatrixLayoutDestroy(result);
    cublasLtMatrixLayoutDestroy(second);
    cublasLtMatrixLayoutDestroy(first);
    cublasLtMatmulDescDestroy(operation);
  }
};

Products::Products(cublasLtHandle_t handle, void* workspace)
    : handle_(handle), workspace_(workspace) {}

absl::StatusOr<std::unique_ptr<Products>> Products::Create() {
  cublasLtHandle_t handle = nullptr;
  RETURN_IF_CUBLAS_ERROR(cublasLtCreate(&handle));
  void* workspace = nullptr;
  RETURN_IF_CUDA_ERROR(cudaMalloc(&workspace, kWorkspaceBytes));
  return std::unique_ptr<Products>(new Products(handle, workspace));
}

Products::~Products() {
  plans_.clear();
  cudaFree(workspace_);
  cublasLtDestroy(handle_);
}

absl::StatusOr<const Products::Plan*> Products::PlanFor(const Key& key) {
  std::unique_ptr<Plan>& plan = plans_[key];
  if (plan != nullptr) return plan.get();
  const auto& [m, n, k, transpose_a, transpose_b, type, accumulate, alignment] = key;
  auto fresh = std::make_unique<Plan>();
  RETURN_IF_CUBLAS_ERROR(
      cublasLtMatmulDescCreate(&fresh->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, bool transpose) {
    const cublasOperation_t value = transpose ? CUBLAS_OP_T : CUBLAS_OP_N;
    return cublasLtMatmulDescSetAttribute(fresh->operation, attribute, &value, sizeof(value));
  };
  RETURN_IF_CUBLAS_ERROR(set(CUBLASLT_MATMUL_DESC_TRANSA, transpose_b));
  RETURN_IF_CUBLAS_ERROR(set(CUBLASLT_MATMUL_DESC_TRANSB, transpose_a));
  const auto layout = [](cublasLtMatrixLayout_t* made, cudaDataType_t element, int64_t rows,
                         int64_t columns) {
    return cublasLtMatrixLayoutCreate(made, element, static_cast<uint64_t>(rows),
                                      static_cast<uint64_t>(columns), rows);
  };
  RETURN_IF_CUBLAS_ERROR(
      layout(&fresh->first, CUDA_R_16BF, transpose_b ? k : n, transpose_b ? n : k));
  RETURN_IF_CUBLAS_ERROR(
      layout(&fresh->second, CUDA_R_16BF, transpose_a ? m : k, transpose_a ? k : m));
  RETURN_IF_CUBLAS_ERROR(layout(&fresh->result, TypeOf(type), n, m));

  cublasLtMatmulPreference_t preference = nullptr;
  RETURN_IF_CUBLAS_ERROR(cublasLtMatmulPreferenceCreate(&preference));
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value));
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, kReductions);
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(attribute, alignment);
  }
  cublasLtMatmulHeuristicResult_t found = {};
  int count = 0;
  const cublasStatus_t status =
      cublasLtMatmulAlgoGetHeuristic(handle_, fresh->operation, fresh->first, fresh->second,
                                     fresh->result, fresh->result, preference, 1, &found, &count);
  cublasLtMatmulPreferenceDestroy(preference);
  RETURN_IF_CUBLAS_ERROR(status);
  if (count == 0) {
    return absl::InternalError(
        absl::StrCat("cuBLASLt knows no algorithm for a product of ", m, " x ", k, " x ", n));
  }
  fresh->algorithm = found.algo;
  plan = std::move(fresh);
  return plan.get();
}

absl::Status Products::Run(const ExecutionContext& context, const Product& product) {
  const TensorView& result = product.result;
  if (result.size() == 0) return absl::OkStatus();
  if (product.a.size() == 0) {  // a sum of nothing
    return product.accumulate ? absl::OkStatus() : cuda::Zero(context, result);
  }
  const int64_t m = result.dim(0);
  const int64_t n = result.row_size();
  const int64_t k = product.a.size() / m;
  SALAMANDER_CHECK(product.a.dtype() == DType::kBFloat16 && product.b.dtype() == DType::kBFloat16 &&
                   product.b.size() == k * n)
      << "a " << product.a.ShapeString() << ", b " << product.b.ShapeString() << ", result "
      << result.ShapeString();
  if (IsOfFewRows(product)) return RunFewRows(context, product);
  const uint32_t alignment = std::min(
      {AlignmentOf(product.a.raw()), AlignmentOf(product.b.raw()), AlignmentOf(result.raw())});
  ASSIGN_OR_RETURN(const Plan* plan, PlanFor({m, n, k, product.transpose_a, product.transpose_b,
                                              result.dtype(), product.accumulate, alignment}));
  const auto alpha = static_cast<float>(product.scale);
  const float beta = product.accumulate ? 1.0F : 0.0F;
  const uint64_t identity[] = {WordOf(plan), WordOf(product.a.raw()), WordOf(product.b.raw()),
                               WordOf(result.raw()), std::bit_cast<uint32_t>(alpha)};
  const auto enqueue = [&](cudaStream_t stream) -> absl::Status {
    RETURN_IF_CUBLAS_ERROR(cublasLtMatmul(handle_, plan->operation, &alpha, product.b.raw(),
                                          plan->first, product.a.raw(), plan->second, &beta,
                                          result.raw(), plan->result, result.raw(), plan->result,
                                          &plan->algorithm, workspace_, kWorkspaceBytes, stream));
    return absl::OkStatus();
  };
  return context.cuda->Call({.name = "matrix product", .identity = identity, .enqueue = enqueue});
}

}  // namespace salamander::cuda
