#include "data/sequences/token_sequences.h"

#include <algorithm>
#include <map>
#include <set>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/data/data_test_support.h"

namespace salamander {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

bool operator==(const PackedStream& a, const PackedStream& b) {
  return a.tokens == b.tokens && a.targets == b.targets && a.loss_weights == b.loss_weights &&
         std::equal(a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(),
                    [](const Segment& x, const Segment& y) {
                      return x.query_begin == y.query_begin && x.query_count == y.query_count;
                    });
}

class TokenSequencesTest : public testing::Test {
 protected:
  static constexpr int64_t kLength = 64;

  std::unique_ptr<TokenSequences> Open(const TokenSequencesOptions& options) {
    auto sequences = TokenSequences::Create(file_, options);
    EXPECT_TRUE(sequences.ok()) << sequences.status();
    return *std::move(sequences);
  }

  static PackedStream Get(const SequenceStream& sequences, int64_t n) {
    auto stream = sequences.Sequence(n);
    EXPECT_TRUE(stream.ok()) << stream.status();
    EXPECT_EQ(stream->size(), sequences.sequence_length());
    return *std::move(stream);
  }

  // Every id of the corpus occurs once in it, so that the id after an id is known.
  void ExpectTargetsInsideDocuments(const PackedStream& stream) {
    std::set<int32_t> last_ids;
    for (const auto& document : documents_) last_ids.insert(document.back());
    for (int64_t t = 0; t < stream.size(); ++t) {
      if (stream.tokens[t] == 0) {
        EXPECT_EQ(stream.loss_weights[t], 0) << "padding carries weight";
      } else if (last_ids.count(stream.tokens[t]) > 0) {
        EXPECT_EQ(stream.loss_weights[t], 0) << "the end of a document predicts something";
      } else {
        EXPECT_EQ(stream.loss_weights[t], 1);
        EXPECT_EQ(stream.targets[t], stream.tokens[t] + 1);
      }
    }
    for (const Segment& segment : stream.segments) {
      for (int64_t t = 1; t < segment.query_count; ++t) {
        const int32_t before = stream.tokens[segment.query_begin + t - 1];
        const int32_t token = stream.tokens[segment.query_begin + t];
        EXPECT_EQ(token, before == 0 ? 0 : before + 1) << "a segment spans two documents";
      }
    }
  }

