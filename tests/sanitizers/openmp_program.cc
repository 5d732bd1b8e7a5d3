// What ThreadSanitizer must see and must not see in our use of OpenMP: `ordered` runs loops,
// reductions, worksharing, critical sections and a BLAS call that threads by itself, all correct;
// `race` adds one unprotected shared sum.

#include <cstdio>
#include <cstring>
#include <vector>

#include <cblas.h>

namespace {

constexpr int kWidth = 192;

float MatrixSum(std::vector<float>& matrix, bool is_racing) {
  std::vector<float> product(matrix.size());
  float total = 0;
  float unprotected = 0;
  for (int round = 0; round < 10; ++round) {
#pragma omp parallel for reduction(+ : total)
    for (int i = 0; i < kWidth; ++i) {
      total += matrix[static_cast<size_t>(i)];
      if (is_racing) unprotected += 1;
    }
#pragma omp parallel
    {
#pragma omp for schedule(dynamic)
      for (int i = 0; i < kWidth * kWidth; ++i) matrix[static_cast<size_t>(i)] *= 0.5F;
#pragma omp critical
      total += 1;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, kWidth, kWidth, kWidth, 1.0F,
                matrix.data(), kWidth, matrix.data(), kWidth, 0.0F, product.data(), kWidth);
#pragma omp parallel for
    for (int i = 0; i < kWidth * kWidth; ++i) {
      matrix[static_cast<size_t>(i)] = product[static_cast<size_t>(i)] / kWidth;
    }
  }
  return total + unprotected;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<float> matrix(kWidth * kWidth, 1.0F);
  const bool is_racing = argc > 1 && std::strcmp(argv[1], "race") == 0;
  std::printf("sum %f\n", static_cast<double>(MatrixSum(matrix, is_racing)));
  return 0;
}
