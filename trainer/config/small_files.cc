#include "trainer/config/small_files.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"
#include "trainer/config/field_visitor.h"

namespace salamander {
namespace {

constexpr int64_t kLargestFile = int64_t{4} << 20;
constexpr NumberRange kPositive = {1e-300};

// Beyond any model there is, and small enough that sizes made of them do not overflow.
constexpr int64_t kMostLayers = 4096;
constexpr int64_t kLargestDimension = int64_t{1} << 20;

constexpr absl::string_view kFamilies[] = {"llama", "qwen3", "minicpm"};
constexpr absl::string_view kScorers[] = {"halo_ratio", "recall_drop", "uniform", "explicit"};

absl::Status ReadFile(const std::string& path, const FieldVisitor::Visit& visit) {
  ASSIGN_OR_RETURN(const std::string text, ReadFileBytes(path, kLargestFile));
  ASSIGN_OR_RETURN(const ConfigNode root, ParseConfig(text, path));
  return ReadFields(root, visit);
}

struct Shape {
  ModelConfig config;
  int64_t layers = 0;
};

void VisitShape(FieldVisitor& v, Shape& shape) {
  ModelConfig& config = shape.config;
  v.Choice("family", config.family, kFamilies);
  v.Integer("vocabulary", config.vocabulary, Unit::kCount, 0, Need::kOptional);
  v.Integer("width", config.width, Unit::kCount, 1, Need::kRequired);
  v.Integer("intermediate", config.intermediate, Unit::kCount, 1, Need::kRequired);
  v.Integer("layers", shape.layers, Unit::kCount, 1, Need::kRequired);
  v.Integer("heads", config.softmax.heads, Unit::kCount, 1, Need::kRequired);
  v.Integer("kv_heads", config.softmax.kv_heads, Unit::kCount, 1, Need::kRequired);
  v.Integer("head_dim", config.softmax.head_dim, Unit::kCount, 2, Need::kRequired);
  v.Integer("max_positions", config.max_positions, Unit::kLength, 1, Need::kRequired);
  v.Flag("tie_embeddings", config.tie_embeddings);
  v.Number("norm_epsilon", config.norm_epsilon, kPositive, Need::kOptional);
  v.Number("initializer_range", config.initializer_range, kPositive, Need::kOptional);
  v.Number("rope_theta", config.rope.theta, kPositive, Need::kOptional);
  v.Number("embedding_scale", config.embedding_scale, kPositive, Need::kOptional);
  v.Number("scale_depth", config.scale_depth, {0.0}, Need::kOptional);
  v.Integer("dim_model_base", config.dim_model_base, Unit::kCount, 0, Need::kOptional);
}

absl::Status CheckSizes(const Shape& shape) {
  struct Size {
    absl::string_view key;
    int64_t found, most;
  };
  const ModelConfig& config = shape.config;
  for (const Size& size : {Size{"layers", shape.layers, kMostLayers},
                           Size{"vocabulary", config.vocabulary, kLargestDimension},
                           Size{"width", config.width, kLargestDimension},
                           Size{"intermediate", config.intermediate, kLargestDimension},
                           Size{"heads", config.softmax.heads, kLargestDimension},
                           Size{"kv_heads", config.softmax.kv_heads, kLargestDimension},
                           Size{"head_dim", config.softmax.head_dim, kLargestDimension}}) {
    if (size.found > size.most) {
      return absl::InvalidArgumentError(
          absl::StrCat(size.key, ": ", size.found, "; expected at most ", size.most));
    }
  }
  return absl::OkStatus();
}

void VisitKept(FieldVisitor& v, KeptLayers& kept) {
  v.Integers("layers", kept.layers, Unit::kCount);
  v.Text("scorer", kept.scorer, Need::kOptional);
  v.Text("candidates", kept.candidates, Need::kOptional);
}

// "0,3,11"; false where the text is not such a list.
bool ParseLayerList(const std::string& text, std::vector<int64_t>& layers) {
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int64_t layer = 0;
    if (!absl::SimpleAtoi(part, &layer)) return false;
    layers.push_back(layer);
  }
  return true;
}

}  // namespace

