// A checkpoint of one gigabyte, as a run's weights and moments make it, beside a plain file of as
// many bytes on the same disk: written and synced, and read back with the page cache emptied of it.
// `ratio` is the plain file's time as a share of the checkpoint's.
//   TMPDIR=/on/that/disk build/tests/benchmark/checkpoint_benchmark
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/logging.h"
#include "model/checkpoint/checkpoint.h"
#include "model/parallel/communicator.h"
#include "tests/support/random_tensor.h"

namespace salamander {
namespace {

constexpr int64_t kRows = 4096, kColumns = 2048;  // 32 MiB a tensor
constexpr int kTensors = 32;
constexpr int64_t kPlainWrite = int64_t{8} << 20;

class Files {
 public:
  Files() {
    const char* const folder = std::getenv("TMPDIR");
    std::string pattern =
        absl::StrCat(folder == nullptr ? "/tmp" : folder, "/checkpoint_benchmark_XXXXXX");
    SALAMANDER_CHECK(mkdtemp(pattern.data()) != nullptr) << pattern;
    path_ = pattern;
  }
  ~Files() { std::filesystem::remove_all(path_); }
  Files(const Files&) = delete;
  Files& operator=(const Files&) = delete;

  std::string Checkpoint() const { return path_ + "/step-00000001"; }
  std::string Plain() const { return path_ + "/plain"; }

  // So that the next read comes from the disk. Requires: all is synced.
  void DropFromCache() const {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_)) {
      if (!entry.is_regular_file()) continue;
      const int file = open(entry.path().c_str(), O_RDONLY);
      posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
      close(file);
    }
  }

 private:
  std::string path_;
};

double SecondsOf(const auto& call) {
  const auto start = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class State {
 public:
  TensorView Tensor(int index) { return memory_.View().Rows(index * kRows, kRows); }
  int64_t bytes() const { return memory_.View().bytes(); }
  std::vector<TensorPiece> Pieces() {
    std::vector<TensorPiece> pieces;
    for (int index = 0; index < kTensors; ++index)
      pieces.push_back({absl::StrCat("weights/", index), {kRows, kColumns}, 0, Tensor(index)});
    return pieces;
  }

 private:
  TestTensor memory_ = TestTensor::Normal(DType::kFloat32, {kTensors * kRows, kColumns}, 1);
};

void WritePlain(const Files& files, State& state) {
  auto file = OutputFile::Create(files.Plain());
  SALAMANDER_CHECK(file.ok()) << file.status().ToString();
  const auto* const bytes = static_cast<const char*>(state.Tensor(0).raw());
  for (int64_t begin = 0; begin < state.bytes(); begin += kPlainWrite) {
    SALAMANDER_CHECK(file->Write(bytes + begin,
                                 static_cast<size_t>(std::min(kPlainWrite, state.bytes() - begin)))
                         .ok());
  }
  SALAMANDER_CHECK(file->Close().ok());
}

void ReadPlain(const Files& files, State& state) {
  const int file = open(files.Plain().c_str(), O_RDONLY);
  auto* const bytes = static_cast<char*>(state.Tensor(0).raw());
  int64_t begin = 0;
  while (begin < state.bytes()) {
    const ssize_t count = read(file, bytes + begin,
                               static_cast<size_t>(std::min(kPlainWrite, state.bytes() - begin)));
    SALAMANDER_CHECK(count > 0) << files.Plain();
    begin += count;
  }
  close(file);
}

void Save(const Files& files, State& state) {
  const auto alone = SingleRankCommunicator();
  const absl::Status status = WriteCheckpoint(files.Checkpoint(), state.Pieces(), {}, *alone);
  SALAMANDER_CHECK(status.ok()) << status.ToString();
}

void Load(const Files& files, State& state) {
  const auto checkpoint = Checkpoint::Open(files.Checkpoint());
  SALAMANDER_CHECK(checkpoint.ok()) << checkpoint.status().ToString();
  for (int index = 0; index < kTensors; ++index) {
    const absl::Status status =
        checkpoint->Read(absl::StrCat("weights/", index), state.Tensor(index));
    SALAMANDER_CHECK(status.ok()) << status.ToString();
  }
}

void Report(benchmark::State& state, double bytes, double plain, double ours) {
  const auto rounds = static_cast<double>(state.iterations());
  state.counters["GB/s"] = rounds * bytes / ours * 1e-9;
  state.counters["plain GB/s"] = rounds * bytes / plain * 1e-9;
  state.counters["ratio"] = plain / ours;
}

// The two take turns, so that both see the same disk.
void BM_Save(benchmark::State& state) {
  State tensors;
  double plain = 0, ours = 0;
  for (auto _ : state) {
    const Files files;
    plain += SecondsOf([&] { WritePlain(files, tensors); });
    const double seconds = SecondsOf([&] { Save(files, tensors); });
    ours += seconds;
    state.SetIterationTime(seconds);
  }
  Report(state, static_cast<double>(tensors.bytes()), plain, ours);
}
BENCHMARK(BM_Save)->UseManualTime()->Iterations(5)->Unit(benchmark::kMillisecond);

void BM_Load(benchmark::State& state) {
  const bool is_cached = state.range(0) != 0;
  State tensors;
  const Files files;
  WritePlain(files, tensors);
  Save(files, tensors);
  double plain = 0, ours = 0;
  for (auto _ : state) {
    if (!is_cached) files.DropFromCache();
    plain += SecondsOf([&] { ReadPlain(files, tensors); });
    const double seconds = SecondsOf([&] { Load(files, tensors); });
    ours += seconds;
    state.SetIterationTime(seconds);
  }
  Report(state, static_cast<double>(tensors.bytes()), plain, ours);
}
BENCHMARK(BM_Load)->ArgName("cached")->Arg(0)->Arg(1)->UseManualTime()->Iterations(5)->Unit(
    benchmark::kMillisecond);

}  // namespace
}  // namespace salamander
