#include "data/recall/recall.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/data/data_test_support.h"

namespace salamander {
namespace {

using testing::HasSubstr;

const AssociativeRecallOptions kAssociative = {.pairs = 8,
                                               .queries = 5,
                                               .keys = {100, 140},
                                               .values = {200, 230},
                                               .fillers = {300, 330},
                                               .seed = 4};

NeedleRecallOptions NeedleOptions() {
  return {.before_key = {2001, 2002},
          .between = {2003},
          .after = {2004},
          .key_tokens = 2,
          .value_tokens = 3,
          .distractors = 2,
          .ids = {1000, 1050},
          .seed = 4};
}

class RecallTest : public testing::Test {
 protected:
  std::shared_ptr<const RecallTask> Needle(const NeedleRecallOptions& options) {
    auto task = MakeNeedleRecall(text_, options);
    EXPECT_TRUE(task.ok()) << task.status();
    return *std::move(task);
  }

  // An exact solver: what followed the question's words and key where they stood first.
  static void ExpectSolvable(const PackedStream& sample, int64_t question_tokens,
                             int64_t value_tokens) {
    const int64_t size = sample.size();
    const int64_t question = size - (value_tokens - 1) - question_tokens;
    const auto from = sample.tokens.begin();
    const auto found =
        std::search(from, from + question, from + question, from + question + question_tokens);
    ASSERT_NE(found, from + question) << "the needle is not in the text";
    const auto positions = AnswerPositions(sample);
    ASSERT_EQ(static_cast<int64_t>(positions.size()), value_tokens);
    for (int64_t v = 0; v < value_tokens; ++v) {
      EXPECT_EQ(positions[v], question + question_tokens - 1 + v);
      EXPECT_EQ(sample.targets[positions[v]], *(found + question_tokens + v));
    }
  }

