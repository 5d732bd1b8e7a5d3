// Runs under mpirun with three ranks.
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/checkpoint/checkpoint.h"
#include "model/parallel/mpi_communicator.h"
#include "tests/storage/full_disk.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

using testing::HasSubstr;

MpiEnvironment* environment = nullptr;  // main's

class CheckpointRanksTest : public testing::Test {
 protected:
  CheckpointRanksTest() : ranks_(environment->world()) {
    std::string pattern = testing::TempDir() + "checkpoint_ranks_XXXXXX";
    if (ranks_.rank() == 0) mkdtemp(pattern.data());
    directory_ = ranks_.AllGather(pattern)->front();
    path_ = directory_ + "/step-00000001";
  }
  ~CheckpointRanksTest() override {
    EXPECT_TRUE(ranks_.Barrier().ok());
    if (ranks_.rank() == 0) std::filesystem::remove_all(directory_);
  }

  // Rows of the matrix that this rank owns: 0, 1 to 3, 4 and 5.
  std::vector<TensorPiece> Pieces() const {
    const int64_t begins[] = {0, 1, 4, 6};
    const int64_t begin = begins[ranks_.rank()];
    const int64_t count = begins[ranks_.rank() + 1] - begin;
    std::vector<TensorPiece> pieces = {
        {"matrix", {6, 5}, begin, matrix_.View().Rows(begin, count)}};
    if (ranks_.rank() == 2) pieces.push_back({"vector", {7}, 0, vector_.View()});
    return pieces;
  }

  Communicator& ranks_;
  TestTensor matrix_ = TestTensor::Normal(DType::kFloat32, {6, 5}, 1);
  TestTensor vector_ = TestTensor::Normal(DType::kFloat32, {7}, 2);
  std::string directory_, path_;
};

TEST_F(CheckpointRanksTest, EveryRankReadsWholeWhatAllWroteInRows) {
  ASSERT_TRUE(WriteCheckpoint(path_, Pieces(), {{"note", "x"}}, ranks_).ok());
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  TestTensor matrix(DType::kFloat32, {6, 5}), vector(DType::kFloat32, {7});
  ASSERT_TRUE(checkpoint->Read("matrix", matrix.View()).ok());
  ASSERT_TRUE(checkpoint->Read("vector", vector.View()).ok());
  EXPECT_TRUE(BitwiseEqual(matrix.View(), matrix_.View()));
  EXPECT_TRUE(BitwiseEqual(vector.View(), vector_.View()));
  EXPECT_TRUE(checkpoint->Verify().ok());
}

TEST_F(CheckpointRanksTest, AFullDiskOnOneRankFailsEveryRankAndLeavesNothing) {
  absl::Status status;
  {
    std::optional<FileSizeLimit> limit;
    if (ranks_.rank() == 1) limit.emplace(500);
    status = WriteCheckpoint(path_, Pieces(), {}, ranks_);
  }
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr("shard-00001-of-00003.h5"));
  ASSERT_TRUE(ranks_.Barrier().ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(CheckpointRanksTest, AWriterThatIsCancelledFailsEveryRankAndLeavesNothing) {
  {
    auto writer = CheckpointWriter::Begin(path_, ranks_);
    ASSERT_TRUE(writer.ok()) << writer.status();
    if (ranks_.rank() == 1) writer->Cancel();
    const absl::Status written = writer->WriteShard(Pieces());
    EXPECT_EQ(absl::IsCancelled(written), ranks_.rank() == 1) << written;
    EXPECT_FALSE(writer->Publish(written, {}, ranks_).ok());
  }
  ASSERT_TRUE(ranks_.Barrier().ok());
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(CheckpointRanksTest, RowsThatNoRankWroteFailEveryRank) {
  std::vector<TensorPiece> pieces = Pieces();
  if (ranks_.rank() == 1) pieces.clear();
  const absl::Status status = WriteCheckpoint(path_, pieces, {}, ranks_);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr("tensor matrix: rows 1 on are missing"));
  ASSERT_TRUE(ranks_.Barrier().ok());
  EXPECT_FALSE(std::filesystem::exists(path_));
}

}  // namespace
}  // namespace salamander

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto environment = salamander::MpiEnvironment::Start();
  if (!environment.ok() || (*environment)->world().size() != 3) return 2;
  salamander::environment = environment->get();
  return RUN_ALL_TESTS();
}
