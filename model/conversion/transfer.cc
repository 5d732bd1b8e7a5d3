#include "model/conversion/transfer.h"

#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/random.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr char kMixer[] = ".mixer.";
constexpr char kCandidate[] = ".candidate.";

// Standard deviation of the gate that HALO adds to kept layers (HuggingFace's default initialiser).
constexpr double kKeptGateDeviation = 0.02;

template <typename Element>
void MapElements(TensorView view, double (*map)(double, uint64_t key, uint64_t index), uint64_t key,
                 double factor) {
  auto* const values = view.data<Element>();
  for (int64_t index = 0; index < view.size(); ++index) {
    values[index] = static_cast<Element>(
        factor * map(static_cast<double>(values[index]), key, static_cast<uint64_t>(index)));
  }
}

void Map(TensorView view, double (*map)(double, uint64_t, uint64_t), uint64_t key, double factor) {
  if (view.dtype() == DType::kFloat64) {
    MapElements<double>(view, map, key, factor);
  } else {
    MapElements<float>(view, map, key, factor);
  }
}

double Identity(double value, uint64_t, uint64_t) {
  return value;
}
double One(double, uint64_t, uint64_t) {
  return 1.0;
}
double SymmetricUniform(double, uint64_t key, uint64_t index) {
  return 2.0 * UniformAt(key, index) - 1.0;
}

void CopyTensor(const TensorView& source, const TensorView& destination) {
  SALAMANDER_CHECK(source.SameShape(destination))
      << source.ShapeString() << " to " << destination.ShapeString();
  std::memcpy(destination.raw(), source.raw(), static_cast<size_t>(source.bytes()));
}

// Rows of KV head g, head_dim of them, go to every query head of the group, consecutively.
void ExpandHeads(const TensorView& source, const TensorView& destination, int64_t head_dim) {
  const int64_t heads = destination.dim(0) / head_dim;
  const int64_t group = heads / (source.dim(0) / head_dim);
  for (int64_t head = 0; head < heads; ++head) {
    CopyTensor(source.Rows(head / group * head_dim, head_dim),
               destination.Rows(head * head_dim, head_dim));
  }
}

std::string Replaced(const std::string& name, const char* from, const char* to) {
  const size_t at = name.find(from);
  return at == std::string::npos ? name
                                 : name.substr(0, at) + to + name.substr(at + std::strlen(from));
}

// Fills one tensor of the result and says how.
class Transfer {
 public:
  Transfer(const ModelWeights& source, const ModelWeights& result, const ConversionOptions& options)
      : source_(source), result_(result), options_(options) {}

  TransferRecord Candidate(const ParameterSpec& spec) const;
  TransferRecord Kept(const ParameterSpec& spec) const;
  TransferRecord FromCandidate(const ParameterSpec& spec) const;

 private:
  TransferRecord Copied(const ParameterSpec& spec, const std::string& from) const {
    CopyTensor(source_.View(from), result_.View(spec.name));
    return {spec.name, from, TransferFate::kCopied};
  }

  TransferRecord Output(const ParameterSpec& spec, const std::string& from, bool gains_gate) const {
    TransferRecord record = Copied(spec, from);
    if (gains_gate && options_.gate == GateInitialization::kOpen) {
      Map(result_.View(spec.name), Identity, 0, 2.0);
      record.fate = TransferFate::kDoubled;
    }
    return record;
  }

  TransferRecord FreshGate(const ParameterSpec& spec, bool lightning) const {
    const TensorView gate = result_.View(spec.name);
    if (options_.gate == GateInitialization::kRandom && lightning) {
      const uint64_t key = HashCounter(options_.seed, HashName(spec.name));
      Map(gate, SymmetricUniform, key, 1.0 / std::sqrt(static_cast<double>(gate.dim(1))));
    } else if (options_.gate == GateInitialization::kRandom) {
      FillNormal(gate, spec.name, options_.seed, kKeptGateDeviation);
    }
    return {spec.name, "", TransferFate::kInitialized};
  }

  TransferRecord Ones(const ParameterSpec& spec) const {
    Map(result_.View(spec.name), One, 0, 1.0);
    return {spec.name, "", TransferFate::kInitialized};
  }

  const ModelWeights& source_;
  const ModelWeights& result_;
  const ConversionOptions& options_;
};

TransferRecord Transfer::Candidate(const ParameterSpec& spec) const {
  const std::string from = Replaced(spec.name, kCandidate, kMixer);
  if (absl::EndsWith(spec.name, ".key.weight") || absl::EndsWith(spec.name, ".value.weight")) {
    ExpandHeads(source_.View(from), result_.View(spec.name), result_.config.lightning.head_dim);
    return {spec.name, from, TransferFate::kExpanded};
  }
  if (absl::EndsWith(spec.name, ".gate.weight")) {
    const TensorView own = source_.View(from);
    return own.empty() ? FreshGate(spec, true) : Copied(spec, from);
  }
  if (absl::EndsWith(spec.name, ".output.weight")) {
    return Output(spec, from, source_.View(Replaced(from, ".output.", ".gate.")).empty());
  }
  return source_.View(from).empty() ? Ones(spec) : Copied(spec, from);
}

TransferRecord Transfer::Kept(const ParameterSpec& spec) const {
  const bool gains_gate = !source_.config.softmax.use_output_gate;
  if (gains_gate && absl::EndsWith(spec.name, ".mixer.gate.weight")) return FreshGate(spec, false);
  if (absl::EndsWith(spec.name, ".mixer.output.weight")) return Output(spec, spec.name, gains_gate);
  return Copied(spec, spec.name);
}

