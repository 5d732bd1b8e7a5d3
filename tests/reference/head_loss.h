// Head losses as their formulas read, in fp64 over whole logits: what the chunked kernels must
// equal.
#ifndef TESTS_REFERENCE_HEAD_LOSS_H_
#define TESTS_REFERENCE_HEAD_LOSS_H_

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/base/tensor_view.h"

namespace salamander::reference {

// log softmax(scale * head h) of one row, all fp64.
inline std::vector<double> LogSoftmax(const TensorView& hidden, int64_t row, const TensorView& head,
                                      double scale) {
  std::vector<double> logits(head.dim(0), 0.0);
  double sum = 0;
  for (int64_t v = 0; v < head.dim(0); ++v) {
    for (int64_t c = 0; c < head.dim(1); ++c) {
      logits[v] += scale * hidden.data<double>()[row * head.dim(1) + c] *
                   head.data<double>()[v * head.dim(1) + c];
    }
    sum += std::exp(logits[v]);
  }
  for (double& logit : logits) logit -= std::log(sum);
  return logits;
}

// Adds the gradients that follow from d_logits of one row: d_hidden = scale head^T d_logits,
// d_head += scale d_logits h^T.
inline void AddHeadGradients(const std::vector<double>& d_logits, int64_t row, double scale,
                             const TensorView& hidden, const TensorView& head,
                             const TensorView& d_hidden, const TensorView& d_head) {
  const int64_t width = head.dim(1);
  for (int64_t v = 0; v < head.dim(0); ++v) {
    for (int64_t c = 0; c < width; ++c) {
      d_hidden.data<double>()[row * width + c] +=
          scale * d_logits[v] * head.data<double>()[v * width + c];
      d_head.data<double>()[v * width + c] +=
          scale * d_logits[v] * hidden.data<double>()[row * width + c];
    }
  }
}

}  // namespace salamander::reference

#endif  // TESTS_REFERENCE_HEAD_LOSS_H_
