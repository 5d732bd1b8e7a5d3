// Which layers stay softmax. A table holds, for each layer, how the model does with that layer
// alone replaced by its aligned Lightning candidate; a scorer turns it into importances; the most
// important layers are kept.
//   HALO (arXiv 2601.22156 eq. 8):  s_i = min(cap, (max_j R_j - R_i) / (max_j C_j - C_i + epsilon))
// R recall, C common-sense ability, both larger is better, maxima over the single-swap models.
// Equal scores go to the lower layer.
#ifndef MODEL_CONVERSION_LAYER_SCORES_H_
#define MODEL_CONVERSION_LAYER_SCORES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace salamander {

struct LayerAbility {
  double recall = 0.0;
  double common = 0.0;
};

// Row i is the model with only layer i swapped.
using ScoreTable = std::vector<LayerAbility>;

struct ScoreColumns {
  std::vector<std::string> recall, common;  // averaged
};

// Reads "layer,<column>,..." with one row per layer in any order. Refuses, naming line and column:
// a missing column, layer or value, a duplicate layer, a number that is not finite, a layer count
// other than expected (0 accepts any).
absl::StatusOr<ScoreTable> ParseScoreTable(absl::string_view csv, const ScoreColumns& columns,
                                           int64_t expected_layers);

// Refuses an empty table and values that are not finite.
absl::Status ValidateScoreTable(const ScoreTable& table);

class LayerScorer {
 public:
  virtual ~LayerScorer() = default;
  virtual std::string name() const = 0;
  // Importance of each layer; larger stays.
  virtual absl::StatusOr<std::vector<double>> Score(const ScoreTable& table) const = 0;
};

struct HaloRatioOptions {
  double epsilon = 1e-6;
  double cap = 50.0;
};
std::unique_ptr<LayerScorer> HaloRatioScorer(const HaloRatioOptions& options);

// max R - R_i alone: better conditioned than the ratio, whose denominator vanishes at the best
// common-sense layer.
std::unique_ptr<LayerScorer> RecallDropScorer();

struct SelectionOptions {
  int64_t keep_count = 0;
  bool force_first = true;
  bool force_last = true;
};

// Forced layers, then the highest scores, keep_count in all; ascending. Fails where keep_count does
// not fit.
absl::StatusOr<std::vector<int64_t>> SelectLayers(absl::Span<const double> scores,
                                                  const SelectionOptions& options);

// keep_count layers evenly spaced from the first (and to the last where it is forced).
absl::StatusOr<std::vector<int64_t>> UniformLayers(int64_t layers, const SelectionOptions& options);

}  // namespace salamander

#endif  // MODEL_CONVERSION_LAYER_SCORES_H_