  const TemporaryFolder folder_;
  const Documents documents_ = CountingDocuments(500, 100, 11);
  const std::shared_ptr<const TokenFileReader> file_ =
      MakeTokenFile(folder_ / "a.tokens", documents_);
};

TEST_F(TokenSequencesTest, SequenceIsAPureFunctionOfItsNumber) {
  for (const bool whole : {false, true}) {
    const TokenSequencesOptions options = {
        .sequence_length = kLength, .keep_documents_whole = whole, .seed = 3};
    const auto forward = Open(options);
    const auto backward = Open(options);
    std::vector<PackedStream> expected;
    for (int64_t n = 0; n < 1200; ++n) expected.push_back(Get(*forward, n));
    for (int64_t n = 1199; n >= 0; n -= 37) EXPECT_TRUE(Get(*backward, n) == expected[n]) << n;
    TokenSequencesOptions other = options;
    other.seed = 4;
    EXPECT_FALSE(Get(*Open(other), 0) == expected[0]);
  }
}

TEST_F(TokenSequencesTest, EveryTokenIsSeenOncePerEpoch) {
  for (const bool whole : {false, true}) {
    const auto sequences =
        Open({.sequence_length = kLength, .keep_documents_whole = whole, .seed = 3});
    const int64_t epoch = file_->info().token_count;
    ASSERT_EQ(sequences->tokens_per_epoch(), epoch);
    std::map<int32_t, int> count;
    int64_t taken = 0;
    for (int64_t n = 0; taken < 3 * epoch; ++n) {
      const PackedStream stream = Get(*sequences, n);
      for (const int32_t id : stream.tokens) {
        if (id == 0) continue;
        ++count[id];
        ++taken;
      }
    }
    // The last sequence reaches into the fourth epoch; whole packing looks 256 of the 500
    // documents ahead, so that some of the third epoch still wait while some of the fourth are in.
    for (const auto& [id, times] : count) {
      EXPECT_GE(times, whole ? 2 : 3) << id;
      EXPECT_LE(times, 4) << id;
    }
    EXPECT_EQ(static_cast<int64_t>(count.size()), epoch);
  }
}

TEST_F(TokenSequencesTest, ConcatenatedEpochIsExact) {
  // A length that divides the epoch: each epoch is then a whole number of sequences.
  const int64_t epoch = file_->info().token_count;
  const auto sequences = Open({.sequence_length = epoch, .seed = 9});
  std::vector<int32_t> first = Get(*sequences, 0).tokens;
  std::vector<int32_t> second = Get(*sequences, 1).tokens;
  EXPECT_NE(first, second) << "the second epoch has the first one's order";
  std::sort(first.begin(), first.end());
  std::sort(second.begin(), second.end());
  for (int64_t i = 0; i < epoch; ++i) {
    ASSERT_EQ(first[i], i + 1);
    ASSERT_EQ(second[i], i + 1);
  }
}

TEST_F(TokenSequencesTest, TargetsNeverCrossDocuments) {
  for (const bool whole : {false, true}) {
    const auto sequences =
        Open({.sequence_length = kLength, .keep_documents_whole = whole, .seed = 5});
    for (int64_t n = 0; n < 300; ++n) ExpectTargetsInsideDocuments(Get(*sequences, n));
  }
}

TEST_F(TokenSequencesTest, SegmentsCoverTheSequence) {
  const auto sequences = Open({.sequence_length = 128, .keep_documents_whole = true, .seed = 5});
  for (int64_t n = 0; n < 100; ++n) {
    int64_t next = 0;
    const PackedStream stream = Get(*sequences, n);
    for (const Segment& segment : stream.segments) {
      EXPECT_EQ(segment.query_begin, next);
      EXPECT_GE(segment.query_count, 1);
      next += segment.query_count;
    }
    EXPECT_EQ(next, 128);
  }
}

TEST_F(TokenSequencesTest, WholeDocumentsAreNotCut) {
  const auto sequences = Open({.sequence_length = 128, .keep_documents_whole = true, .seed = 5});
  std::map<int32_t, int64_t> length_of;  // by first id
  for (const auto& document : documents_) {
    length_of[document.front()] = static_cast<int64_t>(document.size());
  }
  int64_t padding = 0;
  for (int64_t n = 0; n < 150; ++n) {
    const PackedStream stream = Get(*sequences, n);
    for (const Segment& segment : stream.segments) {
      const int32_t first = stream.tokens[segment.query_begin];
      if (first == 0) {
        padding += segment.query_count;
      } else {
        ASSERT_EQ(length_of.count(first), 1u) << "a piece begins inside a document";
        EXPECT_EQ(segment.query_count, length_of[first]);
      }
    }
  }
  EXPECT_LT(padding, 150 * 128 / 50) << "best fit leaves less than 2 % of padding here";
}

TEST_F(TokenSequencesTest, ResumedStreamGoesOnWhereTheOtherStopped) {
  for (const bool whole : {false, true}) {
    TokenSequencesOptions options = {
        .sequence_length = kLength, .keep_documents_whole = whole, .seed = 3};
    const auto uninterrupted = Open(options);
    for (const int64_t stop : {1, 7, 400, 1030}) {
      const auto stored = FlattenPosition(uninterrupted->PositionAt(stop));
      const auto position = UnflattenPosition(stored);
      ASSERT_TRUE(position.ok());
      options.start = *position;
      const auto resumed = Open(options);
      for (int64_t n = 0; n < 20; ++n) {
        EXPECT_TRUE(Get(*resumed, n) == Get(*uninterrupted, stop + n)) << stop << " + " << n;
      }
    }
  }
}

TEST_F(TokenSequencesTest, StagesOfOtherLengthAndPackingRepeatNothing) {
  // Within the first epoch, whatever the stages, no token may come twice, and none may be lost.
  std::map<int32_t, int> count;
  SourcePosition position;
  int64_t documents_read = 0;
  struct Stage {
    int64_t length;
    bool whole;
    int64_t sequences;
  };
  for (const Stage& stage : std::vector<Stage>{
           {40, false, 55}, {90, true, 40}, {33, true, 20}, {256, false, 9}, {70, true, 3}}) {
    const auto sequences = Open({.sequence_length = stage.length,
                                 .keep_documents_whole = stage.whole,
                                 .seed = 3,
                                 .start = position});
    for (int64_t n = 0; n < stage.sequences; ++n) {
      const PackedStream stream = Get(*sequences, n);
      ExpectTargetsInsideDocuments(stream);
      for (const int32_t id : stream.tokens) ++count[id];
    }
    position = sequences->PositionAt(stage.sequences);
    documents_read = position.next_document;
  }
  ASSERT_LE(documents_read, 500) << "the stages leave the first epoch";
  count.erase(0);
  for (const auto& [id, times] : count) EXPECT_EQ(times, 1) << id;
  int64_t pending = 0;
  for (const DocumentPiece& piece : position.pending) pending += piece.count;
  const auto order = DocumentOrder::Create(file_->document_offsets(), {.split = {}, .seed = 3});
  EXPECT_EQ(static_cast<int64_t>(count.size()) + pending, (*order)->TokensBefore(documents_read));
}

TEST_F(TokenSequencesTest, HeldOutDocumentsAreNeverTrainedOn) {
  const SplitOptions split = {.held_out_fraction = 0.1, .split_seed = 77};
  const auto held_out = HeldOutSequences::Create(file_, split, 100);
  ASSERT_TRUE(held_out.ok()) << held_out.status();
  std::set<int32_t> held_out_ids;
  for (int64_t i = 0; i < (*held_out)->size(); ++i) {
    const auto stream = (*held_out)->Sequence(i);
    ASSERT_TRUE(stream.ok());
    EXPECT_EQ(stream->size(), 100);
    ExpectTargetsInsideDocuments(*stream);
    for (const int32_t id : stream->tokens) {
      EXPECT_TRUE(id == 0 || held_out_ids.insert(id).second) << "twice in the list: " << id;
    }
  }
  std::set<int32_t> trained_ids;
  for (const uint64_t seed : {1, 2}) {
    const auto training = Open({.sequence_length = kLength, .split = split, .seed = seed});
    const int64_t sequences = training->tokens_per_epoch() / kLength + 1;
    for (int64_t n = 0; n < sequences; ++n) {
      const PackedStream stream = Get(*training, n);
      for (const int32_t id : stream.tokens) {
        EXPECT_EQ(held_out_ids.count(id), 0u);
        trained_ids.insert(id);
      }
    }
  }
  EXPECT_EQ(static_cast<int64_t>(held_out_ids.size() + trained_ids.size()),
            file_->info().token_count);
}

TEST_F(TokenSequencesTest, LossMaskBelongsToTheTarget) {
  const auto tokenizer = MakeIdTokenizer(100, -1, 0);
  auto writer = TokenFileWriter::Create(folder_ / "masked.tokens", **tokenizer, true);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->AddDocument({10, 11, 12, 13, 14, 15}, {1, 0, 0, 1, 1, 0}).ok());
  ASSERT_TRUE((*writer)->Finish().ok());
  auto file = TokenFileReader::Open(folder_ / "masked.tokens");
  ASSERT_TRUE(file.ok());
  const auto sequences = TokenSequences::Create(*std::move(file), {.sequence_length = 3});
  ASSERT_TRUE(sequences.ok());
  EXPECT_THAT(Get(**sequences, 0).loss_weights, ElementsAre(0, 0, 1));
  EXPECT_THAT(Get(**sequences, 1).loss_weights, ElementsAre(1, 0, 0));
  EXPECT_THAT(Get(**sequences, 0).targets, ElementsAre(11, 12, 13));
}