TransferRecord Transfer::FromCandidate(const ParameterSpec& spec) const {
  return Copied(spec, Replaced(spec.name, kMixer, kCandidate));
}

std::vector<TransferRecord> DroppedRecords(const ModelWeights& source,
                                           const std::vector<TransferRecord>& records) {
  std::set<std::string> used;
  for (const TransferRecord& record : records) used.insert(record.source);
  std::vector<TransferRecord> dropped;
  for (const ParameterSpec& spec : source.layout.specs()) {
    if (used.count(spec.name) == 0)
      dropped.push_back({spec.name, spec.name, TransferFate::kDropped});
  }
  return dropped;
}

}  // namespace

absl::StatusOr<ModelConfig> CandidateConfig(const ModelConfig& teacher) {
  ModelConfig config = teacher;
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    if (config.layers[layer].mixer != MixerKind::kSoftmax) {
      return absl::FailedPreconditionError(
          absl::StrCat("convert: layer ", layer, " is ", Name(config.layers[layer].mixer),
                       " attention already; convert --all starts from a full-attention model"));
    }
    config.layers[layer].has_candidate = true;
  }
  config.lightning = {.heads = config.softmax.heads,
                      .kv_heads = config.softmax.heads,
                      .head_dim = config.softmax.head_dim,
                      .slopes = {}};
  RETURN_IF_ERROR(config.Validate());
  return config;
}

absl::StatusOr<ModelConfig> HybridConfig(const ModelConfig& candidates,
                                         absl::Span<const int64_t> kept,
                                         const ConversionOptions& options) {
  const std::set<int64_t> keep(kept.begin(), kept.end());
  if (keep.size() != kept.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "convert: the list of kept layers names a layer twice: ", absl::StrJoin(kept, ", ")));
  }
  if (!keep.empty() && (*keep.begin() < 0 || *keep.rbegin() >= candidates.layer_count())) {
    return absl::InvalidArgumentError(absl::StrCat("convert: kept layers ",
                                                   absl::StrJoin(kept, ", "), " are not all in 0..",
                                                   candidates.layer_count() - 1));
  }
  ModelConfig config = candidates;
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    LayerConfig& entry = config.layers[static_cast<size_t>(layer)];
    if (keep.count(layer) == 0) {
      if (!entry.has_candidate) {
        return absl::FailedPreconditionError(
            absl::StrCat("convert: layer ", layer,
                         " has no Lightning candidate to take its place; run convert --all first"));
      }
      entry.mixer = MixerKind::kLightning;
    }
    entry.has_candidate = false;
  }
  config.family = ModelFamily::kMiniCpmSala;
  config.softmax.use_rope = options.rope_in_kept_layers && config.softmax.use_rope;
  config.softmax.use_output_gate = true;
  config.softmax.sparse = options.sparse;
  RETURN_IF_ERROR(config.Validate());
  return config;
}

absl::StatusOr<ModelWeights> ModelWeights::Create(const ModelConfig& config, DType dtype,
                                                  const TensorShard& shard) {
  ParameterLayout layout(config, shard);
  ASSIGN_OR_RETURN(ParameterBuffer buffer, ParameterBuffer::Create(layout, dtype));
  return ModelWeights{config, std::move(layout), std::move(buffer)};
}

TensorView ModelWeights::View(const std::string& name) const {
  const ParameterSpec* spec = layout.Find(name);
  return spec == nullptr ? TensorView() : buffer.View(*spec);
}

absl::StatusOr<Conversion> AddCandidates(const ModelWeights& teacher,
                                         const ConversionOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig config, CandidateConfig(teacher.config));
  ASSIGN_OR_RETURN(ModelWeights model, ModelWeights::Create(config, teacher.buffer.Flat().dtype()));
  std::vector<TransferRecord> records;
  const Transfer transfer(teacher, model, options);
  for (const ParameterSpec& spec : model.layout.specs()) {
    if (spec.role == ParameterRole::kCandidate) {
      records.push_back(transfer.Candidate(spec));
    } else {
      CopyTensor(teacher.View(spec.name), model.View(spec.name));
      records.push_back({spec.name, spec.name, TransferFate::kCopied});
    }
  }
  return Conversion{std::move(model), std::move(records)};
}

absl::StatusOr<Conversion> KeepLayers(const ModelWeights& candidates,
                                      absl::Span<const int64_t> kept,
                                      const ConversionOptions& options) {
  ASSIGN_OR_RETURN(const ModelConfig config, HybridConfig(candidates.config, kept, options));
  ASSIGN_OR_RETURN(ModelWeights model,
                   ModelWeights::Create(config, candidates.buffer.Flat().dtype()));
  std::vector<TransferRecord> records;
  const Transfer transfer(candidates, model, options);
  for (const ParameterSpec& spec : model.layout.specs()) {
    records.push_back(spec.role == ParameterRole::kLightningMixer ? transfer.FromCandidate(spec)
                                                                  : transfer.Kept(spec));
  }
  for (TransferRecord& record : DroppedRecords(candidates, records))
    records.push_back(std::move(record));
  return Conversion{std::move(model), std::move(records)};
}

absl::string_view Name(TransferFate fate) {
  switch (fate) {
    case TransferFate::kCopied:
      return "copied";
    case TransferFate::kExpanded:
      return "expanded";
    case TransferFate::kDoubled:
      return "doubled";
    case TransferFate::kInitialized:
      return "initialized";
    case TransferFate::kDropped:
      return "dropped";
  }
  return "unknown";
}

}  // namespace salamander
