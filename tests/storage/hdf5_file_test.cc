#include "data/storage/hdf5_file.h"

#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/full_disk.h"
#include "tests/storage/temporary_directory.h"

namespace salamander {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Writes a [rows, 3] int32 dataset "/group/numbers" holding first, first + 1, ...
absl::Status WriteNumbers(const std::string& path, int64_t rows, int32_t first) {
  auto file = Hdf5File::Create(path);
  if (!file.ok()) return file.status();
  auto dataset = file->CreateDataset("/group/numbers", StoredType::kInt32, {rows, 3});
  if (!dataset.ok()) return dataset.status();
  std::vector<int32_t> values(static_cast<size_t>(rows * 3));
  std::iota(values.begin(), values.end(), first);
  if (auto status = dataset->Write(StoredType::kInt32, 0, rows, values.data()); !status.ok()) {
    return status;
  }
  return file->Close();
}

TEST(Hdf5FileTest, RowsComeBackAsWritten) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(WriteNumbers(directory / "a.h5", 5, 0).ok());
  auto file = Hdf5File::OpenForReading(directory / "a.h5");
  ASSERT_TRUE(file.ok()) << file.status();
  auto dataset = file->OpenDataset("/group/numbers");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->type(), StoredType::kInt32);
  EXPECT_THAT(dataset->dims(), ElementsAre(5, 3));
  std::vector<int32_t> rows(6);
  ASSERT_TRUE(dataset->Read(StoredType::kInt32, 3, 2, rows.data()).ok());
  EXPECT_THAT(rows, ElementsAre(9, 10, 11, 12, 13, 14));
}

TEST(Hdf5FileTest, EveryTypeKeepsItsBits) {
  const TemporaryDirectory directory;
  auto file = Hdf5File::Create(directory / "a.h5");
  ASSERT_TRUE(file.ok());
  for (const StoredType type :
       {StoredType::kUint8, StoredType::kUint16, StoredType::kUint32, StoredType::kUint64,
        StoredType::kInt32, StoredType::kInt64, StoredType::kFloat32, StoredType::kFloat64}) {
    std::vector<unsigned char> bytes(static_cast<size_t>(4 * SizeOf(type)));
    for (size_t index = 0; index < bytes.size(); ++index) {
      bytes[index] = static_cast<unsigned char>(255 - 3 * index);  // NaN payloads among the floats
    }
    auto dataset = file->CreateDataset(Name(type), type, {4});
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    ASSERT_TRUE(dataset->Write(type, 0, 4, bytes.data()).ok());
    std::vector<unsigned char> back(bytes.size());
    auto reopened = file->OpenDataset(Name(type));
    ASSERT_TRUE(reopened.ok()) << reopened.status();
    EXPECT_EQ(reopened->type(), type);
    ASSERT_TRUE(reopened->Read(type, 0, 4, back.data()).ok());
    EXPECT_EQ(back, bytes) << Name(type);
  }
}

TEST(Hdf5FileTest, EmptyDatasetIsFine) {
  const TemporaryDirectory directory;
  auto file = Hdf5File::Create(directory / "a.h5");
  ASSERT_TRUE(file.ok());
  auto dataset = file->CreateDataset("/none", StoredType::kUint8, {0});
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_TRUE(dataset->Write(StoredType::kUint8, 0, 0, nullptr).ok());
  ASSERT_TRUE(file->Close().ok());
  auto again = Hdf5File::OpenForReading(directory / "a.h5");
  ASSERT_TRUE(again.ok());
  EXPECT_THAT(again->OpenDataset("/none")->dims(), ElementsAre(0));
}

TEST(Hdf5FileTest, WrongTypeAndRangeAreErrors) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(WriteNumbers(directory / "a.h5", 5, 0).ok());
  auto file = Hdf5File::OpenForReading(directory / "a.h5");
  auto dataset = file->OpenDataset("/group/numbers");
  ASSERT_TRUE(dataset.ok());
  std::vector<int32_t> rows(15);
  const absl::Status type = dataset->Read(StoredType::kUint32, 0, 1, rows.data());
  EXPECT_THAT(std::string(type.message()), HasSubstr("holds int32, expected uint32"));
  EXPECT_EQ(dataset->Read(StoredType::kInt32, 4, 2, rows.data()).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(dataset->Read(StoredType::kInt32, -1, 2, rows.data()).code(),
            absl::StatusCode::kOutOfRange);
  const absl::Status missing = file->OpenDataset("/group/absent").status();
  EXPECT_THAT(std::string(missing.message()), HasSubstr("a.h5: dataset /group/absent"));
}

TEST(Hdf5FileTest, AttributesHoldAnyBytes) {
  const TemporaryDirectory directory;
  const std::string odd("a\0b\0", 4);
  {
    auto file = Hdf5File::Create(directory / "a.h5");
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->CreateGroup("/group").ok());
    ASSERT_TRUE(file->SetString("/", "odd", odd).ok());
    ASSERT_TRUE(file->SetString("/group", "empty", "").ok());
    ASSERT_TRUE(file->SetString("/", "long", std::string(60000, 'x')).ok());
    EXPECT_FALSE(file->SetString("/", "too long", std::string(60001, 'x')).ok());
    ASSERT_TRUE(file->SetInteger("/", "least", INT64_MIN).ok());
    ASSERT_TRUE(file->Close().ok());
  }
  auto file = Hdf5File::OpenForReading(directory / "a.h5");
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(*file->GetString("/", "odd"), odd);
  EXPECT_EQ(*file->GetString("/group", "empty"), "");
  EXPECT_EQ(file->GetString("/", "long")->size(), 60000);
  EXPECT_EQ(*file->GetInteger("/", "least"), INT64_MIN);
  EXPECT_FALSE(file->GetInteger("/", "odd").ok());
  EXPECT_FALSE(file->GetString("/", "absent").ok());
}

