// Softmax attention: time, and GFLOP/s over the products of visible pairs alone (2 products
// forward, 5 backward; 2 D operations a pair each). `Sgemm` does as many operations in square
// products of BLAS: what the machine gives without softmax, masks or blocks.
//   attention_benchmark --benchmark_filter=Dense
#include <cmath>
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>
#include <cblas.h>

#include "kernels/base/arena.h"
#include "kernels/block_selection.h"
#include "kernels/dense_attention.h"
#include "kernels/sparse_attention.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

struct Stream {
  int64_t tokens, heads, key_heads, head_dim;
  std::vector<Segment> segments;
  TestTensor q, k, v, d_out, out, logsumexp, dq, dk, dv;
  Arena arena;
  ExecutionContext context;

  Stream(int64_t T, int64_t H, int64_t Hkv, int64_t D)
      : tokens(T), heads(H), key_heads(Hkv), head_dim(D), arena(*Arena::Reserve(int64_t{1} << 34)) {
    const auto normal = [&](int64_t rows_heads, uint64_t seed) {
      return TestTensor::Normal(DType::kFloat32, {T, rows_heads, D}, seed);
    };
    q = normal(H, 1), k = normal(Hkv, 2), v = normal(Hkv, 3), d_out = normal(H, 4);
    out = normal(H, 5), dq = normal(H, 6), dk = normal(Hkv, 7), dv = normal(Hkv, 8);
    logsumexp = TestTensor(DType::kFloat32, {T, H});
    segments = {{.query_begin = 0, .query_count = T}};
    context.arena = &arena;
  }
  double scale() const { return 1.0 / std::sqrt(static_cast<double>(head_dim)); }

  template <typename Args>
  Args Forward() const {
    Args args;
    args.q = q.View(), args.k = k.View(), args.v = v.View();
    args.segments = segments, args.scale = scale();
    args.out = out.View(), args.logsumexp = logsumexp.View();
    return args;
  }
  template <typename Args>
  Args Backward() const {
    Args args;
    args.q = q.View(), args.k = k.View(), args.v = v.View();
    args.segments = segments, args.scale = scale();
    args.out = out.View(), args.logsumexp = logsumexp.View(), args.d_out = d_out.View();
    args.dq = dq.View(), args.dk = dk.View(), args.dv = dv.View();
    return args;
  }
};

// `pairs` of a query and a key over all heads.
void CountProducts(benchmark::State& state, double pairs, int products, int64_t head_dim) {
  const double operations = pairs * products * 2.0 * static_cast<double>(head_dim);
  state.counters["GFLOP/s"] = benchmark::Counter(
      operations * 1e-9 * static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

double CausalPairs(const Stream& stream) {
  const auto tokens = static_cast<double>(stream.tokens);
  return static_cast<double>(stream.heads) * tokens * (tokens + 1) / 2;
}

Stream StreamOf(const benchmark::State& state) {
  return Stream(state.range(0), state.range(1), state.range(2), state.range(3));
}

void DenseForward(benchmark::State& state) {
  const Stream stream = StreamOf(state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        DenseAttentionForward(stream.context, stream.Forward<DenseAttentionForwardArgs>()));
  }
  CountProducts(state, CausalPairs(stream), 2, stream.head_dim);
}

void DenseForwardBackward(benchmark::State& state) {
  const Stream stream = StreamOf(state);
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        DenseAttentionForward(stream.context, stream.Forward<DenseAttentionForwardArgs>()));
    benchmark::DoNotOptimize(
        DenseAttentionBackward(stream.context, stream.Backward<DenseAttentionBackwardArgs>()));
  }
  CountProducts(state, CausalPairs(stream), 7, stream.head_dim);
}

