#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/random.h"
#include "data/recall/recall.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr uint64_t kAssociativeKey = 0x6d716172;

class AssociativeRecall : public RecallTask {
 public:
  explicit AssociativeRecall(const AssociativeRecallOptions& options) : options_(options) {}

  int64_t min_length() const override { return 2 * (options_.pairs + options_.queries); }

  absl::StatusOr<PackedStream> Sample(const RecallRequest& request) const override {
    if (request.length < min_length()) {
      return absl::InvalidArgumentError(
          absl::StrCat("associative recall of ", options_.pairs, " pairs and ", options_.queries,
                       " queries takes ", min_length(), " tokens or more, not ", request.length));
    }
    CounterRandom random(
        DeriveKey({options_.seed, kAssociativeKey, static_cast<uint64_t>(request.use),
                   static_cast<uint64_t>(request.index)}));
    const Permutation key_order(random.Next(), options_.keys.size());
    std::vector<int32_t> tokens;
    for (int64_t pair = 0; pair < options_.pairs; ++pair) {
      tokens.push_back(options_.keys.begin + static_cast<int32_t>(key_order(pair)));
      tokens.push_back(Draw(options_.values, &random));
    }
    // Which slots after the pairs ask, and which pair each of them asks for.
    const int64_t slots = (request.length - 2 * options_.pairs) / 2;
    const Permutation slot_order(random.Next(), slots);
    const Permutation pair_order(random.Next(), options_.pairs);
    std::vector<int64_t> asked(slots, -1);
    for (int64_t query = 0; query < options_.queries; ++query) {
      asked[slot_order(query)] = pair_order(query);
    }
    std::vector<float> weights(tokens.size(), 0.0f);
    for (const int64_t pair : asked) {
      const bool is_query = pair >= 0;
      const int32_t first = is_query ? tokens[2 * pair] : Draw(options_.fillers, &random);
      const int32_t second = is_query ? tokens[2 * pair + 1] : Draw(options_.fillers, &random);
      tokens.insert(tokens.end(), {first, second});
      weights.insert(weights.end(), {is_query ? 1.0f : 0.0f, 0.0f});
    }
    if (static_cast<int64_t>(tokens.size()) < request.length) {  // an odd length
      tokens.push_back(Draw(options_.fillers, &random));
      weights.push_back(0.0f);
    }
    PackedStream stream;
    AppendPiece(tokens, -1, weights, &stream);
    return stream;
  }

 private:
  static int32_t Draw(const IdRange& range, CounterRandom* random) {
    return range.begin + static_cast<int32_t>(random->Below(range.size()));
  }

  const AssociativeRecallOptions options_;
};

absl::Status CheckRange(absl::string_view name, const IdRange& range, int64_t smallest_size,
                        int64_t vocab_size) {
  if (range.begin >= 0 && range.size() >= smallest_size && range.end <= vocab_size) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "associative recall: ", name, " are ids [", range.begin, ", ", range.end,
      "); expected at least ", smallest_size, " ids inside the vocabulary [0, ", vocab_size, ")"));
}

bool Overlap(const IdRange& a, const IdRange& b) {
  return std::max(a.begin, b.begin) < std::min(a.end, b.end);
}

}  // namespace

absl::StatusOr<std::unique_ptr<RecallTask>> MakeAssociativeRecall(
    const AssociativeRecallOptions& options, int64_t vocab_size) {
  if (options.pairs < 1 || options.queries < 1 || options.queries > options.pairs) {
    return absl::InvalidArgumentError(
        absl::StrCat("associative recall with ", options.pairs, " pairs and ", options.queries,
                     " queries; expected 1 or more pairs and 1 to that many queries"));
  }
  RETURN_IF_ERROR(CheckRange("keys", options.keys, options.pairs, vocab_size));
  RETURN_IF_ERROR(CheckRange("values", options.values, 1, vocab_size));
  RETURN_IF_ERROR(CheckRange("fillers", options.fillers, 1, vocab_size));
  if (Overlap(options.keys, options.values) || Overlap(options.keys, options.fillers)) {
    return absl::InvalidArgumentError(
        "associative recall: the ids of keys overlap those of values or fillers, so that a value "
        "could be taken for a key; give keys ids of their own");
  }
  return std::make_unique<AssociativeRecall>(options);
}

}  // namespace salamander
