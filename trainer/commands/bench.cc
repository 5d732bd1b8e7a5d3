#include "trainer/bench/bench.h"

#include <iostream>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "data/storage/atomic_path.h"
#include "kernels/base/status_macros.h"
#include "model/conversion/transfer.h"
#include "trainer/commands/commands.h"
#include "trainer/config/small_files.h"
#include "trainer/report/table.h"
#include "trainer/run/workspace.h"

namespace salamander {
namespace {

// Shares of the device's free memory: the rest is the weights' of a whole step, and the libraries'.
constexpr double kTensorShare = 0.45;
constexpr double kScratchShare = 0.3;

// The dense model of the file cut to so many layers, and the hybrid that keeps some of them.
absl::StatusOr<ModelConfig> BenchModel(const BenchCommand& command) {
  ASSIGN_OR_RETURN(ModelConfig config, ReadModelShape(command.model));
  if (command.layers > 0) config.layers.resize(static_cast<size_t>(command.layers));
  RETURN_IF_ERROR(Annotate(config.Validate(), command.model));
  ASSIGN_OR_RETURN(const ModelConfig candidates, CandidateConfig(config));
  ASSIGN_OR_RETURN(const KeptLayers kept, ReadKeptLayers(command.keep));
  return HybridConfig(candidates, kept.layers, {});
}

absl::StatusOr<Recomputation> RecomputationNamed(const std::string& name) {
  if (name == "none") return Recomputation::kNone;
  if (name == "attention") return Recomputation::kAttention;
  if (name == "full") return Recomputation::kFull;
  return absl::InvalidArgumentError(
      absl::StrCat("--recomputation ", name, "; expected none, attention or full"));
}

std::string FlopRate(double flops_per_second) {
  return flops_per_second < 1e12 ? absl::StrFormat("%.1f GFLOP/s", flops_per_second * 1e-9)
                                 : absl::StrFormat("%.1f TFLOP/s", flops_per_second * 1e-12);
}

std::string Rate(const BenchRow& row) {
  return row.flops > 0 ? FlopRate(row.flops / row.seconds)
                       : absl::StrFormat("%.1f GB/s", row.bytes / row.seconds * 1e-9);
}

std::string TableText(const std::vector<BenchRow>& rows) {
  Table table({"op", "shape", "us", "spread", "rate", "of ceiling"});
  for (const BenchRow& row : rows) {
    table.AddRow({row.name, row.shape, absl::StrFormat("%.1f", row.seconds * 1e6),
                  absl::StrFormat("%.0f %%", 100 * row.spread), Rate(row),
                  absl::StrFormat("%.0f %%", 100 * row.share_of_ceiling)});
  }
  return table.Text();
}

std::string JsonOf(const std::string& device, const Ceilings& ceilings,
                   const std::vector<BenchRow>& rows) {
  nlohmann::ordered_json json = {{"device", device},
                                 {"flops_per_second", ceilings.flops_per_second},
                                 {"bytes_per_second", ceilings.bytes_per_second},
                                 {"rows", nlohmann::ordered_json::array()}};
  for (const BenchRow& row : rows) {
    json["rows"].push_back({{"name", row.name},
                            {"shape", row.shape},
                            {"seconds", row.seconds},
                            {"spread", row.spread},
                            {"flops", row.flops},
                            {"bytes", row.bytes},
                            {"share_of_ceiling", row.share_of_ceiling}});
  }
  return json.dump(1) + "\n";
}

}  // namespace

absl::Status RunBench(const BenchCommand& command, Communicator& world) {
  if (world.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("bench: started with ", world.size(),
                                                   " ranks; it times one device, start it "
                                                   "without mpirun"));
  }
  ASSIGN_OR_RETURN(const ModelConfig config, BenchModel(command));
  ASSIGN_OR_RETURN(const Recomputation recomputation, RecomputationNamed(command.recomputation));
  ASSIGN_OR_RETURN(const auto session, OpenDevice(command.device, world));
  ASSIGN_OR_RETURN(const int64_t free_bytes, session->FreeBytes());
  const auto share = [&](double part) {
    return static_cast<int64_t>(part * static_cast<double>(free_bytes));
  };
  ASSIGN_OR_RETURN(Arena tensors, session->Reserve(share(kTensorShare)));
  ASSIGN_OR_RETURN(Arena scratch, session->Reserve(share(kScratchShare)));
  const BenchMemory memory{*session, tensors, scratch};

  ASSIGN_OR_RETURN(const Ceilings ceilings, MeasureCeilings(*session, tensors, scratch));
  std::cout << absl::StrFormat("%s: matrix product %s, copy %.0f GB/s\n", session->name(),
                               FlopRate(ceilings.flops_per_second),
                               ceilings.bytes_per_second * 1e-9);
  std::vector<BenchRow> rows;
  std::vector<int64_t> lengths = command.tokens;
  if (lengths.empty())
    lengths = {session->device().kind == DeviceKind::kCuda ? int64_t{32} << 10 : int64_t{1} << 10};
  for (const int64_t tokens : lengths) {
    const BenchOptions options{config, tokens, command.only, command.repetitions, recomputation};
    if (command.ops) {
      ASSIGN_OR_RETURN(std::vector<BenchRow> of_ops, BenchOps(memory, ceilings, options));
      rows.insert(rows.end(), of_ops.begin(), of_ops.end());
    }
    if (command.step) {
      ASSIGN_OR_RETURN(BenchRow row, BenchStep(memory, ceilings, options));
      rows.push_back(std::move(row));
    }
  }
  std::cout << TableText(rows);
  if (command.json.empty()) return absl::OkStatus();
  return WriteFileAtomically(command.json, JsonOf(session->name(), ceilings, rows));
}

}  // namespace salamander
