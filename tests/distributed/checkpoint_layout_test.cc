// On two ranks: what any number of ranks wrote, any number reads.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/checkpoint/checkpoint.h"
#include "tests/distributed/world.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

using testing::HasSubstr;

class CheckpointLayoutTest : public testing::Test {
 protected:
  // The model's weights, shared out over so many ranks.
  std::vector<TensorPiece> Share(int rank, int ranks) const {
    std::vector<TensorPiece> all;
    for (const ParameterSpec& spec : model_.weights.layout.specs())
      all.push_back({"weights/" + spec.name, spec.shape, 0, model_.weights.buffer.View(spec)});
    return ShareOut(all, rank, ranks);
  }
  absl::Status WriteOnAllRanks(const std::string& path) {
    return WriteCheckpoint(path, Share(World().rank(), World().size()), {{"model.json", "{}"}},
                           World());
  }
  void ExpectHoldsTheModel(const std::string& path) {
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->tensors().size(), model_.weights.layout.specs().size());
    auto read = ParameterBuffer::Create(model_.weights.layout, DType::kFloat32);
    ASSERT_TRUE(read.ok());
    for (const ParameterSpec& spec : model_.weights.layout.specs()) {
      const absl::Status status = checkpoint->Read("weights/" + spec.name, read->View(spec));
      EXPECT_TRUE(status.ok()) << status;
    }
    EXPECT_TRUE(BitwiseEqual(read->Flat(), model_.weights.buffer.Flat()));
    EXPECT_EQ(*checkpoint->Metadata("model.json"), "{}");
  }

  const TinyModel model_{TinyHybridConfig(3, {1}), DType::kFloat32, 21};
  const SharedDirectory directory_;
};

TEST_F(CheckpointLayoutTest, WhatTwoRanksWriteEitherReadsWhole) {
  ASSERT_EQ(World().size(), 2);
  const std::string path = directory_ / "step-00000001";
  ASSERT_TRUE(WriteOnAllRanks(path).ok());
  EXPECT_TRUE(std::filesystem::exists(path + "/shard-00000-of-00002.h5"));
  EXPECT_TRUE(std::filesystem::exists(path + "/shard-00001-of-00002.h5"));
  ExpectHoldsTheModel(path);
}

TEST_F(CheckpointLayoutTest, WhatOneRankWritesTwoRead) {
  const std::string path = directory_ / "step-00000002";
  const auto alone = SingleRankCommunicator();
  absl::Status written;
  if (World().rank() == 0) {
    written = WriteCheckpoint(path, Share(0, 1), {{"model.json", "{}"}}, *alone);
  }
  ASSERT_TRUE(AgreeOnStatus(World(), written).ok()) << written;
  ExpectHoldsTheModel(path);
}

TEST_F(CheckpointLayoutTest, SharesAreDisjointCompleteAndEven) {
  for (const int ranks : {1, 2, 3, 7}) {
    std::set<std::string> names;
    std::vector<int64_t> bytes;
    int64_t largest = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      bytes.push_back(0);
      for (const TensorPiece& piece : Share(rank, ranks)) {
        EXPECT_TRUE(names.insert(piece.name).second) << piece.name << " is written twice";
        bytes.back() += piece.rows.bytes();
        largest = std::max(largest, piece.rows.bytes());
      }
    }
    EXPECT_EQ(names.size(), model_.weights.layout.specs().size()) << ranks << " ranks";
    const auto [least, most] = std::minmax_element(bytes.begin(), bytes.end());
    EXPECT_LE(*most - *least, largest) << ranks << " ranks";
  }
}

TEST_F(CheckpointLayoutTest, APathThatCannotBeMadeFailsEveryRank) {
  const std::string file = directory_ / "file";
  if (World().rank() == 0) std::ofstream(file) << "x";
  ASSERT_TRUE(World().Barrier().ok());
  const absl::Status status = WriteOnAllRanks(file + "/step-00000003");
  EXPECT_THAT(status.message(), HasSubstr(file));
}

TEST_F(CheckpointLayoutTest, AShardThatOneRankCannotWriteFailsEveryRankAndLeavesNothing) {
  std::vector<TensorPiece> pieces = Share(World().rank(), World().size());
  // HDF5 takes a tensor's name for a path: one below a tensor cannot be made.
  if (World().rank() == 1) {
    TensorPiece below = pieces.front();
    below.name = pieces.front().name + "/below";
    pieces.push_back(below);
  }
  const std::string path = directory_ / "step-00000004";
  const absl::Status status = WriteCheckpoint(path, pieces, {}, World());
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr("shard-00001-of-00002.h5"));
  ASSERT_TRUE(World().Barrier().ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
  ASSERT_TRUE(World().Barrier().ok());
  // And the next write finds nothing in its way.
  ASSERT_TRUE(WriteOnAllRanks(path).ok());
  ExpectHoldsTheModel(path);
}

}  // namespace
}  // namespace salamander