  const TemporaryFolder folder_;
  const std::shared_ptr<const TokenFileReader> text_ =
      MakeTokenFile(folder_ / "text.tokens", CountingDocuments(40, 20, 1), 4096);
};

TEST_F(RecallTest, AssociativeSamplesAreSolvableByLookup) {
  const auto task = MakeAssociativeRecall(kAssociative, 512);
  ASSERT_TRUE(task.ok()) << task.status();
  for (const int64_t length : {26, 27, 100, 333}) {
    for (int64_t index = 0; index < 50; ++index) {
      const auto sample = (*task)->Sample({.index = index, .length = length});
      ASSERT_TRUE(sample.ok()) << sample.status();
      ASSERT_EQ(sample->size(), length);
      ASSERT_EQ(sample->segments.size(), 1u);
      const auto positions = AnswerPositions(*sample);
      ASSERT_EQ(positions.size(), 5u);
      for (const int64_t position : positions) {
        ASSERT_GE(position, 16) << "a pair is asked before all are given";
        const auto key =
            std::find(sample->tokens.begin(), sample->tokens.end(), sample->tokens[position]);
        EXPECT_LT(key - sample->tokens.begin(), 16);
        EXPECT_EQ(sample->targets[position], *(key + 1));
      }
    }
  }
}

TEST_F(RecallTest, AssociativeKeysAreDistinctAndRangesKept) {
  const auto task = MakeAssociativeRecall(kAssociative, 512);
  ASSERT_TRUE(task.ok());
  for (int64_t index = 0; index < 50; ++index) {
    const auto sample = (*task)->Sample({.index = index, .length = 64});
    ASSERT_TRUE(sample.ok());
    std::set<int32_t> keys;
    for (int pair = 0; pair < 8; ++pair) {
      const int32_t key = sample->tokens[2 * pair];
      EXPECT_TRUE(key >= 100 && key < 140 && keys.insert(key).second) << key;
      const int32_t value = sample->tokens[2 * pair + 1];
      EXPECT_TRUE(value >= 200 && value < 230) << value;
    }
  }
}

TEST_F(RecallTest, NeedlesAreSolvableByLookup) {
  const auto task = Needle(NeedleOptions());
  EXPECT_EQ(task->min_length(), 3 * 9 + 5 + 2 + 1);
  for (const int64_t length : {int64_t{35}, int64_t{60}, int64_t{700}, int64_t{2000}}) {
    for (int64_t index = 0; index < 30; ++index) {
      const auto sample = task->Sample({.index = index, .length = length, .depth = index / 29.0});
      ASSERT_TRUE(sample.ok()) << sample.status();
      ASSERT_EQ(sample->size(), length);
      ASSERT_EQ(sample->segments.size(), 1u);
      ExpectSolvable(*sample, 5, 3);
    }
  }
}

TEST_F(RecallTest, NeedleLiesAtItsDepth) {
  NeedleRecallOptions options = NeedleOptions();
  options.distractors = 0;
  const auto task = Needle(options);
  const int64_t length = 500;
  const int64_t text_tokens = length - 9 - 5 - 2;
  for (const double depth : {0.0, 0.25, 0.5, 1.0}) {
    const auto sample = task->Sample({.length = length, .depth = depth});
    ASSERT_TRUE(sample.ok());
    const auto needle = std::find(sample->tokens.begin(), sample->tokens.end(), 2001);
    EXPECT_EQ(needle - sample->tokens.begin(),
              std::llround(depth * static_cast<double>(text_tokens)));
  }
}

TEST_F(RecallTest, SamplesArePureAndUsesDiffer) {
  std::vector<std::shared_ptr<const RecallTask>> tasks = {Needle(NeedleOptions())};
  tasks.push_back(*MakeAssociativeRecall(kAssociative, 512));
  for (const auto& task : tasks) {
    const RecallRequest request = {.index = 5, .length = 200, .depth = 0.3};
    const auto first = task->Sample(request);
    ASSERT_TRUE(first.ok());
    ASSERT_TRUE(task->Sample({.index = 6, .length = 90}).ok());
    EXPECT_EQ(task->Sample(request)->tokens, first->tokens);
    RecallRequest evaluation = request;
    evaluation.use = RecallUse::kEvaluation;
    EXPECT_NE(task->Sample(evaluation)->tokens, first->tokens);
    RecallRequest next = request;
    next.index = 6;
    EXPECT_NE(task->Sample(next)->tokens, first->tokens);
  }
}

TEST_F(RecallTest, HeldOutTextIsNotTrainingText) {
  NeedleRecallOptions options = NeedleOptions();
  options.split = {.held_out_fraction = 0.25, .split_seed = 8};
  std::set<int32_t> ids[2];
  for (const DataSplit part : {DataSplit::kTraining, DataSplit::kHeldOut}) {
    options.part = part;
    const auto task = Needle(options);
    for (int64_t index = 0; index < 40; ++index) {
      const auto sample = task->Sample({.index = index, .length = 300});
      ASSERT_TRUE(sample.ok());
      for (const int32_t id : sample->tokens) {
        if (id < 1000) ids[part == DataSplit::kHeldOut].insert(id);
      }
    }
  }
  for (const int32_t id : ids[1]) EXPECT_EQ(ids[0].count(id), 0u) << id;
  EXPECT_FALSE(ids[1].empty());
}

TEST_F(RecallTest, TrainingSourceGoesOnWhereItStopped) {
  const std::shared_ptr<const RecallTask> task = *MakeAssociativeRecall(kAssociative, 512);
  RecallSequencesOptions options = {.sequence_length = 100, .sample_length = 40, .seed = 3};
  const auto uninterrupted = MakeRecallSequences(task, options);
  ASSERT_TRUE(uninterrupted.ok());
  options.start = (*uninterrupted)->PositionAt(7);
  EXPECT_EQ(options.start.next_document, 14);
  const auto resumed = MakeRecallSequences(task, options);
  ASSERT_TRUE(resumed.ok());
  for (int64_t n = 0; n < 5; ++n) {
    const auto sequence = (*resumed)->Sequence(n);
    ASSERT_TRUE(sequence.ok());
    EXPECT_EQ(sequence->size(), 100);
    EXPECT_EQ(sequence->segments.size(), 3u) << "two samples and padding";
    EXPECT_EQ(sequence->weighted_targets(), 10);
    EXPECT_EQ(sequence->tokens, (*uninterrupted)->Sequence(7 + n)->tokens);
  }
}

TEST_F(RecallTest, EvaluationCoversLengthsAndDepths) {
  const auto evaluation =
      RecallEvaluation::Create(Needle(NeedleOptions()), {64, 256}, {0.0, 0.5, 1.0}, 4);
  ASSERT_TRUE(evaluation.ok()) << evaluation.status();
  ASSERT_EQ((*evaluation)->size(), 24);
  for (int64_t i = 0; i < 24; ++i) {
    const RecallCell cell = (*evaluation)->Cell(i);
    EXPECT_EQ(cell.length, i < 12 ? 64 : 256);
    EXPECT_EQ(cell.depth, (i / 4 % 3) * 0.5);
    const auto sample = (*evaluation)->Sample(i);
    ASSERT_TRUE(sample.ok());
    EXPECT_EQ(sample->size(), cell.length);
    ExpectSolvable(*sample, 5, 3);
  }
}

TEST_F(RecallTest, ImpossibleTasksAreRefused) {
  AssociativeRecallOptions options = kAssociative;
  EXPECT_THAT(MakeAssociativeRecall(options, 320).status().ToString(), HasSubstr("fillers"));
  options.queries = 9;
  EXPECT_FALSE(MakeAssociativeRecall(options, 512).ok());
  options = kAssociative;
  options.values = {130, 150};
  EXPECT_THAT(MakeAssociativeRecall(options, 512).status().ToString(), HasSubstr("overlap"));
  const std::shared_ptr<const RecallTask> task = *MakeAssociativeRecall(kAssociative, 512);
  EXPECT_FALSE(task->Sample({.length = 25}).ok());
  EXPECT_THAT(MakeRecallSequences(task, {.sequence_length = 20}).status().ToString(),
              HasSubstr("at least 26"));
  EXPECT_FALSE(RecallEvaluation::Create(task, {100, 20}, {0.5}, 1).ok());
  EXPECT_FALSE(RecallEvaluation::Create(task, {100}, {1.5}, 1).ok());
  NeedleRecallOptions needle = NeedleOptions();
  needle.ids = {4000, 5000};
  EXPECT_THAT(MakeNeedleRecall(text_, needle).status().ToString(), HasSubstr("text.tokens"));
  // Two ids and one key token: a second needle always has the asked key, or the text does.
  needle = {.key_tokens = 1, .value_tokens = 1, .distractors = 20, .ids = {1000, 1002}};
  EXPECT_THAT(Needle(needle)->Sample({.length = 100}).status().ToString(),
              HasSubstr("occurs more than once"));
}

}  // namespace
}  // namespace salamander
