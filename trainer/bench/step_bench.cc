#include "trainer/bench/step_bench.h"

#include <vector>

#include "absl/strings/str_cat.h"

#include "data/sequences/packed_stream.h"
#include "kernels/base/random.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"
#include "model/model_tensors.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

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

const char* NameOf(Recomputation recomputation) {
  switch (recomputation) {
    case Recomputation::kNone:
      return "step";
    case Recomputation::kAttention:
      return "step, attention recomputed";
    case Recomputation::kFull:
      return "step, all recomputed";
  }
  return "";
}

}  // namespace

absl::StatusOr<BenchRow> BenchStep(const BenchMemory& memory, const Ceilings& ceilings,
                                   const RandomModel& model, const StepBenchOptions& options) {
  const ArenaScope scope(memory.tensors);
  const ExecutionContext context = memory.session.Context(memory.tensors);
  ASSIGN_OR_RETURN(const ParameterBuffer buffer,
                   ParameterBuffer::Create(model.layout(), DType::kFloat32, memory.session));
  const ModelTensors gradients = BindTensors(model.config(), model.layout(), buffer);
  const auto objective = LanguageModelObjective(
      model.transformer(),
      std::vector<Recomputation>(model.config().layers.size(), options.recomputation));
  const PackedStream stream = RandomDocument(options.tokens, model.config().vocabulary);
  const TensorView loss = context.arena->Tensor(DType::kFloat64, {1});
  RETURN_IF_ERROR(Zero(context, loss));
  const auto tokens = static_cast<double>(options.tokens);
  const auto step = [&] {
    return objective->Accumulate({.execution = context,
                                  .stream = stream,
                                  .gradient_scale = 1.0 / tokens,
                                  .gradients = &gradients,
                                  .loss_sum = loss});
  };
  ASSIGN_OR_RETURN(const std::vector<double> seconds,
                   memory.session.Time(step, options.repetitions));
  return RowOf(NameOf(options.recomputation),
               absl::StrCat(LayersText(model.config()), ", ", options.tokens, " tokens"),
               {.flops = objective->Flops(stream, gradients), .bytes = 0.0, .tokens = tokens},
               seconds, ceilings);
}

}  // namespace salamander
