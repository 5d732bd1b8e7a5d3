// Nothing crosses from one document to another, whichever ranks they lie on. Holds for any number
// of ranks; the build runs it on 1, 2, 3 and 4.
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/distributed/context_ranks.h"

namespace salamander {
namespace {

// Every document draws from four words of its own, so that their rows of the embedding's gradient
// are its own too.
class ContextLeakTest : public ContextRanks {
 protected:
  static constexpr int64_t kWords = 4;

  static PackedStream OwnWords(const std::vector<int64_t>& documents) {
    PackedStream stream = Pack(TinyStream(documents, kWords, 6));
    for (size_t document = 0; document < stream.segments.size(); ++document) {
      const Segment& segment = stream.segments[document];
      for (int64_t row = 0; row < segment.query_count; ++row) {
        stream.tokens[static_cast<size_t>(segment.query_begin + row)] +=
            static_cast<int32_t>(kWords * static_cast<int64_t>(document));
      }
    }
    return stream;
  }

  // Gradients for a fixed gradient of what comes out.
  SliceOutcome RunFrom(const TinyModel& model, const PackedStream& whole) {
    PackedStream slice = Mine(whole);
    const ArenaScope scope(context_.arena());
    const ForwardPass pass = Pass(slice, &parallel_);
    Activations saved;
    const auto hidden = model.transformer.Forward(pass, &saved);
    SALAMANDER_CHECK(hidden.ok()) << hidden.status().ToString();
    SliceOutcome outcome{.hidden = Kept(*hidden), .gradients = ZeroGradientsOf(model), .lists = {}};
    const ModelTensors gradients =
        BindTensors(model.transformer.config(), model.weights.layout, outcome.gradients);
    const TestTensor d_hidden =
        TestTensor::Normal(hidden->dtype(), {whole.size(), config().width}, 9);
    SALAMANDER_CHECK(
        model.transformer
            .Backward(pass, saved, d_hidden.View().Rows(FirstRow(whole), slice.size()), gradients)
            .ok());
    return outcome;
  }

  // A stream whose document `changed` reads other words leaves the others' outputs and gradients as
  // they were, to the bit, on this rank.
  void ExpectOthersUnmoved(const TinyModel& model, const PackedStream& before,
                           const PackedStream& after, size_t changed) {
    const SliceOutcome outcomes[] = {RunFrom(model, before), RunFrom(model, after)};
    const PackedStream slice = Mine(before);
    int64_t moved = 0;
    for (const Segment& piece : slice.segments) {
      const auto rows = [&](const SliceOutcome& outcome) {
        return outcome.hidden.View().Rows(piece.query_begin, piece.query_count);
      };
      const bool is_changed = piece.key_begin == before.segments[changed].key_begin;
      const bool is_same = BitwiseEqual(rows(outcomes[1]), rows(outcomes[0]));
      EXPECT_TRUE(is_same || is_changed) << "document from row " << piece.key_begin;
      moved += !is_same;
    }
    for (size_t document = 0; document < before.segments.size(); ++document) {
      if (document == changed) continue;
      const auto words = [&](const SliceOutcome& outcome) {
        const ModelTensors gradients =
            BindTensors(model.transformer.config(), model.weights.layout, outcome.gradients);
        return gradients.embedding.Rows(kWords * static_cast<int64_t>(document), kWords);
      };
      EXPECT_TRUE(BitwiseEqual(words(outcomes[1]), words(outcomes[0]))) << "words of " << document;
    }
    int64_t total[] = {moved};
    ASSERT_TRUE(World().AllReduceMax(absl::Span<int64_t>(total)).ok());
    EXPECT_GT(total[0], 0) << "the change changed nothing";
  }
};

INSTANTIATE_TEST_SUITE_P(Models, ContextLeakTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.name; });

TEST_P(ContextLeakTest, OtherDocumentsIgnoreAChangedTokenOnAnyRank) {
  ModelConfig wordy = config();
  wordy.vocabulary = 40;
  const TinyModel model(wordy, DType::kFloat32, 12);
  for (const std::vector<int64_t>& documents :
       {std::vector<int64_t>{20, 1, 50, 33, 40}, {36, 36, 24, 12, 36}, {47, 1, 23, 1, 35, 1, 36}}) {
    const PackedStream before = OwnWords(documents);
    for (size_t changed = 0; changed < documents.size(); ++changed) {
      SCOPED_TRACE(testing::PrintToString(documents) + ", change in " + std::to_string(changed));
      const auto first = static_cast<size_t>(before.segments[changed].query_begin);
      PackedStream after = before;
      after.tokens[first] ^= 1;
      ExpectOthersUnmoved(model, before, after, changed);
    }
  }
}

TEST_P(ContextLeakTest, ANaNStaysInItsDocumentOnEveryRank) {
  ModelConfig wordy = config();
  wordy.vocabulary = 40;
  constexpr int64_t kPoison = 39;
  const TinyModel model(wordy, DType::kFloat32, 12);
  for (int64_t i = 0; i < wordy.width; ++i) {
    SetElement(model.transformer.weights().embedding, kPoison * wordy.width + i,
               std::numeric_limits<double>::quiet_NaN());
  }
  for (const std::vector<int64_t>& documents :
       {std::vector<int64_t>{20, 1, 50, 33, 40}, {36, 36, 24, 12, 36}, {47, 1, 23, 1, 35, 1, 36}}) {
    const PackedStream before = OwnWords(documents);
    for (size_t changed = 0; changed < documents.size(); ++changed) {
      SCOPED_TRACE(testing::PrintToString(documents) + ", NaN in " + std::to_string(changed));
      const Segment& document = before.segments[changed];
      PackedStream after = before;
      after.tokens[static_cast<size_t>(document.query_begin + document.query_count - 1)] = kPoison;
      after.tokens[static_cast<size_t>(document.query_begin)] = kPoison;
      ExpectOthersUnmoved(model, before, after, changed);
    }
  }
}

}  // namespace
}  // namespace salamander