TEST(Hdf5FileTest, ListsAGroupSorted) {
  const TemporaryDirectory directory;
  auto file = Hdf5File::Create(directory / "a.h5");
  for (const char* name : {"/g/b", "/g/a", "/g/c/d"}) {
    ASSERT_TRUE(file->CreateDataset(name, StoredType::kUint8, {1}).ok());
  }
  EXPECT_THAT(*file->ListGroup("/g"), ElementsAre("a", "b", "c"));
  EXPECT_TRUE(file->HasObject("/g/c/d"));
  EXPECT_FALSE(file->HasObject("/g/e"));
  EXPECT_FALSE(file->ListGroup("/absent").ok());
}

TEST(Hdf5FileTest, VirtualDatasetPresentsSourcesWholeFromAnyWorkingDirectory) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(WriteNumbers(directory / "part0.h5", 2, 0).ok());
  ASSERT_TRUE(WriteNumbers(directory / "part1.h5", 4, 100).ok());
  auto file = Hdf5File::Create(directory / "whole.h5");
  ASSERT_TRUE(file.ok());
  const std::vector<VirtualSource> sources = {{.file = "part0.h5",
                                               .dataset = "/group/numbers",
                                               .source_rows = 2,
                                               .target_begin = 0,
                                               .count = 2},
                                              {.file = "part1.h5",
                                               .dataset = "/group/numbers",
                                               .source_begin = 1,
                                               .source_rows = 4,
                                               .target_begin = 2,
                                               .count = 2}};
  ASSERT_TRUE(file->CreateVirtualDataset("/numbers", StoredType::kInt32, {4, 3}, sources).ok());
  ASSERT_TRUE(file->Close().ok());
  const std::string moved = directory.path() + "_moved";
  std::filesystem::rename(directory.path(), moved);
  auto whole = Hdf5File::OpenForReading(moved + "/whole.h5");
  ASSERT_TRUE(whole.ok()) << whole.status();
  auto dataset = whole->OpenDataset("/numbers");
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  std::vector<int32_t> rows(12);
  ASSERT_TRUE(dataset->Read(StoredType::kInt32, 0, 4, rows.data()).ok());
  EXPECT_THAT(rows, ElementsAre(0, 1, 2, 3, 4, 5, 103, 104, 105, 106, 107, 108));
  ASSERT_TRUE(whole->Close().ok());
  std::filesystem::rename(moved, directory.path());
}

TEST(Hdf5FileTest, DamagedFilesAreErrorsInPlainWords) {
  const TemporaryDirectory directory;
  ASSERT_TRUE(WriteNumbers(directory / "a.h5", 500, 0).ok());
  std::filesystem::resize_file(directory / "a.h5", 3000);
  EXPECT_THAT(std::string(Hdf5File::OpenForReading(directory / "a.h5").status().message()),
              HasSubstr("a.h5: cannot open as an HDF5 file: truncated file"));
  std::ofstream(directory / "text") << "not HDF5";
  EXPECT_FALSE(Hdf5File::OpenForReading(directory / "text").ok());
  EXPECT_EQ(Hdf5File::OpenForReading(directory / "absent").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(Hdf5File::OpenForReading(directory.path()).ok());
  EXPECT_FALSE(Hdf5File::Create(directory / "text/below.h5").ok());
}

TEST(Hdf5FileTest, FullDiskIsSaidAsSuch) {
  const TemporaryDirectory directory;
  const FileSizeLimit limit(20000);
  const absl::Status status = WriteNumbers(directory / "a.h5", 100000, 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("a.h5"));
}

TEST(Hdf5FileTest, FullDiskAtCloseIsSaid) {
  const TemporaryDirectory directory;
  auto file = Hdf5File::Create(directory / "a.h5");
  ASSERT_TRUE(file.ok());
  for (int index = 0; index < 100; ++index) {  // metadata only: it is written at the end
    ASSERT_TRUE(file->CreateGroup("/group" + std::to_string(index)).ok());
  }
  const FileSizeLimit limit(100);
  EXPECT_FALSE(file->Close().ok());
}

TEST(Hdf5FileTest, UseAfterCloseIsAnErrorNotACrash) {
  const TemporaryDirectory directory;
  auto file = Hdf5File::Create(directory / "a.h5");
  auto dataset = file->CreateDataset("/a", StoredType::kUint8, {2});
  ASSERT_TRUE(dataset.ok());
  ASSERT_TRUE(file->Close().ok());
  const unsigned char bytes[2] = {1, 2};
  EXPECT_FALSE(dataset->Write(StoredType::kUint8, 0, 2, bytes).ok());
}

TEST(Hdf5FileTest, ThreadsMayUseDifferentFilesAtOnce) {
  const TemporaryDirectory directory;
  std::vector<std::thread> threads;
  std::vector<int> good(4, 0);
  for (int index = 0; index < 4; ++index) {
    threads.emplace_back([&, index] {
      const std::string path = directory / (std::to_string(index) + ".h5");
      for (int repeat = 0; repeat < 20; ++repeat) {
        if (!WriteNumbers(path, 10, index).ok()) return;
        auto file = Hdf5File::OpenForReading(path);
        if (!file.ok()) return;
        auto dataset = file->OpenDataset("/group/numbers");
        int32_t row[3] = {};
        if (!dataset.ok() || !dataset->Read(StoredType::kInt32, 0, 1, row).ok()) return;
        good[static_cast<size_t>(index)] += row[0] == index ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(good, ElementsAre(20, 20, 20, 20));
}

}  // namespace
}  // namespace salamander
