#include "trainer/generate/generator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/head_loss.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// How much of a prompt goes through in its first call. Where the length of the whole document
// decides (sparse attention per document, LongRoPE's factors), that call reaches the length that
// decides, so that pieces compute what the whole prompt would.
int64_t FirstPiece(const ModelConfig& config, int64_t prompt_length, int64_t prefill_tokens) {
  int64_t least = 1;
  const auto reach = [&](int64_t deciding_length) {
    if (prompt_length >= deciding_length) least = std::max(least, deciding_length);
  };
  const SparseConfig& sparse = config.softmax.sparse;
  if (config.softmax.use_sparse && sparse.dense_rule == DenseRule::kPerDocument)
    reach(sparse.dense_length);
  if (config.rope.scaling == RopeScalingKind::kLongRope)
    reach(config.rope.original_max_positions + 1);
  return std::min(prompt_length, std::max(least, prefill_tokens));
}

class Generation {
 public:
  Generation(const ExecutionContext& execution, const Transformer& model,
             const GenerateOptions& options, DecodeCache cache)
      : execution_(execution), model_(model), options_(options), cache_(std::move(cache)) {}

  absl::Status Prefill(int64_t slot, const std::vector<int32_t>& prompt);
  absl::Status Run();
  std::vector<Generated> TakeResults() { return std::move(results_); }

 private:
  // One call of the model; the last row of each segment becomes its sequence's next token.
  absl::Status Forward(const std::vector<int32_t>& tokens, const std::vector<int64_t>& slots,
                       const std::vector<Segment>& segments, bool choose);
  void Choose(int64_t slot, absl::Span<const float> logits);

  const ExecutionContext& execution_;
  const Transformer& model_;
  const GenerateOptions& options_;
  DecodeCache cache_;
  std::vector<Generated> results_ = std::vector<Generated>(static_cast<size_t>(cache_.slots()));
};

absl::Status Generation::Forward(const std::vector<int32_t>& tokens,
                                 const std::vector<int64_t>& slots,
                                 const std::vector<Segment>& segments, bool choose) {
  Arena& arena = *execution_.arena;
  const ArenaScope scope(arena);
  ASSIGN_OR_RETURN(const TensorView on_device, FromHost<int32_t>(execution_, tokens));
  ASSIGN_OR_RETURN(const TensorView hidden, model_.Forward({.execution = &execution_,
                                                            .tokens = on_device,
                                                            .segments = segments,
                                                            .cache = &cache_,
                                                            .use_candidate = {},
                                                            .tap = {}},
                                                           nullptr));
  for (size_t index = 0; index < slots.size(); ++index) {
    cache_.Advance(slots[index], segments[index].query_count);
    if (!choose) continue;
    const ArenaScope logits_scope(arena);
    const TensorView logits =
        arena.Tensor(StatisticsType(hidden.dtype()), {1, model_.config().vocabulary});
    const int64_t last = segments[index].query_begin + segments[index].query_count - 1;
    RETURN_IF_ERROR(HeadLogits(execution_, {.hidden = hidden.Rows(last, 1),
                                            .head = model_.weights().head,
                                            .logit_scale = model_.config().logit_scale,
                                            .logits = logits}));
    std::vector<float> on_host(static_cast<size_t>(logits.size()));
    RETURN_IF_ERROR(CopyToHost(execution_, logits, on_host.data()));
    Choose(slots[index], on_host);
  }
  return absl::OkStatus();
}

void Generation::Choose(int64_t slot, absl::Span<const float> logits) {
  Generated& result = results_[static_cast<size_t>(slot)];
  const int32_t token = SampleToken(logits, options_.sampling, slot, cache_.length(slot));
  if (std::count(options_.stop_ids.begin(), options_.stop_ids.end(), token) > 0) {
    result.stopped = true;
    return;
  }
  result.tokens.push_back(token);
  if (slot == 0 && options_.on_token) options_.on_token(token);
}

absl::Status Generation::Prefill(int64_t slot, const std::vector<int32_t>& prompt) {
  if (prompt.empty())
    return absl::InvalidArgumentError(
        absl::StrCat("prompt ", slot, " is empty; give at least one token"));
  const auto length = static_cast<int64_t>(prompt.size());
  int64_t count = FirstPiece(model_.config(), length, options_.prefill_tokens);
  for (int64_t begin = 0; begin < length; begin += count) {
    if (begin > 0) count = std::min(options_.prefill_tokens, length - begin);
    ASSIGN_OR_RETURN(const Segment segment, cache_.NextSegment(slot, 0, count));
    RETURN_IF_ERROR(Forward({prompt.begin() + begin, prompt.begin() + begin + count}, {slot},
                            {segment}, begin + count == length));
  }
  return absl::OkStatus();
}

absl::Status Generation::Run() {
  while (true) {
    std::vector<int32_t> tokens;
    std::vector<int64_t> slots;
    std::vector<Segment> segments;
    for (int64_t slot = 0; slot < cache_.slots(); ++slot) {
      const Generated& result = results_[static_cast<size_t>(slot)];
      if (result.stopped || static_cast<int64_t>(result.tokens.size()) >= options_.max_new_tokens)
        continue;
      ASSIGN_OR_RETURN(const Segment segment,
                       cache_.NextSegment(slot, static_cast<int64_t>(slots.size()), 1));
      tokens.push_back(result.tokens.back());
      slots.push_back(slot);
      segments.push_back(segment);
    }
    if (slots.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(Forward(tokens, slots, segments, true));
  }
}

absl::Status CheckOptions(const GenerateOptions& options) {
  if (options.max_new_tokens >= 1 && options.prefill_tokens >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError("generate: max_new_tokens and prefill_tokens are at least 1");
}

}  // namespace

absl::StatusOr<DecodeCache> CacheFor(const Transformer& model, const Prompts& prompts,
                                     const GenerateOptions& options, DeviceSession& session) {
  RETURN_IF_ERROR(CheckOptions(options));
  size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  return DecodeCache::Create(model.config(), model.weights().embedding.dtype(),
                             static_cast<int64_t>(prompts.size()),
                             static_cast<int64_t>(longest) + options.max_new_tokens, session);
}

absl::StatusOr<std::vector<Generated>> Generate(const ExecutionContext& execution,
                                                const Transformer& model, DecodeCache cache,
                                                const Prompts& prompts,
                                                const GenerateOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  Generation generation(execution, model, options, std::move(cache));
  for (size_t slot = 0; slot < prompts.size(); ++slot) {
    RETURN_IF_ERROR(generation.Prefill(static_cast<int64_t>(slot), prompts[slot]));
  }
  RETURN_IF_ERROR(generation.Run());
  return generation.TakeResults();
}

}  // namespace salamander
