// A model on slices of a stream, a slice to each rank, beside itself on one rank that holds the
// whole. Holds for any number of ranks; the build runs it on 1, 2, 3 and 4.
#include <iostream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/layers/attention_split.h"
#include "model/layers/block_selection_shape.h"
#include "tests/distributed/context_ranks.h"

namespace salamander {
namespace {

// Sums that 2, 3 and 4 divide: documents over all ranks, from edge to edge, of one token on either
// side of an edge, and across edges; slices of more than one chunk.
const std::vector<int64_t> kDocuments[] = {
    {144},
    {72, 36, 12, 24},
    {36, 36, 24, 12, 36},
    {47, 1, 23, 1, 35, 1, 36},
    {1, 47, 1, 23, 1, 35, 1, 35},
    {5, 130, 9},
    {20, 1, 50, 33, 40},
    {250, 1, 349},
    {17, 566, 17},
};

// Sums of the same terms in another order, each of at most a few hundred: sqrt(600) roundings in
// root mean square, times what three layers amplify.
constexpr double kBound = 1e-12, kFloatBound = 2e-5;

class ContextParallelTest : public ContextRanks {
 protected:
  void ExpectEqualsOneRank(const TinyModel& model, const PackedStream& stream, double bound,
                           absl::Span<const Recomputation> recomputation = {}) {
    const SliceOutcome whole = Run(model, stream, nullptr);
    const PackedStream slice = Mine(stream);
    const SliceOutcome mine = Run(model, slice, &parallel_, recomputation);
    if (ListsDiffer(model.transformer.config(), stream, mine, whole)) {
      ++streams_with_other_lists_;
      return;
    }
    Note("hidden",
         RelativeRmse(mine.hidden.View(), whole.hidden.View().Rows(FirstRow(stream), slice.size())),
         bound);
    double loss[] = {mine.loss};
    ASSERT_TRUE(World().AllReduceSum(absl::Span<double>(loss)).ok());
    EXPECT_NEAR(loss[0], whole.loss, bound * whole.loss);
    ASSERT_TRUE(World().AllReduceSum(mine.gradients.Flat()).ok());
    for (const ParameterSpec& spec : model.weights.layout.specs()) {
      Note(spec.name, RelativeRmse(mine.gradients.View(spec), whole.gradients.View(spec)), bound);
    }
  }

  // Whether any rank's queries read other blocks than on one rank. The first layer where they do
  // had the same inputs but for rounding.
  static bool ListsDiffer(const ModelConfig& config, const PackedStream& stream,
                          const SliceOutcome& mine, const SliceOutcome& whole) {
    for (size_t layer = 0; layer < mine.lists.size(); ++layer) {
      if (whole.lists[layer].blocks.View().empty()) continue;
      int64_t differing[] = {
          OtherLists(config, stream, mine.lists[layer].blocks, whole.lists[layer])};
      SALAMANDER_CHECK(World().AllReduceMax(absl::Span<int64_t>(differing)).ok());
      if (differing[0] > 0) return true;
    }
    return false;
  }

  // Of this rank's queries in one layer.
  static int64_t OtherLists(const ModelConfig& config, const PackedStream& stream,
                            const TestTensor& blocks, const BlockLists& whole) {
    const BlockSelectionShape shape = SelectionShape(config.softmax.sparse);
    const auto length = static_cast<size_t>(shape.selected_blocks);
    const int64_t key_heads = config.softmax.kv_heads;
    int64_t differing = 0;
    if (blocks.View().empty()) return differing;  // none is sparse, or they were not kept
    const PackedStream slice = Mine(stream);
    for (const Segment& piece : SplitAttention(config.softmax, slice.segments).sparse) {
      for (int64_t i = 0; i < piece.query_count * key_heads; ++i) {
        const int64_t row = piece.query_begin * key_heads + i;
        const auto list = [&](const TestTensor& of, int64_t first) {
          return absl::Span<const int32_t>(of.Elements<int32_t>())
              .subspan(static_cast<size_t>(first * key_heads + row) * length, length);
        };
        const auto own = list(blocks, 0);
        if (DifferingBlocks(own, list(whole.blocks, FirstRow(stream))).empty()) continue;
        ++differing;
        const Segment document = {.query_begin = piece.key_begin,
                                  .query_count = piece.document_length(),
                                  .key_begin = piece.key_begin};
        ExpectCloseScores(whole, shape, document, piece.first_position + i / key_heads,
                          i % key_heads, own, kFloatBound);
      }
    }
    return differing;
  }

  void Note(const std::string& what, double error, double bound) {
    EXPECT_LE(error, bound) << what;
    worst_ = std::max(worst_, error);
  }