// One token of each of eight sequences against their caches.
void DenseDecode(benchmark::State& state) {
  Stream stream = StreamOf(state);
  const int64_t sequences = 8, keys = stream.tokens / sequences;
  stream.segments.clear();
  for (int64_t s = 0; s < sequences; ++s) {
    stream.segments.push_back(
        {.query_begin = s, .query_count = 1, .key_begin = s * keys, .first_position = keys - 1});
  }
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        DenseAttentionForward(stream.context, stream.Forward<DenseAttentionForwardArgs>()));
  }
  CountProducts(state, static_cast<double>(stream.tokens * stream.heads), 2, stream.head_dim);
  state.SetBytesProcessed(state.iterations() * (stream.k.View().bytes() + stream.v.View().bytes()));
}

void Sparse(benchmark::State& state) {
  const Stream stream = StreamOf(state);
  const BlockSelectionShape shape;
  const auto pooled = [&](int64_t rows) {
    return TestTensor(DType::kFloat32, {rows, stream.key_heads, stream.head_dim});
  };
  const TestTensor fine = pooled(FineKeyRows(stream.tokens, shape));
  const TestTensor coarse = pooled(CoarseKeyRows(stream.tokens, shape));
  const TestTensor blocks(DType::kInt32, {stream.tokens, stream.key_heads, shape.selected_blocks});
  const auto select = [&] {
    benchmark::DoNotOptimize(PoolKeys(stream.context, {.k = stream.k.View(),
                                                       .segments = stream.segments,
                                                       .shape = shape,
                                                       .fine_keys = fine.View(),
                                                       .coarse_keys = coarse.View()}));
    benchmark::DoNotOptimize(SelectBlocks(stream.context, {.q = stream.q.View(),
                                                           .fine_keys = fine.View(),
                                                           .coarse_keys = coarse.View(),
                                                           .segments = stream.segments,
                                                           .shape = shape,
                                                           .scale = stream.scale(),
                                                           .blocks = blocks.View()}));
  };
  const bool only_select = state.range(4) != 0;
  auto forward = stream.Forward<SparseAttentionForwardArgs>();
  auto backward = stream.Backward<SparseAttentionBackwardArgs>();
  forward.blocks = backward.blocks = blocks.View();
  select();
  for (auto _ : state) {
    if (only_select) {
      select();
      continue;
    }
    benchmark::DoNotOptimize(SparseAttentionForward(stream.context, forward));
    benchmark::DoNotOptimize(SparseAttentionBackward(stream.context, backward));
  }
  double pairs = 0;
  for (int64_t i = 0; i < stream.tokens; ++i) {
    pairs += static_cast<double>(std::min(i + 1, 95 * shape.block_size + i % shape.block_size + 1));
  }
  if (!only_select) {
    CountProducts(state, pairs * static_cast<double>(stream.heads), 7, stream.head_dim);
  }
}

void Sgemm(benchmark::State& state) {
  const auto n = static_cast<int>(state.range(0));
  const TestTensor a = TestTensor::Normal(DType::kFloat32, {n, n}, 1);
  const TestTensor b = TestTensor::Normal(DType::kFloat32, {n, n}, 2);
  TestTensor c(DType::kFloat32, {n, n});
  for (auto _ : state) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0F, a.View().data<float>(), n,
                b.View().data<float>(), n, 0.0F, c.View().data<float>(), n);
  }
  CountProducts(state, static_cast<double>(n) * n, 1, n);
}

// Arguments: tokens, heads, KV heads, head dimension.
#define DENSE_SHAPES           \
  Args({1024, 4, 4, 32})       \
      ->Args({1024, 4, 4, 64}) \
      ->Args({4096, 4, 4, 32}) \
      ->Args({4096, 4, 4, 64}) \
      ->Args({4096, 16, 1, 128})

BENCHMARK(Sgemm)->Arg(1024)->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(DenseForward)->DENSE_SHAPES->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(DenseForwardBackward)->DENSE_SHAPES->UseRealTime()->Unit(benchmark::kMillisecond);
BENCHMARK(DenseDecode)
    ->Args({65536, 4, 4, 64})
    ->Args({65536, 16, 1, 128})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);
// The fifth: 0 times the attention forward and backward, 1 pooling and selection.
BENCHMARK(Sparse)
    ->Args({16384, 16, 1, 64, 0})
    ->Args({16384, 16, 1, 64, 1})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace salamander
