#include <iostream>
#include <regex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "data/storage/atomic_path.h"
#include "kernels/base/status_macros.h"
#include "model/conversion/transfer.h"
#include "trainer/bench/generation_bench.h"
#include "trainer/bench/op_bench.h"
#include "trainer/bench/step_bench.h"
#include "trainer/commands/build_commit.h"
#include "trainer/commands/commands.h"
#include "trainer/config/small_files.h"
#include "trainer/run/workspace.h"

namespace salamander {
namespace {

// Shares of the device's free memory. Of ops and steps: the rest is for the weights and gradients
// of whole steps, and for libraries.
constexpr double kTensorShare = 0.45;
constexpr double kScratchShare = 0.3;
// Of generation, which needs the memory for weights and caches.
constexpr double kGenerationScratchShare = 0.06;

// A repetition of an op is so many steps of a generation: they are short and there is no flush.
constexpr int kDecodeStepsARepetition = 10;

// The dense model of the file cut to so many layers, or the hybrid that keeps some of them.
absl::StatusOr<ModelConfig> BenchModel(const BenchCommand& command) {
  ASSIGN_OR_RETURN(ModelConfig config, ReadModelShape(command.model));
  if (command.layers > config.layer_count()) {
    return absl::InvalidArgumentError(absl::StrCat("--layers ", command.layers, ": ", command.model,
                                                   " has ", config.layer_count(),
                                                   "; expected at most so many, or 0 for all"));
  }
  if (command.layers > 0) config.layers.resize(static_cast<size_t>(command.layers));
  RETURN_IF_ERROR(Annotate(config.Validate(), command.model));
  if (command.keep != "all") {
    ASSIGN_OR_RETURN(const ModelConfig candidates, CandidateConfig(config));
    ASSIGN_OR_RETURN(const KeptLayers kept, ReadKeptLayers(command.keep));
    ASSIGN_OR_RETURN(config, HybridConfig(candidates, kept.layers, {}));
  }
  if (command.sparse) config.softmax.use_sparse = true;
  RETURN_IF_ERROR(Annotate(config.Validate(), command.model));
  return config;
}

absl::StatusOr<Recomputation> RecomputationNamed(const std::string& name) {
  if (name == "none") return Recomputation::kNone;
  if (name == "attention") return Recomputation::kAttention;
  if (name == "full") return Recomputation::kFull;
  return absl::InvalidArgumentError(
      absl::StrCat("--recomputation ", name, "; expected none, attention or full"));
}

absl::StatusOr<Arena> ReserveShare(DeviceSession& session, double share) {
  ASSIGN_OR_RETURN(const int64_t free_bytes, session.FreeBytes());
  return session.ReserveScratch(static_cast<int64_t>(share * static_cast<double>(free_bytes)));
}

// The command's options, read and checked.
class Bench {
 public:
  static absl::StatusOr<Bench> Create(const BenchCommand& command);

  absl::Status Run(DeviceSession& session);

 private:
  Bench(const BenchCommand& command, ModelConfig config, std::regex only,
        Recomputation recomputation)
      : command_(command),
        config_(std::move(config)),
        only_(std::move(only)),
        recomputation_(recomputation) {}

  absl::Status TimeTraining(DeviceSession& session);
  absl::Status TimeOps(const BenchMemory& memory);
  absl::Status TimeSteps(const BenchMemory& memory);
  absl::Status TimeGeneration(DeviceSession& session);
  absl::Status TimeDecoding(const Generator& generator);
  std::vector<int64_t> Lengths(const DeviceSession& session) const;
  void Add(const std::vector<BenchRow>& rows) {
    rows_.insert(rows_.end(), rows.begin(), rows.end());
  }

