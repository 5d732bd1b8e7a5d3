// A checkpoint written beside other work: on as many ranks as there are.
#include "trainer/run/background_save.h"

#include <chrono>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "tests/distributed/world.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr int64_t kRows = 600, kColumns = 1000;  // of each rank: several blocks

class BackgroundSaveTest : public testing::Test {
 protected:
  int64_t first_row() const { return World().rank() * kRows; }
  std::vector<TensorPiece> Pieces() const {
    return {{"matrix", {kRows * World().size(), kColumns}, first_row(), values_.View()}};
  }
  absl::StatusOr<std::unique_ptr<BackgroundSave>> Begin(const std::vector<TensorPiece>& pieces) {
    return BackgroundSave::Begin(path_, pieces, {{"note", "x"}}, World(), {}, memory_);
  }
  static void WaitUntilWritten(const BackgroundSave& save) {
    while (true) {
      const auto is_written = save.IsWritten(World());
      ASSERT_TRUE(is_written.ok()) << is_written.status();
      if (*is_written) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  void ExpectHolds(const TestTensor& values) const {
    const auto checkpoint = Checkpoint::Open(path_);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    TestTensor read(DType::kFloat32, {kRows, kColumns});
    const absl::Status status =
        checkpoint->ReadPart("matrix", {kRows * World().size(), kColumns},
                             {first_row(), kRows, 0, kColumns}, read.View());
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(BitwiseEqual(read.View(), values.View()));
    EXPECT_EQ(*checkpoint->Metadata("note"), "x");
  }

  const SharedDirectory directory_;
  const std::string path_ = directory_ / "step-00000001";
  StagingMemory memory_;
  TestTensor values_ =
      TestTensor::Normal(DType::kFloat32, {kRows, kColumns}, static_cast<uint64_t>(World().rank()));
};

TEST_F(BackgroundSaveTest, HoldsWhatWasThereWhenItBegan) {
  const TestTensor before = values_;
  auto save = Begin(Pieces());
  ASSERT_TRUE(save.ok()) << save.status();
  for (int64_t index = 0; index < kRows * kColumns; ++index) values_.Set(index, -1.0);
  WaitUntilWritten(**save);
  ASSERT_TRUE(World().Barrier().ok());
  EXPECT_FALSE(std::filesystem::exists(path_)) << "it has its name before all agreed";
  const absl::Status finished = (*save)->Finish(World());
  ASSERT_TRUE(finished.ok()) << finished;
  ExpectHolds(before);
  EXPECT_TRUE(ListCheckpoints(directory_.path())->size() == 1);
}

TEST_F(BackgroundSaveTest, TheNextSaveTakesTheSameMemory) {
  auto first = Begin(Pieces());
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_TRUE((*first)->Finish(World()).ok());
  const int64_t bytes = memory_.bytes();
  EXPECT_GE(bytes, kRows * kColumns * 4);
  values_.Set(3, 7.0);
  auto second =
      BackgroundSave::Begin(directory_ / "step-00000002", Pieces(), {}, World(), {}, memory_);
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_TRUE((*second)->Finish(World()).ok());
  EXPECT_EQ(memory_.bytes(), bytes);
  EXPECT_TRUE(Checkpoint::Open(directory_ / "step-00000002")->Verify().ok());
}

TEST_F(BackgroundSaveTest, AShardThatOneRankCannotWriteFailsEveryRankAndLeavesNothing) {
  std::vector<TensorPiece> pieces = Pieces();
  const int last = World().size() - 1;
  if (World().rank() == last) {
    pieces.push_back(pieces.front());
    pieces.back().name = "matrix/below";  // a tensor's name is no group
  }
  {
    auto save = Begin(pieces);
    ASSERT_TRUE(save.ok()) << save.status();
    WaitUntilWritten(**save);
    const absl::Status status = (*save)->Finish(World());
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("shard-0000", last)));
  }
  ASSERT_TRUE(World().Barrier().ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
  ASSERT_TRUE(World().Barrier().ok());
}

TEST_F(BackgroundSaveTest, WhatIsNotPublishedLeavesNothing) {
  {
    const auto save = Begin(Pieces());
    ASSERT_TRUE(save.ok()) << save.status();
  }
  ASSERT_TRUE(World().Barrier().ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
  ASSERT_TRUE(World().Barrier().ok());
}

TEST_F(BackgroundSaveTest, RanksAgreeOnWhetherThereIsMemory) {
  const bool is_greedy = World().rank() == World().size() - 1;
  EXPECT_TRUE(*HasMemoryForAll(1 << 20, World()));
  EXPECT_FALSE(*HasMemoryForAll(is_greedy ? int64_t{1} << 50 : 1 << 20, World()));
}

}  // namespace
}  // namespace salamander
