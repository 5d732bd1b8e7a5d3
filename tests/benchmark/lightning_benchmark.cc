// Lightning attention on the CPU beside what bounds it: the rate of cblas_sgemm on one large
// product, and of the chunk's own small products by either library.
//   lightning_benchmark --benchmark_min_time=0.5
// Arguments are tokens, heads, head dimension, documents, threads. "FLOP/s" counts the chunked
// algorithm's arithmetic, 2 c D + 4 D^2 per token and head with c = 64, three times that backward.
#include <cmath>
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>
#include <cblas.h>

#include "kernels/cpu/small_matrix.h"
#include "kernels/lightning_attention.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

struct Case {
  int64_t tokens, heads, dim, documents;

  explicit Case(const benchmark::State& state)
      : tokens(state.range(0)),
        heads(state.range(1)),
        dim(state.range(2)),
        documents(state.range(3)) {}

  TestTensor Random(uint64_t seed) const {
    return TestTensor::Normal(DType::kFloat32, {tokens, heads, dim}, seed);
  }
  std::vector<double> Slopes() const {
    std::vector<double> slopes;  // ALiBi's
    for (int64_t head = 0; head < heads; ++head) {
      slopes.push_back(
          std::pow(2.0, -8.0 * static_cast<double>(head + 1) / static_cast<double>(heads)));
    }
    return slopes;
  }
  std::vector<Segment> EqualSegments() const {
    const int64_t length = tokens / documents;
    std::vector<Segment> segments;
    for (int64_t i = 0; i < documents; ++i) {
      segments.push_back(
          {.query_begin = i * length, .query_count = length, .key_begin = i * length});
    }
    return segments;
  }
  double ForwardFlops() const {
    return static_cast<double>(tokens * heads * (2 * 64 * dim + 4 * dim * dim));
  }
};

void SetRate(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void CheckOk(const absl::Status& status) {
  SALAMANDER_CHECK(status.ok()) << status.ToString();
}

void BM_LightningForward(benchmark::State& state) {
  const Case shape(state);
  const ScopedThreadCount threads(static_cast<int>(state.range(4)));
  const TestContext context;
  const TestTensor q = shape.Random(1), k = shape.Random(2), v = shape.Random(3), out = q;
  const std::vector<double> slopes = shape.Slopes();
  const std::vector<Segment> segments = shape.EqualSegments();
  const LightningForwardArgs args = {.q = q.View(),
                                     .k = k.View(),
                                     .v = v.View(),
                                     .slopes = slopes,
                                     .segments = segments,
                                     .scale = 0.1,
                                     .states = {},
                                     .out = out.View()};
  for (auto iteration : state) CheckOk(LightningForward(context, args));
  SetRate(state, shape.ForwardFlops());
}

void BM_LightningBackward(benchmark::State& state) {
  const Case shape(state);
  const ScopedThreadCount threads(static_cast<int>(state.range(4)));
  const TestContext context;
  const TestTensor q = shape.Random(1), k = shape.Random(2), v = shape.Random(3);
  const TestTensor d_out = shape.Random(4), dq = q, dk = q, dv = q;
  const std::vector<double> slopes = shape.Slopes();
  const std::vector<Segment> segments = shape.EqualSegments();
  const LightningBackwardArgs args = {.q = q.View(),
                                      .k = k.View(),
                                      .v = v.View(),
                                      .slopes = slopes,
                                      .segments = segments,
                                      .scale = 0.1,
                                      .states = {},
                                      .d_states = {},
                                      .d_out = d_out.View(),
                                      .dq = dq.View(),
                                      .dk = dk.View(),
                                      .dv = dv.View()};
  for (auto iteration : state) CheckOk(LightningBackward(context, args));
  SetRate(state, 3 * shape.ForwardFlops());
}

// One token of each of `documents` documents, in place on their states; bound by memory.
void BM_LightningDecode(benchmark::State& state) {
  const Case shape(state);
  const ScopedThreadCount threads(static_cast<int>(state.range(4)));
  const TestContext context;
  const TestTensor q = shape.Random(1), k = shape.Random(2), v = shape.Random(3), out = q;
  const std::vector<double> slopes = shape.Slopes();
  const TestTensor states(DType::kFloat32, {shape.documents, shape.heads, shape.dim, shape.dim});
  std::vector<Segment> segments = shape.EqualSegments();
  for (size_t i = 0; i < segments.size(); ++i) {
    segments[i].state_in = segments[i].state_out = static_cast<int32_t>(i);
  }
  const LightningForwardArgs args = {.q = q.View(),
                                     .k = k.View(),
                                     .v = v.View(),
                                     .slopes = slopes,
                                     .segments = segments,
                                     .scale = 0.1,
                                     .states = states.View(),
                                     .out = out.View()};
  for (auto iteration : state) CheckOk(LightningForward(context, args));
  state.counters["B/s"] = benchmark::Counter(2.0 * static_cast<double>(states.View().bytes()),
                                             benchmark::Counter::kIsIterationInvariantRate);
}

void BM_Sgemm(benchmark::State& state) {
  const ScopedThreadCount threads(static_cast<int>(state.range(3)));
  const auto m = static_cast<int>(state.range(0)), n = static_cast<int>(state.range(1)),
             k = static_cast<int>(state.range(2));
  const TestTensor a = TestTensor::Normal(DType::kFloat32, {m, k}, 1);
  const TestTensor b = TestTensor::Normal(DType::kFloat32, {k, n}, 2);
  const TestTensor c(DType::kFloat32, {m, n});
  for (auto iteration : state) {
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, m, n, k, 1.0F, a.View().data<float>(), k,
                b.View().data<float>(), n, 0.0F, c.View().data<float>(), n);
  }
  SetRate(state, 2.0 * m * n * k);
}

void BM_SmallProduct(benchmark::State& state) {
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  const TestTensor a = TestTensor::Normal(DType::kFloat32, {m, k}, 1);
  const TestTensor b = TestTensor::Normal(DType::kFloat32, {k, n}, 2);
  const TestTensor c(DType::kFloat32, {m, n});
  for (auto iteration : state) {
    cpu::Multiply<float>(
        {a.View().data<float>(), k, b.View().data<float>(), n, c.View().data<float>(), n, m, n, k});
    benchmark::ClobberMemory();
  }
  SetRate(state, 2.0 * static_cast<double>(m * n * k));
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  for (const int64_t threads : {1, 2}) {
    for (const int64_t dim : {32, 64, 128}) {
      for (const int64_t documents : {1, 8, 64}) {
        benchmark->Args({4096, 256 / dim, dim, documents, threads});
      }
    }
  }
}

BENCHMARK(BM_LightningForward)->Apply(Shapes)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_LightningBackward)->Apply(Shapes)->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_LightningDecode)
    ->Args({8, 8, 32, 8, 1})
    ->Args({64, 4, 64, 64, 2})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_Sgemm)
    ->Args({1024, 1024, 1024, 1})
    ->Args({1024, 1024, 1024, 2})
    ->Args({64, 32, 64, 1})
    ->Args({64, 64, 64, 1})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);
BENCHMARK(BM_SmallProduct)
    ->Args({64, 32, 64})
    ->Args({64, 64, 64})
    ->UseRealTime()
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace salamander