  const BenchCommand& command_;
  ModelConfig config_;
  std::regex only_;
  Recomputation recomputation_;
  Ceilings ceilings_;
  std::vector<BenchRow> rows_;
};

absl::StatusOr<Bench> Bench::Create(const BenchCommand& command) {
  ASSIGN_OR_RETURN(std::regex only, OnlyPattern(command.only));
  ASSIGN_OR_RETURN(ModelConfig config, BenchModel(command));
  ASSIGN_OR_RETURN(const Recomputation recomputation, RecomputationNamed(command.recomputation));
  return Bench(command, std::move(config), std::move(only), recomputation);
}

std::vector<int64_t> Bench::Lengths(const DeviceSession& session) const {
  if (!command_.tokens.empty()) return command_.tokens;
  return {session.device().kind == DeviceKind::kCuda ? int64_t{32} << 10 : int64_t{1} << 10};
}

absl::Status Bench::TimeOps(const BenchMemory& memory) {
  for (const int64_t tokens : Lengths(memory.session)) {
    ASSIGN_OR_RETURN(const std::vector<BenchRow> rows,
                     BenchOps(memory, ceilings_,
                              {.config = config_,
                               .tokens = tokens,
                               .only = only_,
                               .repetitions = command_.repetitions}));
    Add(rows);
  }
  return absl::OkStatus();
}

absl::Status Bench::TimeSteps(const BenchMemory& memory) {
  ASSIGN_OR_RETURN(const RandomModel model,
                   RandomModel::Create(config_, memory.session, memory.scratch));
  for (const int64_t tokens : Lengths(memory.session)) {
    ASSIGN_OR_RETURN(const BenchRow row, BenchStep(memory, ceilings_, model,
                                                   {.tokens = tokens,
                                                    .recomputation = recomputation_,
                                                    .repetitions = command_.repetitions}));
    Add({row});
  }
  return absl::OkStatus();
}

// Ceilings, ops and whole steps.
absl::Status Bench::TimeTraining(DeviceSession& session) {
  ASSIGN_OR_RETURN(Arena tensors, ReserveShare(session, kTensorShare));
  ASSIGN_OR_RETURN(Arena scratch, ReserveShare(session, kScratchShare / (1.0 - kTensorShare)));
  const BenchMemory memory{session, tensors, scratch};
  ASSIGN_OR_RETURN(ceilings_, MeasureCeilings(session, tensors, scratch));
  std::cout << absl::StrFormat("%s: matrix product %s, copy %.0f GB/s\n", session.name(),
                               FlopRateText(ceilings_.flops_per_second),
                               ceilings_.bytes_per_second * 1e-9);
  if (command_.ops) RETURN_IF_ERROR(TimeOps(memory));
  return command_.step ? TimeSteps(memory) : absl::OkStatus();
}

// What does not fit the device is told of and left out: the other rows count none the less.
absl::Status Bench::TimeDecoding(const Generator& generator) {
  for (const int64_t length : command_.decode) {
    for (const int64_t sequences : command_.decode_batch) {
      const auto rows = BenchDecode(generator, ceilings_,
                                    {.sequences = sequences,
                                     .length = length,
                                     .steps = kDecodeStepsARepetition * command_.repetitions});
      if (absl::IsResourceExhausted(rows.status())) {
        std::cout << absl::StrFormat("decode of %d x %d tokens is left out: %s\n", sequences,
                                     length, rows.status().message());
        continue;
      }
      RETURN_IF_ERROR(rows.status());
      Add(*rows);
    }
  }
  return absl::OkStatus();
}

absl::Status Bench::TimeGeneration(DeviceSession& session) {
  if (command_.decode.empty() && command_.prefill.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(Arena scratch, ReserveShare(session, kGenerationScratchShare));
  ASSIGN_OR_RETURN(const RandomModel model, RandomModel::Create(config_, session, scratch));
  const ExecutionContext execution = session.Context(scratch);
  const Generator generator{session, execution, model.transformer()};
  for (const int64_t length : command_.prefill) {
    ASSIGN_OR_RETURN(const BenchRow row,
                     BenchPrefill(generator, ceilings_, length, command_.repetitions));
    Add({row});
  }
  return TimeDecoding(generator);
}

absl::Status Bench::Run(DeviceSession& session) {
  RETURN_IF_ERROR(TimeTraining(session));
  RETURN_IF_ERROR(TimeGeneration(session));
  std::cout << TableText(rows_);
  if (command_.json.empty()) return absl::OkStatus();
  const BenchOrigin origin{.device = session.name(),
                           .clocks = session.clocks(),
                           .commit = std::string(BuildCommit()),
                           .ceilings = ceilings_};
  return WriteFileAtomically(command_.json, JsonText(origin, rows_));
}

}  // namespace

absl::Status RunBench(const BenchCommand& command, Communicator& world) {
  if (world.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("bench: started with ", world.size(),
                                                   " ranks; it times one device, start it "
                                                   "without mpirun"));
  }
  // A bench takes long: a file that cannot be written is told of before.
  if (!command.json.empty()) RETURN_IF_ERROR(AtomicFile::Begin(command.json).status());
  ASSIGN_OR_RETURN(Bench bench, Bench::Create(command));
  ASSIGN_OR_RETURN(const auto session, OpenDevice(command.device, world));
  return bench.Run(*session);
}

}  // namespace salamander
