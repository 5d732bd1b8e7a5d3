// Linear layers as a ratio to cblas_sgemm alone, and every memory-bound op by the bytes it must
// move (each operand once), at the shapes of the CPU demonstration. BM_Copy is what memory gives.
//   build/tests/benchmark/kernels_benchmark --benchmark_filter=Linear
#include <chrono>
#include <cstdint>
#include <vector>

#include <benchmark/benchmark.h>
#include <cblas.h>

#include "kernels/adamw.h"
#include "kernels/embedding.h"
#include "kernels/head_norm_rope.h"
#include "kernels/layer_mse.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/rms_norm.h"
#include "kernels/sigmoid_gate.h"
#include "kernels/swiglu.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

TestTensor Random(TestTensor::Dims dims) {
  static uint64_t seed = 0;
  return TestTensor::Normal(DType::kFloat32, dims, ++seed);
}

double SecondsOf(const auto& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Times `op` and, in turn with it so that both see the same machine, `baseline`.
void RunAgainst(benchmark::State& state, double flops, const auto& op, const auto& baseline) {
  double op_seconds = 0, baseline_seconds = 0;
  for (auto _ : state) {
    baseline_seconds += SecondsOf(baseline);
    const double seconds = SecondsOf([&] {
      if (!op().ok()) state.SkipWithError("the op failed");
    });
    op_seconds += seconds;
    state.SetIterationTime(seconds);
  }
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["of_sgemm"] = baseline_seconds / op_seconds;
}

// Tensors that an op reads or writes once each.
void RunMoving(benchmark::State& state, const std::vector<TestTensor>& moved, const auto& op) {
  for (auto _ : state) {
    if (!op().ok()) state.SkipWithError("the op failed");
  }
  double bytes = 0;
  for (const TestTensor& tensor : moved) bytes += static_cast<double>(tensor.View().bytes());
  state.counters["B/s"] = benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
}

enum Pass { kOutput, kInputGradient, kWeightGradient };

// Arguments: T, Cin, Cout, pass.
void BM_Linear(benchmark::State& state) {
  const int64_t tokens = state.range(0), inner = state.range(1), columns = state.range(2);
  const int t = static_cast<int>(tokens), k = static_cast<int>(inner),
            n = static_cast<int>(columns);
  const TestTensor input = Random({tokens, inner}), weight = Random({columns, inner});
  const TestTensor output = Random({tokens, columns});
  const TensorView x = input.View(), w = weight.View(), y = output.View();
  float* const x_data = x.data<float>();
  float* const w_data = w.data<float>();
  float* const y_data = y.data<float>();
  const TestContext context;
  const double flops = 2.0 * static_cast<double>(tokens * inner * columns);
  switch (static_cast<Pass>(state.range(3))) {
    case kOutput:
      return RunAgainst(
          state, flops,
          [&] {
            return LinearForward(context, {x, w, y});
          },
          [&] {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, t, n, k, 1.0F, x_data, k, w_data,
                        k, 0.0F, y_data, n);
          });
    case kInputGradient:
      return RunAgainst(
          state, flops,
          [&] {
            return LinearBackward(context, {{}, w, y, x, {}});
          },
          [&] {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, t, k, n, 1.0F, y_data, n, w_data,
                        k, 0.0F, x_data, k);
          });
    case kWeightGradient:
      return RunAgainst(
          state, flops,
          [&] {
            return LinearBackward(context, {x, {}, y, {}, w});
          },
          [&] {
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, n, k, t, 1.0F, y_data, n, x_data,
                        k, 1.0F, w_data, k);
          });
  }
}
BENCHMARK(BM_Linear)
    ->ArgNames({"T", "Cin", "Cout", "pass"})
    ->ArgsProduct({{1024, 2048}, {128, 256}, {128, 256, 512, 768}, {0, 1, 2}})
    ->UseManualTime();

void BM_Copy(benchmark::State& state) {
  const TestContext context;
  const TestTensor from = Random({state.range(0), state.range(1)}), to = from;
  RunMoving(state, {from, to}, [&] { return Copy(context, from.View(), to.View()); });
}
BENCHMARK(BM_Copy)->ArgNames({"T", "C"})->Args({2048, 256})->Args({2048, 768});