  double worst_ = 0;
  int streams_with_other_lists_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Models, ContextParallelTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.name; });

TEST_P(ContextParallelTest, SlicesEqualOneRank) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32}) {
    ModelConfig longer = config();
    longer.max_positions = 1024;
    const TinyModel model(longer, dtype, 11);
    for (const std::vector<int64_t>& documents : kDocuments) {
      SCOPED_TRACE(std::string(Name(dtype)) + " documents " + testing::PrintToString(documents));
      const TinyStream stream(documents, config().vocabulary, 8);
      ExpectEqualsOneRank(model, Pack(stream), dtype == DType::kFloat64 ? kBound : kFloatBound);
    }
    // No two scores are so close in fp64, and few in fp32.
    EXPECT_LE(streams_with_other_lists_, dtype == DType::kFloat64 ? 0 : 2);
    if (World().rank() == 0) {
      std::cout << Name(dtype) << ": largest relative error " << worst_ << ", other blocks in "
                << streams_with_other_lists_ << " streams\n";
    }
    worst_ = 0;
  }
}

TEST_P(ContextParallelTest, RecomputedLayersEqualOneRank) {
  const TinyModel model(config(), DType::kFloat64, 12);
  const TinyStream stream({20, 1, 50, 33, 40}, config().vocabulary, 9);
  for (const Recomputation kind : {Recomputation::kAttention, Recomputation::kFull}) {
    const std::vector<Recomputation> recomputation(config().layers.size(), kind);
    ExpectEqualsOneRank(model, Pack(stream), kBound, recomputation);
  }
}

TEST_P(ContextParallelTest, TwoRunsGiveTheSameBits) {
  const TinyModel model(config(), DType::kFloat32, 13);
  const PackedStream slice = Mine(Pack(TinyStream({5, 130, 9}, config().vocabulary, 7)));
  const SliceOutcome first = Run(model, slice, &parallel_);
  const SliceOutcome second = Run(model, slice, &parallel_);
  EXPECT_TRUE(BitwiseEqual(second.hidden.View(), first.hidden.View()));
  EXPECT_TRUE(BitwiseEqual(second.gradients.Flat(), first.gradients.Flat()));
}

class ContextTrafficTest : public ContextRanks {
 protected:
  // What a forward and a backward over `tokens` tokens send.
  Traffic Sent(const TinyModel& model, int64_t tokens) {
    const Traffic before = parallel_.context().traffic();
    const PackedStream stream = Pack(TinyStream({tokens}, config().vocabulary, 8));
    Run(model, Mine(stream), &parallel_);
    Traffic sent = parallel_.context().traffic();
    for (size_t i = 0; i < sent.size(); ++i) {
      sent[i].calls -= before[i].calls;
      sent[i].payload_bytes -= before[i].payload_bytes;
    }
    return sent;
  }
};

INSTANTIATE_TEST_SUITE_P(Models, ContextTrafficTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.name; });

// A Lightning layer gathers a state each way, whatever the length, or hands it to its neighbour
// where heads forget; a softmax layer gathers keys and values each way and scatters their
// gradients.
TEST_P(ContextTrafficTest, BytesOfALightningLayerDoNotDependOnLength) {
  const TinyModel model(config(), DType::kFloat32, 14);
  int64_t lightning = 0, softmax = 0;
  for (const LayerConfig& layer : config().layers)
    ++(layer.mixer == MixerKind::kLightning ? lightning : softmax);
  const int64_t ranks = World().size(), rank = World().rank();
  const int64_t state_bytes =
      4 * config().lightning.heads * config().lightning.head_dim * config().lightning.head_dim;
  for (const int64_t tokens : {24, 144, 288}) {
    const bool forgets = GetParam().name == "Forgetful" && tokens > 24;
    const int64_t gathered = forgets ? 0 : lightning, shifted = forgets ? lightning : 0;
    const int64_t key_bytes = 4 * tokens * config().softmax.kv_heads * config().softmax.head_dim;
    Traffic expected = {};
    const auto expect = [&](Collective collective, int64_t calls, int64_t bytes) {
      expected[static_cast<size_t>(collective)] = {.calls = calls, .payload_bytes = bytes};
    };
    expect(Collective::kAllGather, 2 * gathered + 4 * softmax,
           2 * gathered * state_bytes * ranks + 4 * softmax * key_bytes);
    expect(Collective::kReduceScatter, 2 * softmax, 2 * softmax * key_bytes);
    const int64_t neighbours = (rank > 0) + (rank + 1 < ranks);
    expect(Collective::kShift, 2 * shifted, shifted * neighbours * state_bytes);
    EXPECT_EQ(Sent(model, tokens), ranks == 1 ? Traffic{} : expected) << tokens << " tokens";
  }
}

}  // namespace
}  // namespace salamander
