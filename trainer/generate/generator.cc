#include "trainer/generate/generator.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
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
  Generation(const Generator& generator, const GenerateOptions& options, DecodeCache cache)
      : generator_(generator),
        options_(options),
        cache_(std::move(cache)),
        step_(generator.session.NewReplay()) {}

  absl::Status Prefill(int64_t slot, const std::vector<int32_t>& prompt);
  absl::Status Run();
  std::vector<Generated> TakeResults() { return std::move(results_); }

 private:
  // The call's sequences take the tokens that row s of the logits gives the s-th of them.
  absl::Status ChooseAll(const CachedCall& call, const TensorView& logits);
  void Choose(int64_t slot, absl::Span<const float> logits);
  Arena& arena() const { return *generator_.execution.arena; }

  const Generator& generator_;
  const GenerateOptions& options_;
  DecodeCache cache_;
  std::unique_ptr<Replay> step_;
  std::vector<Generated> results_ = std::vector<Generated>(static_cast<size_t>(cache_.slots()));
};

absl::Status Generation::ChooseAll(const CachedCall& call, const TensorView& logits) {
  std::vector<float> on_host(static_cast<size_t>(logits.size()));
  RETURN_IF_ERROR(CopyToHost(generator_.execution, logits, on_host.data()));
  const auto vocabulary = static_cast<size_t>(logits.row_size());
  for (size_t index = 0; index < call.slots.size(); ++index) {
    Choose(call.slots[index], absl::MakeConstSpan(on_host).subspan(index * vocabulary, vocabulary));
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
  int64_t count = FirstPiece(generator_.model.config(), length, options_.prefill_tokens);
  for (int64_t begin = 0; begin < length; begin += count) {
    const ArenaScope scope(arena());
    if (begin > 0) count = std::min(options_.prefill_tokens, length - begin);
    CachedCall call;
    RETURN_IF_ERROR(AddTokens(
        cache_, slot,
        absl::MakeConstSpan(prompt).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
        call));
    ASSIGN_OR_RETURN(const TensorView hidden, HiddenStates(generator_, cache_, call));
    cache_.Advance(slot, count);
    if (begin + count < length) continue;
    ASSIGN_OR_RETURN(const TensorView logits, LogitsOf(generator_, hidden.Rows(count - 1, 1)));
    RETURN_IF_ERROR(ChooseAll(call, logits));
  }
  return absl::OkStatus();
}

absl::Status Generation::Run() {
  while (true) {
    CachedCall call;
    for (int64_t slot = 0; slot < cache_.slots(); ++slot) {
      const Generated& result = results_[static_cast<size_t>(slot)];
      if (result.stopped || static_cast<int64_t>(result.tokens.size()) >= options_.max_new_tokens)
        continue;
      RETURN_IF_ERROR(AddTokens(cache_, slot, absl::MakeConstSpan(&result.tokens.back(), 1), call));
    }
    if (call.slots.empty()) return absl::OkStatus();
    const ArenaScope scope(arena());
    ASSIGN_OR_RETURN(const TensorView logits, Step(generator_, cache_, call, *step_));
    RETURN_IF_ERROR(ChooseAll(call, logits));
  }
}

absl::Status CheckOptions(const GenerateOptions& options) {
  if (options.max_new_tokens >= 1 && options.prefill_tokens >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError("generate: max_new_tokens and prefill_tokens are at least 1");
}

}  // namespace

absl::StatusOr<DecodeCache> CacheFor(const Generator& generator, const Prompts& prompts,
                                     const GenerateOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  size_t longest = 0;
  for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
  const Transformer& model = generator.model;
  return DecodeCache::Create(
      model.config(), model.weights().embedding.dtype(), static_cast<int64_t>(prompts.size()),
      static_cast<int64_t>(longest) + options.max_new_tokens, generator.session);
}

absl::StatusOr<std::vector<Generated>> Generate(const Generator& generator, DecodeCache cache,
                                                const Prompts& prompts,
                                                const GenerateOptions& options) {
  RETURN_IF_ERROR(CheckOptions(options));
  Generation generation(generator, options, std::move(cache));
  for (size_t slot = 0; slot < prompts.size(); ++slot) {
    RETURN_IF_ERROR(generation.Prefill(static_cast<int64_t>(slot), prompts[slot]));
  }
  RETURN_IF_ERROR(generation.Run());
  return generation.TakeResults();
}

}  // namespace salamander
