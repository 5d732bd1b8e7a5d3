#include "trainer/bench/generation_bench.h"

#include <chrono>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/random.h"
#include "kernels/base/status_macros.h"
#include "kernels/block_selection.h"
#include "model/flops.h"
#include "model/layers/attention_split.h"
#include "model/layers/block_selection_shape.h"
#include "model/parameters.h"
#include "trainer/bench/random_model.h"
#include "trainer/generate/generator.h"

namespace salamander {
namespace {

// The first runs unrecorded and the second is recorded; one more for what happens once.
constexpr int kWarmUpSteps = 3;

class OpByOp : public Replay {
 public:
  absl::Status Run(const std::function<absl::Status()>& enqueue) override { return enqueue(); }
};

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

absl::StatusOr<std::vector<double>> TimeSteps(const Generator& generator, DecodeCache& cache,
                                              Replay& replay, int steps) {
  const int32_t token = 0;
  std::vector<double> seconds;
  for (int step = -kWarmUpSteps; step < steps; ++step) {
    const ArenaScope scope(*generator.execution.arena);
    const auto start = std::chrono::steady_clock::now();
    CachedCall call;
    for (int64_t slot = 0; slot < cache.slots(); ++slot)
      RETURN_IF_ERROR(AddTokens(cache, slot, absl::MakeConstSpan(&token, 1), call));
    RETURN_IF_ERROR(Step(generator, cache, call, replay).status());
    RETURN_IF_ERROR(generator.session.Wait());
    if (step >= 0) seconds.push_back(SecondsSince(start));
  }
  return seconds;
}

// Of what one softmax layer keeps of a sequence, for the token behind `length` others.
double KeyBytes(const SoftmaxConfig& softmax, DType activations, int64_t length) {
  const Segment next{.query_count = 1, .first_position = length};
  int64_t rows = 2 * next.key_count();
  if (SplitAttention(softmax, absl::MakeConstSpan(&next, 1)).dense.empty()) {
    const BlockSelectionShape selection = SelectionShape(softmax.sparse);
    rows = 2 * SelectedKeys(softmax.sparse, length) + FineKeyRows(next.key_count(), selection) +
           CoarseKeyRows(next.key_count(), selection);
  }
  return static_cast<double>(rows * softmax.kv_heads * softmax.head_dim) *
         static_cast<double>(SizeOf(activations));
}

// Read and written.
double StateBytes(const LightningConfig& lightning, DType activations) {
  return 2.0 * static_cast<double>(lightning.heads * lightning.head_dim * lightning.head_dim) *
         static_cast<double>(SizeOf(StatisticsType(activations)));
}

std::vector<int32_t> RandomPrompt(int64_t length, int64_t vocabulary) {
  std::vector<int32_t> prompt(static_cast<size_t>(length));
  for (size_t index = 0; index < prompt.size(); ++index) {
    prompt[index] = static_cast<int32_t>(HashCounter(1, index) % static_cast<uint64_t>(vocabulary));
  }
  return prompt;
}

}  // namespace

double DecodeStepBytes(const ModelConfig& config, DType activations, int64_t sequences,
                       int64_t length) {
  double bytes = 0.0;
  const ParameterLayout layout(config);
  for (const ParameterSpec& spec : layout.specs()) {
    // Of the embedding a step reads a row a token, unless it is the head too.
    if (spec.kind == ParameterKind::kEmbedding && !config.tie_embeddings) continue;
    bytes += static_cast<double>(spec.size()) * static_cast<double>(SizeOf(activations));
  }
  for (const LayerConfig& layer : config.layers) {
    bytes += static_cast<double>(sequences) * (layer.mixer == MixerKind::kSoftmax
                                                   ? KeyBytes(config.softmax, activations, length)
                                                   : StateBytes(config.lightning, activations));
  }
  return bytes;
}

absl::StatusOr<std::vector<BenchRow>> BenchDecode(const Generator& generator,
                                                  const Ceilings& ceilings,
                                                  const DecodeBenchOptions& options) {
  const ModelConfig& config = generator.model.config();
  const DType activations = generator.model.weights().embedding.dtype();
  const int64_t added = 2 * (options.steps + kWarmUpSteps);
  ASSIGN_OR_RETURN(DecodeCache cache,
                   DecodeCache::Create(config, activations, options.sequences,
                                       options.length + added, generator.session));
  for (int64_t slot = 0; slot < cache.slots(); ++slot) cache.Advance(slot, options.length);
  const std::string shape =
      absl::StrCat(LayersText(config), ", ", options.sequences, " x ", options.length, " tokens");
  const Work work{.flops = 0.0,
                  .bytes = DecodeStepBytes(config, activations, options.sequences, options.length),
                  .tokens = static_cast<double>(options.sequences)};
  std::vector<BenchRow> rows;
  const auto add_row = [&](const char* name, Replay& replay) -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<double> seconds,
                     TimeSteps(generator, cache, replay, options.steps));
    rows.push_back(RowOf(name, shape, work, seconds, ceilings));
    return absl::OkStatus();
  };
  OpByOp op_by_op;
  RETURN_IF_ERROR(add_row("decode, op by op", op_by_op));
  RETURN_IF_ERROR(add_row("decode, replayed", *generator.session.NewReplay()));
  return rows;
}

absl::StatusOr<BenchRow> BenchPrefill(const Generator& generator, const Ceilings& ceilings,
                                      int64_t length, int repetitions) {
  const ModelConfig& config = generator.model.config();
  const Prompts prompts = {RandomPrompt(length, config.vocabulary)};
  GenerateOptions options;
  options.max_new_tokens = 1;
  std::vector<double> seconds;
  for (int run = 0; run < repetitions; ++run) {
    ASSIGN_OR_RETURN(DecodeCache cache, CacheFor(generator, prompts, options));
    RETURN_IF_ERROR(generator.session.Wait());
    const auto start = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(Generate(generator, std::move(cache), prompts, options).status());
    seconds.push_back(SecondsSince(start));
  }
  const Segment whole{.query_count = length};
  const ModelFlops flops = ForwardFlops(config, absl::MakeConstSpan(&whole, 1));
  // Only the last row meets the head.
  const double head_of_others = flops.head * (1.0 - 1.0 / static_cast<double>(length));
  return RowOf("prefill", absl::StrCat(LayersText(config), ", ", length, " tokens"),
               {.flops = flops.total() - head_of_others,
                .bytes = 0.0,
                .tokens = static_cast<double>(length)},
               seconds, ceilings);
}

}  // namespace salamander