struct EmbeddingTensors {
  explicit EmbeddingTensors(const benchmark::State& state)
      : tokens(TestTensor::Integers({state.range(0)}, 1, 0, 8191)),
        table(Random({8192, state.range(1)})),
        rows(Random({state.range(0), state.range(1)})) {}

  TestTensor tokens, table, rows;
};

void BM_EmbeddingForward(benchmark::State& state) {
  const TestContext context;
  const EmbeddingTensors e(state);
  RunMoving(state, {e.rows, e.rows}, [&] {
    return EmbeddingForward(context, {e.tokens.View(), e.table.View(), e.rows.View()});
  });
}
BENCHMARK(BM_EmbeddingForward)->ArgNames({"T", "C"})->Args({2048, 256});

void BM_EmbeddingBackward(benchmark::State& state) {
  const TestContext context;
  const EmbeddingTensors e(state);
  RunMoving(state, {e.rows, e.rows, e.rows}, [&] {
    return EmbeddingBackward(context, {e.tokens.View(), e.rows.View(), e.table.View()});
  });
}
BENCHMARK(BM_EmbeddingBackward)->ArgNames({"T", "C"})->Args({2048, 256});

void BM_RmsNormForward(benchmark::State& state) {
  const TestContext context;
  const TestTensor residual = Random({state.range(0), state.range(1)}), branch = residual;
  const TestTensor hidden = residual, output = residual, weight = Random({state.range(1)});
  const TestTensor inverse_rms = Random({state.range(0)});
  RunMoving(state, {residual, branch, hidden, output}, [&] {
    return RmsNormForward(context, {.residual = residual.View(),
                                    .branch = branch.View(),
                                    .weight = weight.View(),
                                    .hidden = hidden.View(),
                                    .output = output.View(),
                                    .inverse_rms = inverse_rms.View()});
  });
}
BENCHMARK(BM_RmsNormForward)->ArgNames({"T", "C"})->Args({2048, 256});

void BM_RmsNormBackward(benchmark::State& state) {
  const TestContext context;
  const TestTensor hidden = Random({state.range(0), state.range(1)}), d_output = hidden;
  const TestTensor gradient(DType::kFloat32, {state.range(0), state.range(1)});
  const TestTensor d_branch = hidden, weight = Random({state.range(1)}), d_weight = weight;
  const TestTensor inverse_rms = Random({state.range(0)});
  RunMoving(state, {hidden, d_output, gradient, gradient, d_branch}, [&] {
    return RmsNormBackward(context, {.hidden = hidden.View(),
                                     .weight = weight.View(),
                                     .inverse_rms = inverse_rms.View(),
                                     .d_output = d_output.View(),
                                     .d_hidden = gradient.View(),
                                     .d_residual = gradient.View(),
                                     .d_branch = d_branch.View(),
                                     .d_weight = d_weight.View()});
  });
}
BENCHMARK(BM_RmsNormBackward)->ArgNames({"T", "C"})->Args({2048, 256});

struct HeadTensors {
  explicit HeadTensors(const benchmark::State& state)
      : input(Random({state.range(0), state.range(1), state.range(2)})),
        output(input),
        weight(Random({state.range(2)})),
        d_weight(weight),
        cosines(Random({state.range(0), state.range(2) / 2})),
        sines(cosines),
        inverse_rms(Random({state.range(0), state.range(1)})) {}

  TestTensor input, output, weight, d_weight, cosines, sines, inverse_rms;
};

void BM_HeadNormRopeForward(benchmark::State& state) {
  const TestContext context;
  const HeadTensors h(state);
  RunMoving(state, {h.input, h.output, h.cosines, h.sines}, [&] {
    return HeadNormRopeForward(context, {.input = h.input.View(),
                                         .weight = h.weight.View(),
                                         .cosines = h.cosines.View(),
                                         .sines = h.sines.View(),
                                         .output = h.output.View(),
                                         .inverse_rms = h.inverse_rms.View()});
  });
}
BENCHMARK(BM_HeadNormRopeForward)->ArgNames({"T", "H", "D"})->Args({2048, 4, 64});

void BM_HeadNormRopeBackward(benchmark::State& state) {
  const TestContext context;
  const HeadTensors h(state);
  const TestTensor d_input = h.input;
  RunMoving(state, {h.input, h.output, d_input, h.cosines, h.sines}, [&] {
    return HeadNormRopeBackward(context, {.input = h.input.View(),
                                          .weight = h.weight.View(),
                                          .cosines = h.cosines.View(),
                                          .sines = h.sines.View(),
                                          .inverse_rms = h.inverse_rms.View(),
                                          .d_output = h.output.View(),
                                          .d_input = d_input.View(),
                                          .d_weight = h.d_weight.View()});
  });
}
BENCHMARK(BM_HeadNormRopeBackward)->ArgNames({"T", "H", "D"})->Args({2048, 4, 64});

