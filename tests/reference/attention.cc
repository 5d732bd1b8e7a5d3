#include "tests/reference/attention.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace salamander::reference {
namespace {

struct BlockLists {
  TensorView blocks;  // empty: every key is listed
  int64_t block_size = 1;

  bool Contains(int64_t row, int64_t key_head, int64_t position) const {
    if (blocks.empty()) return true;
    const int64_t length = blocks.dim(2);
    const int32_t* list = blocks.data<int32_t>() + (row * blocks.dim(1) + key_head) * length;
    for (int64_t n = 0; n < length; ++n) {
      if (list[n] == position / block_size) return true;
    }
    return false;
  }
};

// Calls visit(query row, query head, key rows it sees, its KV head) for every query.
template <typename Args, typename Visit>
void ForEachQuery(const Args& args, const BlockLists& lists, const Visit& visit) {
  const int64_t group = args.q.dim(1) / args.k.dim(1);
  for (const Segment& segment : args.segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) {
      for (int64_t head = 0; head < args.q.dim(1); ++head) {
        const int64_t row = segment.query_begin + i;
        std::vector<int64_t> keys;
        for (int64_t position = 0; position <= segment.first_position + i; ++position) {
          if (lists.Contains(row, head / group, position)) {
            keys.push_back(segment.key_begin + position);
          }
        }
        visit(row, head, keys, head / group);
      }
    }
  }
}

double* Row(const TensorView& tensor, int64_t row, int64_t head) {
  return tensor.data<double>() + (row * tensor.dim(1) + head) * tensor.dim(2);
}

double Dot(const double* a, const double* b, int64_t count) {
  double sum = 0;
  for (int64_t d = 0; d < count; ++d) sum += a[d] * b[d];
  return sum;
}

template <typename Args>
void Forward(const Args& args, const BlockLists& lists) {
  const int64_t dim = args.q.dim(2);
  ForEachQuery(args, lists,
               [&](int64_t row, int64_t head, const std::vector<int64_t>& keys, int64_t key_head) {
                 std::vector<double> scores;
                 double maximum = -std::numeric_limits<double>::infinity();
                 for (const int64_t key : keys) {
                   const double* q = Row(args.q, row, head);
                   scores.push_back(args.scale * Dot(q, Row(args.k, key, key_head), dim));
                   maximum = std::max(maximum, scores.back());
                 }
                 double denominator = 0;
                 for (double& score : scores) denominator += score = std::exp(score - maximum);
                 double* out = Row(args.out, row, head);
                 for (int64_t d = 0; d < dim; ++d) {
                   out[d] = 0;
                   for (size_t j = 0; j < keys.size(); ++j) {
                     out[d] += scores[j] / denominator * Row(args.v, keys[j], key_head)[d];
                   }
                 }
                 args.logsumexp.template data<double>()[row * args.q.dim(1) + head] =
                     maximum + std::log(denominator);
               });
}

template <typename Args>
void Backward(const Args& args, const BlockLists& lists) {
  const int64_t dim = args.q.dim(2);
  ForEachQuery(
      args, lists,
      [&](int64_t row, int64_t head, const std::vector<int64_t>& keys, int64_t key_head) {
        const double* q = Row(args.q, row, head);
        const double* d_out = Row(args.d_out, row, head);
        double* dq = Row(args.dq, row, head);
        for (int64_t d = 0; d < dim; ++d) dq[d] = 0;
        const double delta = Dot(Row(args.out, row, head), d_out, dim);
        const double logsumexp = args.logsumexp.template data<double>()[row * args.q.dim(1) + head];
        for (const int64_t key : keys) {
          const double* k = Row(args.k, key, key_head);
          const double weight = std::exp(args.scale * Dot(q, k, dim) - logsumexp);
          const double d_score = weight * (Dot(d_out, Row(args.v, key, key_head), dim) - delta);
          for (int64_t d = 0; d < dim; ++d) {
            dq[d] += args.scale * d_score * k[d];
            Row(args.dk, key, key_head)[d] += args.scale * d_score * q[d];
            Row(args.dv, key, key_head)[d] += weight * d_out[d];
          }
        }
      });
}

}  // namespace

void DenseAttentionForward(const DenseAttentionForwardArgs& args) {
  Forward(args, {});
}

void DenseAttentionBackward(const DenseAttentionBackwardArgs& args) {
  Backward(args, {});
}

void SparseAttentionForward(const SparseAttentionForwardArgs& args) {
  Forward(args, {args.blocks, args.block_size});
}

void SparseAttentionBackward(const SparseAttentionBackwardArgs& args) {
  Backward(args, {args.blocks, args.block_size});
}

}  // namespace salamander::reference
