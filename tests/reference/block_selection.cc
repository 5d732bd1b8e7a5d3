#include "tests/reference/block_selection.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace salamander::reference {
namespace {

double Logit(const SelectionProblem& problem, const Segment& segment, int64_t position,
             int64_t head, int64_t key_head, int64_t first_key, int64_t keys) {
  const int64_t dim = problem.q.dim(2);
  const int64_t row = segment.query_begin + position - segment.first_position;
  const double* q = problem.q.data<double>() + (row * problem.q.dim(1) + head) * dim;
  const std::vector<double> mean =
      MeanKey(problem.k, key_head, segment.key_begin + first_key, keys);
  return problem.scale * std::inner_product(mean.begin(), mean.end(), q, 0.0);
}

}  // namespace

std::vector<double> MeanKey(const TensorView& k, int64_t key_head, int64_t first, int64_t count) {
  const int64_t dim = k.dim(2);
  std::vector<double> mean(static_cast<size_t>(dim));
  for (int64_t row = first; row < first + count; ++row) {
    const double* key = k.data<double>() + (row * k.dim(1) + key_head) * dim;
    for (size_t d = 0; d < mean.size(); ++d) mean[d] += key[d] / static_cast<double>(count);
  }
  return mean;
}

std::vector<double> BlockScores(const SelectionProblem& problem, const Segment& segment,
                                int64_t position, int64_t key_head) {
  const BlockSelectionShape& shape = problem.shape;
  const int64_t group = problem.q.dim(1) / problem.k.dim(1);
  const int64_t size = shape.kernel_size, stride = shape.kernel_stride;
  std::vector<double> window_scores;
  for (int64_t first = 0; first + size - 1 <= position; first += stride) {
    window_scores.push_back(0.0);
  }
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    double coarse_sum = 0;
    for (int64_t first = 0; first + 4 * size - 1 <= position; first += 4 * stride) {
      coarse_sum += std::exp(Logit(problem, segment, position, head, key_head, first, 4 * size));
    }
    if (coarse_sum == 0) continue;
    for (size_t j = 0; j < window_scores.size(); ++j) {
      window_scores[j] += std::exp(Logit(problem, segment, position, head, key_head,
                                         static_cast<int64_t>(j) * stride, size)) /
                          coarse_sum;
    }
  }
  const int64_t current = position / shape.block_size;
  std::vector<double> scores(static_cast<size_t>(current + 1));
  for (int64_t block = 0; block <= current; ++block) {
    double& score = scores[static_cast<size_t>(block)];
    for (size_t j = 0; j < window_scores.size(); ++j) {
      const int64_t first = static_cast<int64_t>(j) * stride, last = first + size - 1;
      const bool overlaps =
          last >= block * shape.block_size && first < (block + 1) * shape.block_size;
      if (overlaps) score = std::max(score, window_scores[j]);
    }
    if (block < shape.init_blocks || block >= current - shape.local_blocks) {
      score = std::numeric_limits<double>::infinity();
    }
  }
  return scores;
}

std::vector<int32_t> BestBlocks(const std::vector<double>& scores, int64_t count) {
  std::vector<int32_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  order.resize(std::min(order.size(), static_cast<size_t>(count)));
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace salamander::reference
