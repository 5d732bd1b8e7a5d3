// From a full-attention model to the hybrid, in two moves.
//   1. Beside every softmax mixer a Lightning candidate made of its weights: query and output
//      projections copied, key and value projections expanded so that new head h copies old KV
//      head h / (H / Hkv), per-head norms copied or ones, output norm ones, gate fresh.
//   2. Kept layers stay softmax, lose RoPE (HyPE) and gain an output gate; every other layer takes
//      its candidate.
// Embeddings, MLPs, norms, head and muP scales are the teacher's throughout. Source: arXiv
// 2601.22156 sec. 4.1, 5; 2602.11761.
#ifndef MODEL_CONVERSION_TRANSFER_H_
#define MODEL_CONVERSION_TRANSFER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "model/config.h"
#include "model/parameters.h"

namespace salamander {

// How a new output gate starts. A gate has no bias, so sigmoid(0) = 1/2 is its neutral value.
enum class GateInitialization {
  kRandom,  // as published: uniform in +-1/sqrt(C) in Lightning layers, Normal(0, 0.02) in kept
            // layers; halves the output
  kOpen,  // zero, and the output projection doubled: the gated layer computes what the ungated one
          // did
};

struct ConversionOptions {
  GateInitialization gate = GateInitialization::kRandom;
  bool rope_in_kept_layers = false;  // true: RoPE leaves the kept layers later, by a stage's switch
  SparseConfig sparse;  // of the kept layers, for the stage that turns sparse attention on
  uint64_t seed = 0;    // of fresh weights
};

enum class TransferFate { kCopied, kExpanded, kDoubled, kInitialized, kDropped };

struct TransferRecord {
  std::string name;    // in the result; in the source where dropped
  std::string source;  // empty where initialised
  TransferFate fate = TransferFate::kCopied;
};

// The teacher's config with a candidate beside every softmax layer. Fails where a layer is
// Lightning already.
absl::StatusOr<ModelConfig> CandidateConfig(const ModelConfig& teacher);

// The hybrid that keeps `kept` (sorted, unique layer indices) as softmax layers. Fails on an index
// that is not a layer, a duplicate, or a layer without a candidate.
absl::StatusOr<ModelConfig> HybridConfig(const ModelConfig& candidates,
                                         absl::Span<const int64_t> kept,
                                         const ConversionOptions& options);

// A model's config, layout and weights as one.
struct ModelWeights {
  ModelConfig config;
  ParameterLayout layout;
  ParameterBuffer buffer;

  // On the host; a tensor rank's part where `shard` says so.
  static absl::StatusOr<ModelWeights> Create(const ModelConfig& config, DType dtype,
                                             const TensorShard& shard = {});
  TensorView View(const std::string& name) const;  // empty where there is none
};

struct Conversion {
  ModelWeights model;
  std::vector<TransferRecord> records;  // every tensor of source and result once
};

absl::StatusOr<Conversion> AddCandidates(const ModelWeights& teacher,
                                         const ConversionOptions& options);
absl::StatusOr<Conversion> KeepLayers(const ModelWeights& candidates,
                                      absl::Span<const int64_t> kept,
                                      const ConversionOptions& options);

absl::string_view Name(TransferFate fate);

}  // namespace salamander

#endif  // MODEL_CONVERSION_TRANSFER_H_