void VisitSparse(FieldVisitor& v, SparseConfig& sparse) {
  v.Integer("kernel_size", sparse.kernel_size, Unit::kCount, 1, Need::kOptional);
  v.Integer("kernel_stride", sparse.kernel_stride, Unit::kCount, 1, Need::kOptional);
  v.Integer("block_size", sparse.block_size, Unit::kCount, 1, Need::kOptional);
  v.Integer("init_blocks", sparse.init_blocks, Unit::kCount, 0, Need::kOptional);
  v.Integer("window_size", sparse.window_size, Unit::kLength, 0, Need::kOptional);
  v.Integer("top_k", sparse.top_k, Unit::kCount, 1, Need::kOptional);
  v.Integer("dense_length", sparse.dense_length, Unit::kLength, 0, Need::kOptional);
}

void VisitSelection(FieldVisitor& v, SelectionConfig& selection) {
  v.Choice("scorer", selection.scorer, kScorers);
  v.Number("keep_fraction", selection.keep_fraction, {0.0, 1.0}, Need::kOptional);
  v.Integer("keep_count", selection.keep_count, Unit::kCount, 0, Need::kOptional);
  v.Flag("force_first", selection.force_first);
  v.Flag("force_last", selection.force_last);
  v.Number("epsilon", selection.epsilon, kPositive, Need::kOptional);
  v.Number("cap", selection.cap, kPositive, Need::kOptional);
  v.Integers("layers", selection.layers, Unit::kCount);
  v.Integer("layer_count", selection.layer_count, Unit::kCount, 0, Need::kOptional);
  v.Text("scores", selection.scores, Need::kOptional);
  v.Texts("recall_columns", selection.recall_columns);
  v.Texts("common_columns", selection.common_columns);
  v.Text("candidates", selection.candidates, Need::kOptional);
  v.Text("data", selection.data, Need::kOptional);
  v.Number("held_out", selection.held_out, {0.0, 0.5}, Need::kOptional);
  v.Integer("sequence_length", selection.sequence_length, Unit::kLength, 2, Need::kOptional);
  v.Integer("sequences", selection.sequences, Unit::kCount, 1, Need::kOptional);
  v.Integer("recall_length", selection.recall_length, Unit::kLength, 2, Need::kOptional);
  v.Integer("recall_pairs", selection.recall_pairs, Unit::kCount, 1, Need::kOptional);
  v.Integer("recall_samples", selection.recall_samples, Unit::kCount, 1, Need::kOptional);
  v.Integer("seed", selection.seed, Unit::kCount, 0, Need::kOptional);
}

absl::StatusOr<ModelConfig> ReadModelShape(const std::string& path) {
  Shape shape;
  RETURN_IF_ERROR(ReadFile(path, [&](FieldVisitor& visitor) { VisitShape(visitor, shape); }));
  RETURN_IF_ERROR(Annotate(CheckSizes(shape), path));
  ModelConfig& config = shape.config;
  config.layers.resize(static_cast<size_t>(shape.layers));
  config.softmax.use_qk_norm = config.family == ModelFamily::kQwen3;
  if (config.scale_depth > 0)
    config.residual_scale = config.scale_depth / std::sqrt(static_cast<double>(shape.layers));
  if (config.dim_model_base > 0)
    config.logit_scale =
        static_cast<double>(config.dim_model_base) / static_cast<double>(config.width);
  return config;
}

absl::StatusOr<SparseConfig> ReadSparseConfig(const std::string& path) {
  SparseConfig sparse;
  RETURN_IF_ERROR(ReadFile(path, [&](FieldVisitor& visitor) { VisitSparse(visitor, sparse); }));
  return sparse;
}

absl::StatusOr<SelectionConfig> ReadSelection(const std::string& path) {
  SelectionConfig selection;
  RETURN_IF_ERROR(
      ReadFile(path, [&](FieldVisitor& visitor) { VisitSelection(visitor, selection); }));
  return selection;
}

absl::StatusOr<KeptLayers> ReadKeptLayers(const std::string& file_or_list) {
  KeptLayers kept;
  if (ParseLayerList(file_or_list, kept.layers)) return kept;
  kept.layers.clear();
  const absl::Status status =
      ReadFile(file_or_list, [&](FieldVisitor& visitor) { VisitKept(visitor, kept); });
  if (absl::IsNotFound(status)) {
    return absl::NotFoundError(absl::StrCat(
        "kept layers ", file_or_list, ": neither a list, as 0,3,11, nor a file that is there"));
  }
  RETURN_IF_ERROR(status);
  return kept;
}

std::string KeptLayersText(const KeptLayers& kept) {
  KeptLayers copy = kept;  // visitors take fields they may fill
  return WriteFields([&](FieldVisitor& visitor) { VisitKept(visitor, copy); });
}

}  // namespace salamander