void BM_SwigluForward(benchmark::State& state) {
  const TestContext context;
  const TestTensor gate = Random({state.range(0), state.range(1)}), up = gate, output = gate;
  RunMoving(state, {gate, up, output}, [&] {
    return SwigluForward(context, {gate.View(), up.View(), output.View()});
  });
}
BENCHMARK(BM_SwigluForward)->ArgNames({"T", "F"})->Args({2048, 768});

void BM_SwigluBackward(benchmark::State& state) {
  const TestContext context;
  const TestTensor gate = Random({state.range(0), state.range(1)}), up = gate, d_output = gate;
  const TestTensor d_gate = gate, d_up = gate, output = gate;
  RunMoving(state, {gate, up, d_output, d_gate, d_up, output}, [&] {
    return SwigluBackward(context, {gate.View(), up.View(), d_output.View(), d_gate.View(),
                                    d_up.View(), output.View()});
  });
}
BENCHMARK(BM_SwigluBackward)->ArgNames({"T", "F"})->Args({2048, 768});

void BM_SigmoidGateForward(benchmark::State& state) {
  const TestContext context;
  const TestTensor input = Random({state.range(0), state.range(1)}), gate = input, output = input;
  RunMoving(state, {input, gate, output}, [&] {
    return SigmoidGateForward(context, {input.View(), gate.View(), output.View()});
  });
}
BENCHMARK(BM_SigmoidGateForward)->ArgNames({"T", "C"})->Args({2048, 256});

void BM_SigmoidGateBackward(benchmark::State& state) {
  const TestContext context;
  const TestTensor input = Random({state.range(0), state.range(1)}), gate = input;
  const TestTensor d_output = input, d_input = input, d_gate = input;
  RunMoving(state, {input, gate, d_output, d_input, d_gate}, [&] {
    return SigmoidGateBackward(
        context, {input.View(), gate.View(), d_output.View(), d_input.View(), d_gate.View()});
  });
}
BENCHMARK(BM_SigmoidGateBackward)->ArgNames({"T", "C"})->Args({2048, 256});

void BM_LayerMse(benchmark::State& state) {
  const TestContext context;
  const TestTensor output = Random({state.range(0), state.range(1)}), d_output = output;
  const TestTensor target = Random({state.range(0), state.range(1)});
  double loss = 0;
  RunMoving(state, {output, target, d_output}, [&] {
    return LayerMse(context, {.output = output.View(),
                              .target = target.View(),
                              .row_weights = {},
                              .d_output = d_output.View(),
                              .loss_sum = TensorView::Of(&loss, {1}),
                              .moments = {}});
  });
}
BENCHMARK(BM_LayerMse)->ArgNames({"T", "C"})->Args({2048, 256});

void BM_AdamWUpdate(benchmark::State& state) {
  const TestContext context;
  const TestTensor weight = Random({state.range(0)}), gradient = weight;
  const TestTensor m(DType::kFloat32, {state.range(0)}), v = m;
  const AdamWTensor tensors[] = {
      {weight.View(), gradient.View(), m.View(), v.View(), {}, 1e-4, 0.1}};
  double squares = 1.0;
  RunMoving(state, {weight, weight, gradient, m, m, v, v}, [&] {
    return AdamWUpdate(context,
                       {.tensors = tensors, .gradient_squares = TensorView::Of(&squares, {1})});
  });
}
BENCHMARK(BM_AdamWUpdate)->ArgName("size")->Arg(1 << 18)->Arg(1 << 24);

void BM_SumOfSquares(benchmark::State& state) {
  const TestContext context;
  const TestTensor x = Random({state.range(0)});
  const TensorView tensors[] = {x.View()};
  double sum = 0;
  RunMoving(state, {x}, [&] { return SumOfSquares(context, tensors, TensorView::Of(&sum, {1})); });
}
BENCHMARK(BM_SumOfSquares)->ArgName("size")->Arg(1 << 18)->Arg(1 << 24);

}  // namespace
}  // namespace salamander
