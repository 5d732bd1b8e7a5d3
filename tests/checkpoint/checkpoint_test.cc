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
#include "data/storage/checksum.h"
#include "data/storage/file_bytes.h"
#include "data/storage/hdf5_file.h"
#include "model/checkpoint/json_fields.h"
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
  int64_t OffsetOf(const std::string& dataset) const {
    return *Hdf5File::OpenForReading(Shard())->OpenDataset(dataset)->FileOffset();
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

// What version 1 said of the same pieces.
TEST_F(CheckpointTest, ReadsACheckpointOfVersionOne) {
  ASSERT_TRUE(Write().ok());
  const std::string path = path_ + "/manifest.json";
  Json manifest = Json::parse(*ReadFileBytes(path, 1 << 20));
  ASSERT_EQ(manifest["version"], kCheckpointVersion);
  manifest["version"] = 1;
  for (Json& tensor : manifest["tensors"]) {
    for (Json& piece : tensor["pieces"]) {
      ASSERT_EQ(piece["checksums"].size(), 1U);
      piece = {{"shard", piece["shard"]},
               {"row_begin", piece["row_begin"]},
               {"rows", piece["rows"]},
               {"checksum", piece["checksums"][0]}};
    }
  }
  manifest.erase("checksum");
  const std::string text = manifest.dump();
  manifest["checksum"] = ChecksumText(ChecksumOf(text.data(), text.size()));
  ASSERT_TRUE(WriteFileBytes(path, manifest.dump(1)).ok());
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  TestTensor matrix(DType::kFloat32, {6, 5});
  ASSERT_TRUE(checkpoint->Read("weights/matrix", matrix.View()).ok());
  EXPECT_TRUE(BitwiseEqual(matrix.View(), matrix_.View()));
  EXPECT_TRUE(checkpoint->Verify().ok());
}

TEST_F(CheckpointTest, ReadsAnyPartOfAMatrixFromAnyPieces) {
  // Rows 0 to 3 in two halves of the columns, row 4 in three pieces, row 5 whole.
  const std::vector<Rectangle> places = {{0, 4, 0, 2}, {0, 4, 2, 3}, {4, 1, 0, 1},
                                         {4, 1, 1, 3}, {4, 1, 4, 1}, {5, 1, 0, 5}};
  const auto cut = [this](const Rectangle& place) {
    TestTensor values(DType::kFloat32, {place.rows, place.columns});
    for (int64_t row = 0; row < place.rows; ++row) {
      for (int64_t column = 0; column < place.columns; ++column) {
        values.Set(row * place.columns + column,
                   matrix_.At((place.row_begin + row) * 5 + place.column_begin + column));
      }
    }
    return values;
  };
  std::vector<TestTensor> memory;
  std::vector<TensorPiece> pieces;
  for (const Rectangle& place : places) {
    memory.push_back(cut(place));
    pieces.push_back(
        {"weights/matrix", {6, 5}, place.row_begin, memory.back().View(), place.column_begin});
  }
  ASSERT_TRUE(WriteCheckpoint(path_, pieces, {}, *ranks_).ok());
  // Other programs see it whole.
  auto view = Hdf5File::OpenForReading(path_ + "/checkpoint.h5");
  ASSERT_TRUE(view.ok()) << view.status();
  auto dataset = view->OpenDataset("/weights/matrix");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  TestTensor whole(DType::kFloat32, {6, 5});
  ASSERT_TRUE(dataset->Read(StoredType::kFloat32, 0, 6, whole.View().raw()).ok());
  EXPECT_TRUE(BitwiseEqual(whole.View(), matrix_.View()));
  ASSERT_TRUE(view->Close().ok());
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_TRUE(checkpoint->Verify().ok());
  for (int64_t row = 0; row < 6; ++row) {
    for (int64_t rows = 1; row + rows <= 6; ++rows) {
      for (int64_t column = 0; column < 5; ++column) {
        for (int64_t columns = 1; column + columns <= 5; ++columns) {
          const Rectangle part = {row, rows, column, columns};
          TestTensor read(DType::kFloat32, {rows, columns});
          const absl::Status status =
              checkpoint->ReadPart("weights/matrix", {6, 5}, part, read.View());
          ASSERT_TRUE(status.ok()) << status;
          EXPECT_TRUE(BitwiseEqual(read.View(), cut(part).View()));
        }
      }
    }
  }
}

// Long enough for several blocks and several writes of a piece.
TEST_F(CheckpointTest, LargeTensorsAreCheckedBlockByBlock) {
  constexpr int64_t kRows = 5000, kColumns = 4099;
  const TestTensor large = TestTensor::Normal(DType::kFloat32, {kRows, kColumns}, 3);
  ASSERT_TRUE(
      WriteCheckpoint(path_, {{"large", {kRows, kColumns}, 0, large.View()}}, {}, *ranks_).ok());
  const auto checkpoint = Checkpoint::Open(path_);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const Checkpoint::Piece& piece = checkpoint->tensors().at("large").pieces.front();
  ASSERT_GT(piece.checksums.size(), 64U);
  TestTensor read(DType::kFloat32, {kRows, kColumns});
  ASSERT_TRUE(checkpoint->Read("large", read.View()).ok());
  EXPECT_TRUE(BitwiseEqual(read.View(), large.View()));
  // A flipped byte of the last row hurts those alone who need its block.
  FlipByte(Shard(), OffsetOf("/large") + ((kRows - 1) * kColumns + 7) * 4);
  TestTensor rows(DType::kFloat32, {100, 9});
  EXPECT_TRUE(checkpoint->ReadPart("large", {kRows, kColumns}, {50, 100, 3, 9}, rows.View()).ok());
  EXPECT_EQ(rows.At(9), large.At(51 * kColumns + 3));
  const absl::Status status =
      checkpoint->ReadPart("large", {kRows, kColumns}, {kRows - 100, 100, 3, 9}, rows.View());
  EXPECT_THAT(status.message(), HasSubstr("to 4999 are damaged (checksum mismatch)"));
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

// One block, of some checksum.
Checkpoint::Piece PieceIn(const std::string& shard, const Rectangle& place) {
  return {.shard = shard,
          .place = place,
          .dataset = "t",
          .block_rows = place.rows,
          .checksums = {"0123456789abcdef"}};
}

TEST(ManifestTest, PiecesOfSeveralRanksMakeOneTensor) {
  Manifest first, second;
  first.shard_bytes["a"] = second.shard_bytes["b"] = 100;
  first.tensors["t"] = {DType::kFloat32, {5, 2}, {PieceIn("a", {3, 2, 0, 2})}};
  second.tensors["t"] = {DType::kFloat32, {5, 2}, {PieceIn("b", {0, 3, 0, 2})}};
  EXPECT_THAT(CheckManifest(ManifestText(first)).message(),
              HasSubstr("tensor t: rows 0 on are missing"));
  ASSERT_TRUE(first.Merge(second).ok());
  EXPECT_TRUE(CheckManifest(ManifestText(first)).ok());
  ASSERT_TRUE(first.Merge(second).ok());
  EXPECT_THAT(CheckManifest(ManifestText(first)).message(), HasSubstr("written twice"));
}

TEST(ManifestTest, RectanglesCoverATensorOnce) {
  // Two ranks' halves of the columns, the second one's in three pieces:  a a a b b c
  //                                                                      a a a c c c
  //                                                                      a a a c d d
  const std::vector<Rectangle> places = {{0, 3, 0, 3}, {0, 1, 3, 2}, {0, 1, 5, 1},
                                         {1, 1, 3, 3}, {2, 1, 3, 1}, {2, 1, 4, 2}};
  const auto text_of = [](const std::vector<Rectangle>& rectangles) {
    Manifest manifest;
    for (const Rectangle& place : rectangles) {
      Manifest part;
      part.shard_bytes["a"] = 1000;
      part.tensors["t"] = {DType::kFloat32, {3, 6}, {PieceIn("a", place)}};
      EXPECT_TRUE(manifest.Merge(part).ok());
    }
    return ManifestText(manifest);
  };
  EXPECT_TRUE(CheckManifest(text_of(places)).ok()) << CheckManifest(text_of(places));
  for (size_t index = 0; index < places.size(); ++index) {
    std::vector<Rectangle> others = places;
    others.erase(others.begin() + static_cast<ptrdiff_t>(index));
    EXPECT_THAT(CheckManifest(text_of(others)).message(), HasSubstr("missing")) << index;
    std::vector<Rectangle> twice = places;
    twice.push_back(places[index]);
    EXPECT_THAT(CheckManifest(text_of(twice)).message(), HasSubstr("written twice")) << index;
    std::vector<Rectangle> wider = places;
    ++wider[index].columns;
    EXPECT_FALSE(CheckManifest(text_of(wider)).ok()) << index;
  }
}

TEST(ManifestTest, BlocksThatDoNotMakeThePieceAreRefused) {
  Manifest manifest;
  manifest.shard_bytes["a"] = 1000;
  manifest.tensors["t"] = {DType::kFloat32, {5, 6}, {PieceIn("a", {0, 5, 0, 6})}};
  Checkpoint::Piece& piece = manifest.tensors["t"].pieces.front();
  // The last makes bytes of a block that are 0 modulo 2^64.
  for (const int64_t block_rows :
       {int64_t{0}, int64_t{4}, int64_t{-1}, int64_t{6}, int64_t{1} << 62}) {
    piece.block_rows = block_rows;
    EXPECT_THAT(CheckManifest(ManifestText(manifest)).message(), HasSubstr("1 checksums of "));
  }
  piece.block_rows = 4;
  piece.checksums.push_back("y");
  EXPECT_TRUE(CheckManifest(ManifestText(manifest)).ok());
}

TEST(ManifestTest, ImpossibleSizesAndDeepTextsAreRefused) {
  Manifest manifest;
  manifest.shard_bytes["a"] = 100;
  manifest.tensors["t"] = {DType::kFloat32, {5, 6}, {PieceIn("a", {0, 5, 0, 6})}};
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
