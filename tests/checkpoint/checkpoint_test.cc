#include "model/checkpoint/checkpoint.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/match.h"

#include "data/storage/atomic_path.h"
#include "data/storage/file_bytes.h"
#include "data/storage/hdf5_file.h"
#include "model/checkpoint/manifest.h"
#include "tests/storage/full_disk.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

using testing::HasSubstr;

class CheckpointTest : public testing::Test {
 protected:
  CheckpointTest() {
    std::string pattern = testing::TempDir() + "checkpoint_XXXXXX";
    directory_ = mkdtemp(pattern.data());
    path_ = directory_ + "/step-00000007";
  }
  ~CheckpointTest() override { std::filesystem::remove_all(directory_); }

  std::vector<TensorPiece> Pieces() const {
    return {{"weights/matrix", {6, 5}, 0, matrix_.View()},
            {"weights/vector", {9}, 0, vector_.View()}};
  }
  absl::Status Write() { return WriteCheckpoint(path_, Pieces(), {{"model.json", "{}"}}, *ranks_); }

  // Flips one byte at `position` from the start, or from the end where it is negative.
  static void FlipByte(const std::string& file, int64_t position) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(position, position < 0 ? std::ios::end : std::ios::beg);
    const auto at = stream.tellg();
    const char byte = static_cast<char>(stream.get() ^ 0x10);
    stream.seekp(at);
    stream.put(byte);
  }
  std::string Shard() const { return path_ + "/shard-00000-of-00001.h5"; }

  std::unique_ptr<Communicator> ranks_ = SingleRankCommunicator();
  TestTensor matrix_ = TestTensor::Normal(DType::kFloat32, {6, 5}, 1);
  TestTensor vector_ = TestTensor::Normal(DType::kFloat64, {9}, 2);
  std::string directory_, path_;
};

TEST_F(CheckpointTest, ReadsBackTheBitsItWrote) {
  ASSERT_TRUE(Write().ok());
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  TestTensor matrix(DType::kFloat32, {6, 5}), vector(DType::kFloat64, {9});
  ASSERT_TRUE(checkpoint->Read("weights/matrix", matrix.View()).ok());
  ASSERT_TRUE(checkpoint->Read("weights/vector", vector.View()).ok());
  EXPECT_TRUE(BitwiseEqual(matrix.View(), matrix_.View()));
  EXPECT_TRUE(BitwiseEqual(vector.View(), vector_.View()));
  EXPECT_EQ(*checkpoint->Metadata("model.json"), "{}");
  EXPECT_TRUE(checkpoint->Verify().ok());
}

TEST_F(CheckpointTest, MissingMisshapedAndForeignTensorsAreNamed) {
  ASSERT_TRUE(Write().ok());
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok());
  TestTensor wrong(DType::kFloat32, {5, 6}), wrong_type(DType::kFloat64, {6, 5});
  EXPECT_THAT(checkpoint->Read("weights/none", wrong.View()).message(),
              HasSubstr("no tensor weights/none"));
  EXPECT_THAT(checkpoint->Read("weights/matrix", wrong.View()).message(),
              HasSubstr("float32[6, 5]; expected float32[5, 6]"));
  EXPECT_THAT(checkpoint->Read("weights/matrix", wrong_type.View()).message(),
              HasSubstr("expected float64[6, 5]"));
  EXPECT_THAT(checkpoint->Metadata("recipe.yaml").status().message(),
              HasSubstr("holds no recipe.yaml"));
}

TEST_F(CheckpointTest, AFlippedByteOfDataIsFoundAndItsTensorNamed) {
  ASSERT_TRUE(Write().ok());
  // HDF5 lays raw data at the end of small files; flip bytes until one lies in a tensor.
  const auto size = static_cast<int64_t>(std::filesystem::file_size(Shard()));
  int found = 0;
  for (int64_t position = 0; position < size; position += 3) {
    FlipByte(Shard(), position);
    const auto checkpoint = Checkpoint::Open(path_);
    ASSERT_TRUE(checkpoint.ok());
    TestTensor matrix(DType::kFloat32, {6, 5});
    const absl::Status status = checkpoint->Read("weights/matrix", matrix.View());
    if (status.ok()) {
      EXPECT_TRUE(BitwiseEqual(matrix.View(), matrix_.View())) << "byte " << position;
    } else {
      EXPECT_THAT(status.message(), HasSubstr("weights/matrix"));
      found += absl::StrContains(status.message(), "checksum") ? 1 : 0;
    }
    FlipByte(Shard(), position);
  }
  EXPECT_GE(found, 30);  // 120 bytes of data, every third flipped
}

