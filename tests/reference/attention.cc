#include "tests/reference/attention.h"

#include <algorithm>
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

// A query by its segment and its place in it.
struct Query {
  const Segment* segment;
  int64_t place;

  int64_t row() const { return segment->query_begin + place; }
  int64_t position() const { return segment->first_position + place; }

  // The rows of the keys from `begin` to `end` of the segment that it sees.
  std::vector<int64_t> Keys(const BlockLists& lists, int64_t key_head, int64_t begin,
                            int64_t end) const {
    std::vector<int64_t> keys;
    for (int64_t i = begin; i < std::min(end, position() + 1); ++i) {
      if (lists.Contains(row(), key_head, i)) keys.push_back(segment->key_begin + i);
    }
    return keys;
  }
};

// Calls visit(query, KV head) for all, side by side.
template <typename Args, typename Visit>
void ForEachQuery(const Args& args, const Visit& visit) {
  std::vector<Query> queries;
  for (const Segment& segment : args.segments) {
    for (int64_t i = 0; i < segment.query_count; ++i) queries.push_back({&segment, i});
  }
#pragma omp parallel for collapse(2) schedule(dynamic)
  for (size_t i = 0; i < queries.size(); ++i) {
    for (int64_t key_head = 0; key_head < args.k.dim(1); ++key_head) visit(queries[i], key_head);
  }
}

// Calls visit(query, KV head, first key, end of the keys) for pieces of a segment's keys, side by
// side, and for each piece in order of the queries.
template <typename Args, typename Visit>
void ForEachPieceOfKeys(const Args& args, const Visit& visit) {
  constexpr int64_t kPiece = 16;
  for (const Segment& segment : args.segments) {
#pragma omp parallel for collapse(2) schedule(dynamic)
    for (int64_t begin = 0; begin < segment.key_count(); begin += kPiece) {
      for (int64_t key_head = 0; key_head < args.k.dim(1); ++key_head) {
        for (int64_t i = 0; i < segment.query_count; ++i) {
          visit({&segment, i}, key_head, begin, begin + kPiece);
        }
      }
    }
  }
}

// Calls visit(query head) for those that share a KV head.
template <typename Args, typename Visit>
void ForEachHead(const Args& args, int64_t key_head, const Visit& visit) {
  const int64_t group = args.q.dim(1) / args.k.dim(1);
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) visit(head);
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
  ForEachQuery(args, [&](const Query& query, int64_t key_head) {
    const std::vector<int64_t> keys = query.Keys(lists, key_head, 0, query.position() + 1);
    ForEachHead(args, key_head, [&](int64_t head) {
      std::vector<double> scores;
      double maximum = -std::numeric_limits<double>::infinity();
      for (const int64_t key : keys) {
        const double* q = Row(args.q, query.row(), head);
        scores.push_back(args.scale * Dot(q, Row(args.k, key, key_head), dim));
        maximum = std::max(maximum, scores.back());
      }
      double denominator = 0;
      for (double& score : scores) denominator += score = std::exp(score - maximum);
      double* out = Row(args.out, query.row(), head);
      std::fill_n(out, dim, 0.0);
      for (size_t j = 0; j < keys.size(); ++j) {
        const double* v = Row(args.v, keys[j], key_head);
        for (int64_t d = 0; d < dim; ++d) out[d] += scores[j] / denominator * v[d];
      }
      args.logsumexp.template data<double>()[query.row() * args.q.dim(1) + head] =
          maximum + std::log(denominator);
    });
  });
}

// What the gradients of one query head are made of.
template <typename Args>
struct HeadGradient {
  const Args& args;
  const double *q, *d_out;
  double delta, logsumexp;

  HeadGradient(const Args& given, int64_t row, int64_t head)
      : args(given),
        q(Row(args.q, row, head)),
        d_out(Row(args.d_out, row, head)),
        delta(Dot(Row(args.out, row, head), d_out, args.q.dim(2))),
        logsumexp(args.logsumexp.template data<double>()[row * args.q.dim(1) + head]) {}

  double Weight(const double* k) const {
    return std::exp(args.scale * Dot(q, k, args.q.dim(2)) - logsumexp);
  }
  double DScore(double weight, const double* v) const {
    return weight * (Dot(d_out, v, args.q.dim(2)) - delta);
  }
};

template <typename Args>
void Backward(const Args& args, const BlockLists& lists) {
  const int64_t dim = args.q.dim(2);
  ForEachQuery(args, [&](const Query& query, int64_t key_head) {
    const std::vector<int64_t> keys = query.Keys(lists, key_head, 0, query.position() + 1);
    ForEachHead(args, key_head, [&](int64_t head) {
      const HeadGradient<Args> gradient(args, query.row(), head);
      double* dq = Row(args.dq, query.row(), head);
      std::fill_n(dq, dim, 0.0);
      for (const int64_t key : keys) {
        const double* k = Row(args.k, key, key_head);
        const double d_score = gradient.DScore(gradient.Weight(k), Row(args.v, key, key_head));
        for (int64_t d = 0; d < dim; ++d) dq[d] += args.scale * d_score * k[d];
      }
    });
  });
  ForEachPieceOfKeys(args, [&](const Query& query, int64_t key_head, int64_t begin, int64_t end) {
    const std::vector<int64_t> keys = query.Keys(lists, key_head, begin, end);
    if (keys.empty()) return;
    ForEachHead(args, key_head, [&](int64_t head) {
      const HeadGradient<Args> gradient(args, query.row(), head);
      for (const int64_t key : keys) {
        const double weight = gradient.Weight(Row(args.k, key, key_head));
        const double d_score = gradient.DScore(weight, Row(args.v, key, key_head));
        double *dk = Row(args.dk, key, key_head), *dv = Row(args.dv, key, key_head);
        for (int64_t d = 0; d < dim; ++d) {
          dk[d] += args.scale * d_score * gradient.q[d];
          dv[d] += weight * gradient.d_out[d];
        }
      }
    });
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