TEST_F(TokenSequencesTest, DocumentLongerThanASequenceIsCutAndKeepsItsTargets) {
  const auto file = MakeTokenFile(folder_ / "long.tokens", CountingDocuments(3, 1000, 2));
  for (const bool whole : {false, true}) {
    const auto sequences = TokenSequences::Create(
        file, {.sequence_length = 16, .keep_documents_whole = whole, .seed = 1});
    ASSERT_TRUE(sequences.ok());
    const PackedStream first = Get(**sequences, 0);
    ASSERT_EQ(first.segments.size(), 1u);
    EXPECT_EQ(first.targets.back(), first.tokens.back() + 1);
    EXPECT_EQ(first.loss_weights.back(), 1);
    EXPECT_EQ(Get(**sequences, 1).tokens.front(), first.tokens.back() + 1);
  }
}

TEST_F(TokenSequencesTest, ThreadsMayShareOneStream) {
  for (const bool whole : {false, true}) {
    const TokenSequencesOptions options = {
        .sequence_length = kLength, .keep_documents_whole = whole, .seed = 3};
    const auto alone = Open(options);
    const auto shared = Open(options);
    std::vector<PackedStream> found(400);
    std::vector<std::thread> threads;
    for (int64_t first = 0; first < 4; ++first) {
      threads.emplace_back([&, first] {
        for (int64_t n = first; n < 400; n += 4) found[n] = Get(*shared, 4 * n);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (int64_t n = 0; n < 400; ++n) EXPECT_TRUE(found[n] == Get(*alone, 4 * n)) << n;
  }
}

TEST_F(TokenSequencesTest, ImpossibleOptionsAreRefused) {
  EXPECT_FALSE(TokenSequences::Create(file_, {.sequence_length = 0}).ok());
  EXPECT_FALSE(
      TokenSequences::Create(file_, {.sequence_length = 8, .split = {.held_out_fraction = 1.0}})
          .ok());
  EXPECT_THAT(HeldOutSequences::Create(file_, {}, 8).status().ToString(),
              HasSubstr("no document is held out"));
  const SourcePosition beyond = {.pending = {{.number = 3, .begin = 0, .count = 5000}},
                                 .next_document = 4};
  EXPECT_THAT(
      TokenSequences::Create(file_, {.sequence_length = 8, .start = beyond}).status().ToString(),
      HasSubstr("is not the one the run began with"));
  EXPECT_FALSE(UnflattenPosition({}).ok());
  EXPECT_FALSE(UnflattenPosition({1, 2}).ok());
}

}  // namespace
}  // namespace salamander
