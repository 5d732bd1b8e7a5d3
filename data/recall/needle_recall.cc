#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/random.h"
#include "data/recall/recall.h"
#include "data/sequences/token_sequences.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr uint64_t kNeedleKey = 0x6e65646c;
// A question that occurs by chance is redrawn; so many times in a row says the ids are too few.
constexpr int kMaxDraws = 100;

using Tokens = std::vector<int32_t>;

void Append(const Tokens& tail, Tokens* tokens) {
  tokens->insert(tokens->end(), tail.begin(), tail.end());
}

int64_t CountOccurrences(const Tokens& pattern, const Tokens& tokens) {
  int64_t count = 0;
  for (auto from = tokens.begin();; ++from, ++count) {
    from = std::search(from, tokens.end(), pattern.begin(), pattern.end());
    if (from == tokens.end()) return count;
  }
}

class NeedleRecall : public RecallTask {
 public:
  NeedleRecall(std::shared_ptr<const TokenFileReader> text, std::unique_ptr<DocumentOrder> order,
               const NeedleRecallOptions& options)
      : text_(std::move(text)), order_(std::move(order)), options_(options) {}

  int64_t min_length() const override { return TokensBesideText() + 1; }

  absl::StatusOr<PackedStream> Sample(const RecallRequest& request) const override {
    if (request.length < min_length()) {
      return absl::InvalidArgumentError(absl::StrCat("a needle sample takes ", min_length(),
                                                     " tokens or more, not ", request.length));
    }
    CounterRandom random(DeriveKey({options_.seed, kNeedleKey, static_cast<uint64_t>(request.use),
                                    static_cast<uint64_t>(request.index)}));
    ASSIGN_OR_RETURN(const Tokens text, ReadText(request.length - TokensBesideText(), &random));
    for (int draw = 0; draw < kMaxDraws; ++draw) {
      Tokens question;
      Tokens value;
      Tokens tokens = HideNeedles(text, request.depth, &random, &question, &value);
      if (CountOccurrences(question, tokens) != 1) continue;
      return AskedStream(std::move(tokens), question, value);
    }
    return absl::InvalidArgumentError(
        absl::StrCat("needle recall: after ", kMaxDraws,
                     " draws the question still occurs more than once; "
                     "give keys more tokens (now ",
                     options_.key_tokens, ") or more ids (now ", options_.ids.size(), ")"));
  }

 private:
  int64_t QuestionTokens() const {
    return static_cast<int64_t>(options_.before_key.size() + options_.between.size()) +
           options_.key_tokens;
  }

  // The needles, the question and the answer, whose last token is a target only.
  int64_t TokensBesideText() const {
    const int64_t needle =
        QuestionTokens() + options_.value_tokens + static_cast<int64_t>(options_.after.size());
    return (1 + options_.distractors) * needle + QuestionTokens() + options_.value_tokens - 1;
  }

  absl::StatusOr<Tokens> ReadText(int64_t count, CounterRandom* random) const {
    auto place = order_->Locate(static_cast<int64_t>(random->Below(order_->tokens_per_epoch())));
    PackedStream stream;
    while (stream.size() < count) {
      const int64_t left_of_document = order_->Length(place.number) - place.offset;
      const DocumentPiece piece = {.number = place.number,
                                   .begin = place.offset,
                                   .count = std::min(left_of_document, count - stream.size())};
      RETURN_IF_ERROR(AppendDocumentPiece(*text_, *order_, piece, &stream));
      place = {.number = place.number + 1, .offset = 0};
    }
    return std::move(stream.tokens);
  }

  Tokens DrawIds(int64_t count, CounterRandom* random) const {
    Tokens ids(count);
    for (int32_t& id : ids) {
      id = options_.ids.begin + static_cast<int32_t>(random->Below(options_.ids.size()));
    }
    return ids;
  }

  // Plants the asked needle at its depth and the distractors anywhere. Needles at one place stand
  // in the order in which they were drawn.
  Tokens HideNeedles(const Tokens& text, double depth, CounterRandom* random, Tokens* question,
                     Tokens* value) const {
    std::vector<std::pair<int64_t, Tokens>> needles;  // text tokens before it, and itself
    const auto text_size = static_cast<int64_t>(text.size());
    for (int64_t i = 0; i <= options_.distractors; ++i) {
      Tokens needle = options_.before_key;
      Append(DrawIds(options_.key_tokens, random), &needle);
      Append(options_.between, &needle);
      if (i == 0) *question = needle;
      const Tokens drawn_value = DrawIds(options_.value_tokens, random);
      if (i == 0) *value = drawn_value;
      Append(drawn_value, &needle);
      Append(options_.after, &needle);
      const int64_t place = i == 0 ? std::llround(depth * static_cast<double>(text_size))
                                   : static_cast<int64_t>(random->Below(text_size + 1));
      needles.emplace_back(place, std::move(needle));
    }
    std::stable_sort(needles.begin(), needles.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    Tokens tokens;
    int64_t copied = 0;
    for (const auto& [place, needle] : needles) {
      tokens.insert(tokens.end(), text.begin() + copied, text.begin() + place);
      Append(needle, &tokens);
      copied = place;
    }
    tokens.insert(tokens.end(), text.begin() + copied, text.end());
    return tokens;
  }

  static PackedStream AskedStream(Tokens tokens, const Tokens& question, const Tokens& value) {
    Append(question, &tokens);
    std::vector<float> weights(tokens.size() - 1, 0.0f);
    tokens.insert(tokens.end(), value.begin(), value.end() - 1);
    weights.resize(tokens.size(), 1.0f);
    PackedStream stream;
    AppendPiece(tokens, value.back(), weights, &stream);
    return stream;
  }

  std::shared_ptr<const TokenFileReader> text_;
  std::unique_ptr<DocumentOrder> order_;
  const NeedleRecallOptions options_;
};

absl::Status CheckOptions(const NeedleRecallOptions& options, int64_t vocab_size) {
  if (options.key_tokens < 1 || options.value_tokens < 1 || options.distractors < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "needle recall with ", options.key_tokens, " key tokens, ", options.value_tokens,
        " value tokens and ", options.distractors, " distractors; expected at least 1, 1 and 0"));
  }
  if (options.ids.begin < 0 || options.ids.size() < 2 || options.ids.end > vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "needle recall: keys and values are ids [", options.ids.begin, ", ", options.ids.end,
        "); expected at least 2 ids inside the vocabulary [0, ", vocab_size, ")"));
  }
  for (const Tokens* words : {&options.before_key, &options.between, &options.after}) {
    for (const int32_t id : *words) {
      if (id >= 0 && id < vocab_size) continue;
      return absl::InvalidArgumentError(absl::StrCat("needle recall: id ", id,
                                                     " of the needle's words is outside the "
                                                     "vocabulary [0, ",
                                                     vocab_size, ")"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecallTask>> MakeNeedleRecall(
    std::shared_ptr<const TokenFileReader> text, const NeedleRecallOptions& options) {
  RETURN_IF_ERROR(Annotate(CheckOptions(options, text->info().vocab_size), text->path()));
  auto order =
      DocumentOrder::Create(text->document_offsets(),
                            {.split = options.split, .part = options.part, .seed = options.seed});
  RETURN_IF_ERROR(Annotate(order.status(), text->path()));
  return std::make_unique<NeedleRecall>(std::move(text), *std::move(order), options);
}

}  // namespace salamander
