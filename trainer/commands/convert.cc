#include <iostream>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "data/sequences/token_sequences.h"
#include "kernels/base/logging.h"
#include "kernels/base/random.h"
#include "kernels/base/status_macros.h"
#include "model/conversion/parity.h"
#include "model/transformer.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/conversion_steps.h"
#include "trainer/config/small_files.h"
#include "trainer/report/metrics_log.h"
#include "trainer/report/table.h"
#include "trainer/run/device_model.h"
#include "trainer/run/model_file.h"
#include "trainer/run/workspace.h"
#include "trainer/step/objective.h"

namespace salamander {
namespace {

constexpr int64_t kReportSequence = 512;  // tokens of one sequence of the parity report
constexpr char kParityText[] = "parity.txt";

absl::StatusOr<ConversionOptions> OptionsOf(const ConvertCommand& command) {
  ConversionOptions options{
      .rope_in_kept_layers = command.rope_in_kept_layers, .sparse = {}, .seed = command.seed};
  if (command.gate != "random" && command.gate != "open") {
    return absl::InvalidArgumentError(
        absl::StrCat("--gate ", command.gate, ": expected random or open"));
  }
  options.gate = command.gate == "open" ? GateInitialization::kOpen : GateInitialization::kRandom;
  if (!command.sparse.empty()) {
    ASSIGN_OR_RETURN(options.sparse, ReadSparseConfig(command.sparse));
  }
  return options;
}

// What the report is measured on: the first sequences of a token file, or tokens drawn at random.
absl::StatusOr<std::vector<PackedStream>> ReportStreams(const ConvertRequest& request,
                                                        int64_t vocabulary) {
  std::vector<PackedStream> streams;
  const int64_t count = std::max<int64_t>(1, request.report_tokens / kReportSequence);
  if (request.data.empty()) {
    for (int64_t index = 0; index < count; ++index) {
      std::vector<int32_t> tokens;
      for (int64_t row = 0; row < kReportSequence; ++row) {
        tokens.push_back(
            static_cast<int32_t>(HashCounter(request.options.seed,
                                             static_cast<uint64_t>(index * kReportSequence + row)) %
                                 static_cast<uint64_t>(vocabulary)));
      }
      streams.emplace_back();
      AppendPiece(tokens, -1, {}, &streams.back());
    }
    return streams;
  }
  ASSIGN_OR_RETURN(std::shared_ptr<const TokenFileReader> file,
                   TokenFileReader::Open(request.data));
  ASSIGN_OR_RETURN(const auto sequences,
                   TokenSequences::Create(std::move(file), {.sequence_length = kReportSequence}));
  for (int64_t index = 0; index < count; ++index) {
    ASSIGN_OR_RETURN(PackedStream stream, sequences->Sequence(index));
    streams.push_back(std::move(stream));
  }
  return streams;
}

// Cosine and relative error of each candidate against its teacher.
absl::StatusOr<std::string> CandidateReport(const ExecutionContext& execution,
                                            const Transformer& model,
                                            const std::vector<PackedStream>& streams) {
  std::vector<LayerParity> layers(model.config().layers.size());
  for (const PackedStream& stream : streams) {
    const ArenaScope scope(*execution.arena);
    ASSIGN_OR_RETURN(const ForwardPass pass, PassOver(execution, stream));
    RETURN_IF_ERROR(AddCandidateParity(model, pass, layers));
  }
  Table table({"layer", "cosine", "relative_error"});
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (!model.config().layers[layer].has_candidate) continue;
    table.AddRow({absl::StrCat(layer), Short(layers[layer].cosine()),
                  Short(layers[layer].relative_error())});
  }
  return table.Text();
}

absl::StatusOr<double> MeanKl(const ExecutionContext& execution, const Transformer& teacher,
                              const Transformer& student,
                              const std::vector<PackedStream>& streams) {
  const auto objective = DistillationObjective(student, teacher);
  ASSIGN_OR_RETURN(const LossSums sums, SumLoss(execution, *objective, streams));
  return sums.loss / sums.row_weights;
}

std::string FateReport(const std::vector<TransferRecord>& records) {
  Table table({"tensor", "fate", "from"});
  for (const TransferRecord& record : records) {
    table.AddRow({record.name, std::string(Name(record.fate)),
                  record.fate == TransferFate::kDropped ? "" : record.source});
  }
  return table.Text();
}

std::string FateSummary(const std::vector<TransferRecord>& records) {
  std::map<std::string, int> counts;
  for (const TransferRecord& record : records) ++counts[std::string(Name(record.fate))];
  return absl::StrJoin(counts, ", ", [](std::string* out, const auto& entry) {
    absl::StrAppend(out, entry.second, " ", entry.first);
  });
}

// What a rank reads and computes by itself, before the ranks work together.
struct Sides {
  LoadedModel loaded;
  Conversion conversion;
  std::vector<PackedStream> streams;  // that the two are compared on
  DeviceModel source, result;         // of the two above, which they may read
};

absl::StatusOr<Sides> ConvertOnHost(const ConvertRequest& request, const Workspace& workspace) {
  ASSIGN_OR_RETURN(LoadedModel loaded, LoadModel(request.from));
  const bool adds_candidates = request.keep.empty();
  KeptLayers kept;
  if (!adds_candidates) {
    ASSIGN_OR_RETURN(kept, ReadKeptLayers(request.keep));
  }
  ASSIGN_OR_RETURN(Conversion conversion,
                   adds_candidates ? AddCandidates(loaded.weights, request.options)
                                   : KeepLayers(loaded.weights, kept.layers, request.options));

  ASSIGN_OR_RETURN(std::vector<PackedStream> streams,
                   ReportStreams(request, loaded.weights.config.vocabulary));
  ASSIGN_OR_RETURN(DeviceModel source, DeviceModel::Of(loaded.weights, workspace));
  ASSIGN_OR_RETURN(DeviceModel result, DeviceModel::Of(conversion.model, workspace));
  return Sides{std::move(loaded), std::move(conversion), std::move(streams), std::move(source),
               std::move(result)};
}

struct Converted {
  Conversion conversion;
  Baggage baggage;  // with the parity report
};

absl::StatusOr<Converted> Convert(const ConvertRequest& asked, DeviceSession& session,
                                  Communicator& world) {
  ConvertRequest request = asked;
  ASSIGN_OR_RETURN(request.from, ResolveCheckpoint(asked.from, world));
  Workspace workspace(session);
  auto sides = ConvertOnHost(request, workspace);
  RETURN_IF_ERROR(AgreeOnStatus(world, sides.status()));
  RETURN_IF_ERROR(workspace.ReserveArena(world));
  const Transformer& from = sides->source.transformer();
  const Transformer& to = sides->result.transformer();
  const bool adds_candidates = request.keep.empty();
  ASSIGN_OR_RETURN(
      const std::string layers,
      CandidateReport(workspace.execution(), adds_candidates ? to : from, sides->streams));
  ASSIGN_OR_RETURN(const double kl, MeanKl(workspace.execution(), from, to, sides->streams));
  const std::vector<TransferRecord>& records = sides->conversion.records;
  const std::string summary =
      absl::StrCat("tensors: ", FateSummary(records), "\ncandidates against their teachers, on ",
                   request.data.empty() ? "pseudo-random tokens" : request.data, ":\n", layers,
                   "KL of the whole model to what it came from: ", Short(kl), " nats a token\n");
  if (world.rank() == 0) std::cout << summary;
  Baggage baggage = std::move(sides->loaded.baggage);
  baggage[kParityText] = absl::StrCat(summary, "\n", FateReport(records));
  return Converted{std::move(sides->conversion), std::move(baggage)};
}

}  // namespace

absl::Status ConvertCheckpoint(const ConvertRequest& request, DeviceSession& session,
                               Communicator& world) {
  RETURN_IF_ERROR(CheckCanSave(request.out, world));
  const auto converted = Convert(request, session, world);
  RETURN_IF_ERROR(AgreeOnStatus(world, converted.status()));
  RETURN_IF_ERROR(SaveModel(request.out, converted->conversion.model, converted->baggage, world));
  LogInfo(absl::StrCat("wrote ", request.out));
  return absl::OkStatus();
}

absl::Status RunConvert(const ConvertCommand& command, Communicator& world) {
  if (command.all == !command.keep.empty()) {
    return absl::InvalidArgumentError(
        "convert: give --all (a candidate beside every layer) or --keep (drop the losers), one of "
        "the two");
  }
  ASSIGN_OR_RETURN(const ConversionOptions options, OptionsOf(command));
  ASSIGN_OR_RETURN(const std::unique_ptr<DeviceSession> session, OpenDevice(command.device, world));
  return ConvertCheckpoint({.from = command.from,
                            .out = command.out,
                            .keep = command.keep,
                            .options = options,
                            .data = command.data,
                            .report_tokens = command.report_tokens},
                           *session, world);
}

}  // namespace salamander
