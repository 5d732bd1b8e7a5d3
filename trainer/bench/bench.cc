#include "trainer/bench/bench.h"

#include <algorithm>
#include <cmath>
#include <regex>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/sequences/packed_stream.h"
#include "kernels/base/random.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/model_tensors.h"
#include "model/parameters.h"
#include "model/transformer.h"
#include "trainer/bench/op_cases.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

BenchRow RowOf(std::string name, std::string shape, const std::vector<double>& seconds,
               double flops, double bytes, const Ceilings& ceilings) {
  const auto [fastest, slowest] = std::minmax_element(seconds.begin(), seconds.end());
  BenchRow row{.name = std::move(name),
               .shape = std::move(shape),
               .seconds = Median(seconds),
               .spread = 0.0,
               .flops = flops,
               .bytes = bytes};
  row.spread = (*slowest - *fastest) / row.seconds;
  const double floor =
      std::max(flops / ceilings.flops_per_second, bytes / ceilings.bytes_per_second);
  row.share_of_ceiling = floor / row.seconds;
  return row;
}

absl::StatusOr<BenchRow> BenchOp(const BenchMemory& memory, const Ceilings& ceilings,
                                 const OpCase& op_case, int repetitions) {
  const ArenaScope scope(memory.tensors);
  const ExecutionContext context = memory.session.Context(memory.scratch);
  CaseTensors tensors(context, memory.tensors, memory.session.activation_dtype());
  const OpRun prepared = op_case.prepare(tensors);
  RETURN_IF_ERROR(tensors.status());
  ASSIGN_OR_RETURN(const std::vector<double> seconds,
                   memory.session.Time([&] { return prepared.run(context); }, repetitions));
  return RowOf(op_case.name, op_case.shape, seconds, prepared.flops, prepared.bytes, ceilings);
}

// Weights of order one and gradients, on the device, for a step that is timed and thrown away.
struct StepModel {
  ParameterLayout layout;
  ParameterBuffer weights, gradients;

  static absl::StatusOr<StepModel> Create(const ModelConfig& config, DeviceSession& session) {
    ParameterLayout layout(config);
    ASSIGN_OR_RETURN(ParameterBuffer weights,
                     ParameterBuffer::Create(layout, session.activation_dtype(), session));
    ASSIGN_OR_RETURN(ParameterBuffer gradients,
                     ParameterBuffer::Create(layout, DType::kFloat32, session));
    return StepModel{std::move(layout), std::move(weights), std::move(gradients)};
  }
};

PackedStream RandomDocument(int64_t tokens, int64_t vocabulary) {
  PackedStream stream;
  for (int64_t token = 0; token < tokens; ++token) {
    const auto draw = [&](uint64_t key) {
      return static_cast<int32_t>(HashCounter(key, static_cast<uint64_t>(token)) %
                                  static_cast<uint64_t>(vocabulary));
    };
    stream.tokens.push_back(draw(1));
    stream.targets.push_back(draw(2));
    stream.loss_weights.push_back(1.0F);
  }
  stream.segments = {{.query_count = tokens}};
  return stream;
}

}  // namespace

absl::StatusOr<BenchRow> BenchStep(const BenchMemory& memory, const Ceilings& ceilings,
                                   const BenchOptions& options) {
  const ArenaScope scope(memory.tensors);
  const ExecutionContext context = memory.session.Context(memory.tensors);
  ASSIGN_OR_RETURN(const StepModel made, StepModel::Create(options.config, memory.session));
  {
    const ExecutionContext filling = memory.session.Context(memory.scratch);
    CaseTensors random(filling, memory.scratch, memory.session.activation_dtype());
    for (const ParameterSpec& spec : made.layout.specs()) {
      const ArenaScope one(memory.scratch);
      const TensorView values = random.Activation({spec.size()}, options.config.initializer_range);
      RETURN_IF_ERROR(random.status());
      RETURN_IF_ERROR(Copy(filling, values, made.weights.View(spec).Reshape({spec.size()})));
    }
  }
  const Transformer model(options.config, BindTensors(options.config, made.layout, made.weights));
  const ModelTensors gradients = BindTensors(options.config, made.layout, made.gradients);
  const auto objective = LanguageModelObjective(
      model, std::vector<Recomputation>(options.config.layers.size(), options.recomputation));
  const PackedStream stream = RandomDocument(options.tokens, options.config.vocabulary);
  const TensorView loss = context.arena->Tensor(DType::kFloat64, {1});
  RETURN_IF_ERROR(Zero(context, loss));
  ASSIGN_OR_RETURN(const std::vector<double> seconds,
                   memory.session.Time(
                       [&] {
                         return objective->Accumulate(
                             {.execution = context,
                              .stream = stream,
                              .gradient_scale = 1.0 / static_cast<double>(options.tokens),
                              .gradients = &gradients,
                              .loss_sum = loss});
                       },
                       options.repetitions));
  const char* const recomputed[] = {"", ", attention recomputed", ", all recomputed"};
  return RowOf(absl::StrCat("step", recomputed[static_cast<int>(options.recomputation)]),
               absl::StrCat(options.config.layers.size(), " layers, ", options.tokens, " tokens"),
               seconds, objective->Flops(stream, gradients), 0.0, ceilings);
}

absl::StatusOr<std::vector<BenchRow>> BenchOps(const BenchMemory& memory, const Ceilings& ceilings,
                                               const BenchOptions& options) {
  const std::regex wanted(options.only.empty() ? "." : options.only);
  std::vector<BenchRow> rows;
  for (const OpCase& op_case : OpCases(options.config, options.tokens)) {
    if (!std::regex_search(op_case.name, wanted)) continue;
    const auto row = BenchOp(memory, ceilings, op_case, options.repetitions);
    RETURN_IF_ERROR(Annotate(row.status(), absl::StrCat(op_case.name, " ", op_case.shape)));
    rows.push_back(*row);
  }
  return rows;
}

}  // namespace salamander