TEST_F(CheckpointTest, AFlippedByteOfManifestOrTextIsRefused) {
  ASSERT_TRUE(Write().ok());
  const std::string manifest = path_ + "/manifest.json";
  const auto size = static_cast<int64_t>(std::filesystem::file_size(manifest));
  for (int64_t position = 0; position < size - 1; ++position) {
    FlipByte(manifest, position);
    EXPECT_FALSE(Checkpoint::Open(path_).ok()) << "byte " << position;
    FlipByte(manifest, position);
  }
  FlipByte(path_ + "/metadata/model.json", 0);
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_THAT(checkpoint->Metadata("model.json").status().message(), HasSubstr("checksum"));
}

TEST_F(CheckpointTest, MissingAndTruncatedShardsAreNamed) {
  ASSERT_TRUE(Write().ok());
  std::filesystem::resize_file(Shard(), 100);
  EXPECT_THAT(Checkpoint::Open(path_).status().message(),
              HasSubstr("shard-00000-of-00001.h5: 100 bytes; the manifest says"));
  std::filesystem::remove(Shard());
  EXPECT_THAT(Checkpoint::Open(path_).status().message(), HasSubstr("the shard is missing"));
  EXPECT_THAT(Checkpoint::Open(directory_).status().message(), HasSubstr("this is no checkpoint"));
}

TEST_F(CheckpointTest, AnExistingCheckpointIsNotReplaced) {
  ASSERT_TRUE(Write().ok());
  EXPECT_FALSE(Write().ok());
  EXPECT_TRUE(Checkpoint::Open(path_)->Verify().ok());
}

TEST_F(CheckpointTest, AWriterThatDiesLeavesNothingUnderTheName) {
  const pid_t child = fork();
  if (child == 0) {
    // Long enough that it is killed on the way.
    std::vector<TensorPiece> pieces = Pieces();
    for (int index = 0; index < 20000; ++index)
      pieces.push_back({"weights/extra" + std::to_string(index), {6, 5}, 0, matrix_.View()});
    const absl::Status status = WriteCheckpoint(path_, pieces, {}, *ranks_);
    _exit(status.ok() ? 0 : 1);
  }
  usleep(20000);
  kill(child, SIGKILL);
  int code = 0;
  waitpid(child, &code, 0);
  ASSERT_TRUE(WIFSIGNALED(code)) << "the writer finished before it could be killed";
  EXPECT_FALSE(std::filesystem::exists(path_));
  EXPECT_TRUE(ListCheckpoints(directory_)->empty());
  EXPECT_TRUE(Write().ok());
  EXPECT_EQ(ListCheckpoints(directory_)->size(), 1U);
}

