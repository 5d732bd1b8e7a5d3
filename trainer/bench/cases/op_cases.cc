#include "trainer/bench/cases/op_cases.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

constexpr int64_t kOptimizedMatrices = 4;
constexpr double kTrainedShare = 0.87;  // of a trained model's neighbours among the older blocks
constexpr int64_t kMostLogitRows = 64;  // logits are for the sequences of a batch that generates

struct TableRow {
  const char* name;
  std::vector<int64_t> dims;
  CaseMaker make;
  const char* remark = "";
};

std::string ShapeText(const TableRow& row) {
  return absl::StrCat("[", absl::StrJoin(row.dims, ", "), "]", row.remark);
}

// T tokens; C width, F inner width of the MLP, V vocabulary; H query and Hkv KV heads of D in
// softmax attention, Hl heads of Dl in Lightning attention.
std::vector<TableRow> CaseTable(const CaseStream& stream) {
  const ModelConfig& config = stream.config;
  const int64_t T = stream.tokens, C = config.width, F = config.intermediate, V = config.vocabulary;
  const int64_t H = config.softmax.heads, Hkv = config.softmax.kv_heads,
                D = config.softmax.head_dim;
  const int64_t Hl = config.lightning.heads, Dl = config.lightning.head_dim;
  return {
      {"copy", {T, C}, CopyCase},
      {"convert", {T, C}, ConvertCase},
      {"swiglu forward", {T, F}, SwigluForwardCase},
      {"swiglu backward", {T, F}, SwigluBackwardCase},
      {"sigmoid_gate forward", {T, C}, SigmoidGateForwardCase},
      {"sigmoid_gate backward", {T, C}, SigmoidGateBackwardCase},
      {"layer_mse", {T, C}, LayerMseCase},
      {"rms_norm forward", {T, C}, RmsNormForwardCase},
      {"rms_norm backward", {T, C}, RmsNormBackwardCase},
      {"head_norm_rope forward", {T, Hl, Dl}, HeadNormRopeForwardCase},
      {"head_norm_rope backward", {T, Hl, Dl}, HeadNormRopeBackwardCase},
      {"rope_tables", {T, Dl}, RopeTablesCase},
      {"adamw", {kOptimizedMatrices, F, C}, AdamWCase},
      {"sum_of_squares", {kOptimizedMatrices, F, C}, SumOfSquaresCase},
      {"embedding forward", {T, V, C}, EmbeddingForwardCase},
      {"embedding backward", {T, V, C}, EmbeddingBackwardCase},
      {"linear query forward", {T, C, H * D}, LinearForwardCase},
      {"linear query backward", {T, C, H * D}, LinearBackwardCase},
      {"linear key forward", {T, C, Hkv * D}, LinearForwardCase},
      {"linear key backward", {T, C, Hkv * D}, LinearBackwardCase},
      {"linear up forward", {T, C, F}, LinearForwardCase},
      {"linear up backward", {T, C, F}, LinearBackwardCase},
      {"linear down forward", {T, F, C}, LinearForwardCase},
      {"linear down backward", {T, F, C}, LinearBackwardCase},
      {"head cross-entropy with gradients", {T, V, C}, HeadCrossEntropyCase},
      {"head distillation with gradients", {T, V, C}, HeadDistillationCase},
      {"head logits", {std::min(T, kMostLogitRows), V, C}, HeadLogitsCase},
      {"dense_attention forward", {T, H, Hkv, D}, DenseAttentionForwardCase},
      {"dense_attention backward", {T, H, Hkv, D}, DenseAttentionBackwardCase},
      {"lightning forward", {T, Hl, Dl}, LightningForwardCase},
      {"lightning backward", {T, Hl, Dl}, LightningBackwardCase},
      {"block_selection", {T, H, Hkv, D}, BlockSelectionCase},
      {"sparse_attention forward",
       {T, H, Hkv, D},
       SparseAttentionForwardCase(kTrainedShare),
       " shared 0.87"},
      {"sparse_attention backward",
       {T, H, Hkv, D},
       SparseAttentionBackwardCase(kTrainedShare),
       " shared 0.87"},
      {"sparse_attention forward", {T, H, Hkv, D}, SparseAttentionForwardCase(0.0), " shared 0"},
      {"sparse_attention backward", {T, H, Hkv, D}, SparseAttentionBackwardCase(0.0), " shared 0"},
  };
}

}  // namespace

CaseStream CaseStream::Of(const ModelConfig& config, const std::vector<int64_t>& document_lengths) {
  CaseStream stream{
      .config = config, .tokens = 0, .segments = {}, .slopes = LightningSlopes(config.lightning)};
  for (const int64_t length : document_lengths) {
    stream.segments.push_back(
        {.query_begin = stream.tokens, .query_count = length, .key_begin = stream.tokens});
    stream.tokens += length;
  }
  return stream;
}

std::vector<OpCase> OpCases(const CaseStream& stream) {
  std::vector<OpCase> cases;
  for (TableRow& row : CaseTable(stream)) {
    OpCase op_case{.name = row.name, .shape = ShapeText(row), .prepare = {}};
    op_case.prepare = [shape = CaseShape{stream, std::move(row.dims)}, make = std::move(row.make)](
                          RandomTensors& random) { return make(shape, random); };
    cases.push_back(std::move(op_case));
  }
  return cases;
}

}  // namespace salamander
