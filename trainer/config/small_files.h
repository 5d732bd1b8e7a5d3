// Model shapes and the smaller YAML files: a model to train from scratch, a selection, a list of
// kept layers, a sparse section.
#ifndef TRAINER_CONFIG_SMALL_FILES_H_
#define TRAINER_CONFIG_SMALL_FILES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "model/config.h"
#include "trainer/config/field_visitor.h"

namespace salamander {

// A dense model's shape; the vocabulary may be left out where data gives it.
absl::StatusOr<ModelConfig> ReadModelShape(const std::string& path);

absl::StatusOr<SparseConfig> ReadSparseConfig(const std::string& path);

enum class ScorerKind { kHaloRatio, kRecallDrop, kUniform, kExplicit };

// select.yaml
struct SelectionConfig {
  ScorerKind scorer = ScorerKind::kHaloRatio;
  double keep_fraction = 0.25;
  int64_t keep_count = 0;  // 0: the fraction, rounded down
  bool force_first = true;
  bool force_last = true;
  double epsilon = 1e-6;
  double cap = 50.0;
  std::vector<int64_t> layers;  // explicit
  int64_t layer_count = 0;      // where no candidates and no table say it
  // A published or earlier table:
  std::string scores;  // CSV
  std::vector<std::string> recall_columns = {"recall"};
  std::vector<std::string> common_columns = {"common"};
  // Or measured: each layer's candidate swapped in alone.
  std::string candidates;  // checkpoint or run
  std::string data;        // token file
  double held_out = 0.02;
  int64_t sequence_length = 512;
  int64_t sequences = 16;  // for common ability
  int64_t recall_length = 512;
  int64_t recall_pairs = 8;
  int64_t recall_samples = 32;
  int64_t seed = 0;
};
absl::StatusOr<SelectionConfig> ReadSelection(const std::string& path);

// The sections that recipes hold too.
void VisitSparse(FieldVisitor& visitor, SparseConfig& sparse);
void VisitSelection(FieldVisitor& visitor, SelectionConfig& selection);

// keep.yaml
struct KeptLayers {
  std::vector<int64_t> layers;
  std::string scorer;  // where the list comes from
  std::string candidates;
};
// A file, or a list "0,3,11".
absl::StatusOr<KeptLayers> ReadKeptLayers(const std::string& file_or_list);
std::string KeptLayersText(const KeptLayers& kept);

}  // namespace salamander

#endif  // TRAINER_CONFIG_SMALL_FILES_H_