TEST_F(CheckpointTest, WhatAKilledWriterLeftGoesWithTheNextWrite) {
  const pid_t child = fork();
  if (child == 0) {
    auto dead = AtomicDirectory::Begin(path_);  // dies between writing and renaming
    _exit(dead.ok() && WriteFileBytes(dead->temporary_path() + "/shard", "1").ok() ? 0 : 1);
  }
  int code = 0;
  waitpid(child, &code, 0);
  ASSERT_EQ(code, 0);
  ASSERT_FALSE(std::filesystem::is_empty(directory_));
  ASSERT_TRUE(Write().ok());
  const std::filesystem::directory_iterator entries(directory_);
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

TEST_F(CheckpointTest, AFullDiskLeavesNothingAndIsSaid) {
  TestTensor large(DType::kFloat32, {4000});
  const std::vector<TensorPiece> pieces = {{"weights/large", {4000}, 0, large.View()}};
  absl::Status status;
  {
    const FileSizeLimit limit(8000);
    status = WriteCheckpoint(path_, pieces, {}, *ranks_);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(status.message(), HasSubstr("free space"));
  EXPECT_TRUE(std::filesystem::is_empty(directory_));
}

TEST_F(CheckpointTest, OtherProgramsSeeEveryTensorWhole) {
  ASSERT_TRUE(Write().ok());
  auto view = Hdf5File::OpenForReading(path_ + "/checkpoint.h5");
  ASSERT_TRUE(view.ok()) << view.status();
  auto dataset = view->OpenDataset("/weights/matrix");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  TestTensor matrix(DType::kFloat32, {6, 5});
  ASSERT_TRUE(dataset->Read(StoredType::kFloat32, 0, 6, matrix.View().raw()).ok());
  EXPECT_TRUE(BitwiseEqual(matrix.View(), matrix_.View()));
}

TEST_F(CheckpointTest, AFailedWriteLeavesNothing) {
  // A path below a regular file cannot be made, whoever asks.
  std::ofstream(directory_ + "/file") << "x";
  const absl::Status status =
      WriteCheckpoint(directory_ + "/file/step-00000001", Pieces(), {}, *ranks_);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr(directory_ + "/file"));
}

TEST_F(CheckpointTest, ListsByStepAndPrunesButNeverTheNewest) {
  for (const int64_t step : {5, 20, 100, 30}) {
    ASSERT_TRUE(
        WriteCheckpoint(directory_ + "/" + CheckpointName(step), Pieces(), {}, *ranks_).ok());
  }
  ASSERT_TRUE(PruneCheckpoints(directory_, 1, 20).ok());
  EXPECT_THAT(*ListCheckpoints(directory_),
              testing::ElementsAre(HasSubstr("step-00000020"), HasSubstr("step-00000100")));
  ASSERT_TRUE(PruneCheckpoints(directory_, 0, 0).ok());
  EXPECT_THAT(*ListCheckpoints(directory_), testing::ElementsAre(HasSubstr("step-00000100")));
}

TEST(ManifestTest, PiecesOfSeveralRanksMakeOneTensor) {
  Manifest first, second;
  first.shard_bytes["a"] = second.shard_bytes["b"] = 100;
  first.tensors["t"] = {DType::kFloat32, {5, 2}, {{"a", 3, 2, "x"}}};
  second.tensors["t"] = {DType::kFloat32, {5, 2}, {{"b", 0, 3, "y"}}};
  EXPECT_THAT(CheckManifest(ManifestText(first)).message(),
              HasSubstr("tensor t: rows 0 on are missing"));
  ASSERT_TRUE(first.Merge(second).ok());
  EXPECT_TRUE(CheckManifest(ManifestText(first)).ok());
  ASSERT_TRUE(first.Merge(second).ok());
  EXPECT_THAT(CheckManifest(ManifestText(first)).message(), HasSubstr("written twice"));
}

TEST(ManifestTest, ImpossibleSizesAndDeepTextsAreRefused) {
  Manifest manifest;
  manifest.shard_bytes["a"] = 100;
  manifest.tensors["t"] = {DType::kFloat32, {5, 6}, {{"a", 0, 5, "x"}}};
  EXPECT_THAT(CheckManifest(ManifestText(manifest)).message(),
              HasSubstr("5 rows do not fit into shard a of 100 bytes"));
  manifest.tensors["t"].shape = {5, int64_t{1} << 40, int64_t{1} << 40};
  EXPECT_THAT(CheckManifest(ManifestText(manifest)).message(), HasSubstr("too large to exist"));
  EXPECT_FALSE(CheckManifest(std::string(1000000, '[')).ok());
  EXPECT_FALSE(CheckManifest("{\"format\":7}").ok());
  EXPECT_FALSE(CheckManifest("").ok());
}

TEST(ManifestTest, RefusesNamesThatLeaveTheDirectory) {
  Manifest manifest;
  manifest.shard_bytes["../../etc"] = 1;
  EXPECT_THAT(CheckManifest(ManifestText(manifest)).message(), HasSubstr("../../etc"));
}

TEST(ShareOutTest, GivesEveryTensorToOneRankByBytes) {
  TestTensor large(DType::kFloat32, {100}), small(DType::kFloat32, {60});
  const std::vector<TensorPiece> all = {
      {"a", {100}, 0, large.View()}, {"b", {60}, 0, small.View()}, {"c", {60}, 0, small.View()}};
  const auto first = ShareOut(all, 0, 2), second = ShareOut(all, 1, 2);
  ASSERT_EQ(first.size(), 1U);
  ASSERT_EQ(second.size(), 2U);
  EXPECT_EQ(first[0].name, "a");
}

}  // namespace
}  // namespace salamander
