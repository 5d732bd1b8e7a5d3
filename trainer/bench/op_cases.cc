#include "trainer/bench/op_cases.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/adamw.h"
#include "kernels/base/random.h"
#include "kernels/base/status_macros.h"
#include "kernels/block_selection.h"
#include "kernels/dense_attention.h"
#include "kernels/embedding.h"
#include "kernels/head_loss.h"
#include "kernels/head_norm_rope.h"
#include "kernels/layer_mse.h"
#include "kernels/lightning_attention.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "kernels/rms_norm.h"
#include "kernels/sigmoid_gate.h"
#include "kernels/sparse_attention.h"
#include "kernels/swiglu.h"
#include "model/flops.h"
#include "model/layers/block_selection_shape.h"

namespace salamander {
namespace {

// Random values are made once for so many elements and repeated: making half a billion would take
// longer than the benchmark. A prime, so that rows of equal length do not meet equal values.
constexpr int64_t kPatternElements = 1048573;

// What the cases of one stream share.
struct Stream {
  ModelConfig config;
  int64_t tokens;
  std::vector<Segment> segments;
  std::vector<double> slopes;

  int64_t width() const { return config.width; }
};

double Size(const TensorView& view) {
  return static_cast<double>(view.bytes());
}

template <typename... Views>
double Bytes(const Views&... views) {
  return (Size(views) + ...);
}

std::string Shape(std::initializer_list<int64_t> dims) {
  std::string text = "[";
  for (const int64_t dim : dims) absl::StrAppend(&text, text.size() > 1 ? ", " : "", dim);
  return text + "]";
}

void AddLinear(const Stream& s, const char* name, int64_t in, int64_t out,
               std::vector<OpCase>& cases) {
  const int64_t tokens = s.tokens;
  const double flops = 2.0 * static_cast<double>(tokens * in) * static_cast<double>(out);
  const std::string shape = Shape({tokens, in, out});
  cases.push_back({absl::StrCat("linear ", name, " forward"), shape, [=](CaseTensors& t) {
                     const LinearForwardArgs args{.input = t.Activation({tokens, in}),
                                                  .weight = t.Activation({out, in}, 0.02),
                                                  .output = t.Activation({tokens, out})};
                     return OpRun{
                         flops, Bytes(args.input, args.weight, args.output),
                         [=](const auto& context) { return LinearForward(context, args); }};
                   }});
  cases.push_back({absl::StrCat("linear ", name, " backward"), shape, [=](CaseTensors& t) {
                     const LinearBackwardArgs args{.input = t.Activation({tokens, in}),
                                                   .weight = t.Activation({out, in}, 0.02),
                                                   .d_output = t.Activation({tokens, out}),
                                                   .d_input = t.Activation({tokens, in}),
                                                   .d_weight = t.Zeros(DType::kFloat32, {out, in})};
                     return OpRun{
                         2 * flops, Bytes(args.input, args.weight, args.d_output, args.d_input),
                         [=](const auto& context) { return LinearBackward(context, args); }};
                   }});
}

void AddRmsNorm(const Stream& s, std::vector<OpCase>& cases) {
  const int64_t tokens = s.tokens, width = s.width();
  const std::string shape = Shape({tokens, width});
  cases.push_back({"rms_norm forward", shape, [=](CaseTensors& t) {
                     const RmsNormForwardArgs args{.residual = t.Activation({tokens, width}),
                                                   .branch = t.Activation({tokens, width}),
                                                   .branch_scale = 0.25,
                                                   .weight = t.Activation({width}),
                                                   .hidden = t.Activation({tokens, width}),
                                                   .output = t.Activation({tokens, width}),
                                                   .inverse_rms = t.Statistic({tokens})};
                     return OpRun{
                         0, Bytes(args.residual, args.branch, args.hidden, args.output),
                         [=](const auto& context) { return RmsNormForward(context, args); }};
                   }});
  cases.push_back(
      {"rms_norm backward", shape, [=](CaseTensors& t) {
         const RmsNormBackwardArgs args{.hidden = t.Activation({tokens, width}),
                                        .weight = t.Activation({width}),
                                        .inverse_rms = t.Statistic({tokens}),
                                        .d_output = t.Activation({tokens, width}),
                                        .d_hidden = t.Activation({tokens, width}),
                                        .branch_scale = 0.25,
                                        .d_residual = t.Activation({tokens, width}),
                                        .d_branch = t.Activation({tokens, width}),
                                        .d_weight = t.Zeros(DType::kFloat32, {width})};
         return OpRun{
             0, Bytes(args.hidden, args.d_output, args.d_hidden, args.d_residual, args.d_branch),
             [=](const auto& context) { return RmsNormBackward(context, args); }};
       }});
}

void AddHeadNormRope(const Stream& s, std::vector<OpCase>& cases) {
  const int64_t tokens = s.tokens, heads = s.config.lightning.heads,
                dim = s.config.lightning.head_dim;
  const std::string shape = Shape({tokens, heads, dim});
  cases.push_back(
      {"head_norm_rope forward", shape, [=](CaseTensors& t) {
         const HeadNormRopeForwardArgs args{.input = t.Activation({tokens, heads, dim}),
                                            .weight = t.Activation({dim}),
                                            .cosines = t.Statistic({tokens, dim / 2}, -1, 1),
                                            .sines = t.Statistic({tokens, dim / 2}, -1, 1),
                                            .output = t.Activation({tokens, heads, dim}),
                                            .inverse_rms = t.Statistic({tokens, heads})};
         return OpRun{0, Bytes(args.input, args.output, args.cosines, args.sines),
                      [=](const auto& context) { return HeadNormRopeForward(context, args); }};
       }});
  cases.push_back(
      {"head_norm_rope backward", shape, [=](CaseTensors& t) {
         const HeadNormRopeBackwardArgs args{.input = t.Activation({tokens, heads, dim}),
                                             .weight = t.Activation({dim}),
                                             .cosines = t.Statistic({tokens, dim / 2}, -1, 1),
                                             .sines = t.Statistic({tokens, dim / 2}, -1, 1),
                                             .inverse_rms = t.Statistic({tokens, heads}),
                                             .d_output = t.Activation({tokens, heads, dim}),
                                             .d_input = t.Activation({tokens, heads, dim}),
                                             .d_weight = t.Zeros(DType::kFloat32, {dim})};
         return OpRun{0, Bytes(args.input, args.d_output, args.d_input, args.cosines, args.sines),
                      [=](const auto& context) { return HeadNormRopeBackward(context, args); }};
       }});
}

void AddPointwise(const Stream& s, std::vector<OpCase>& cases) {
  const int64_t tokens = s.tokens, width = s.width(), inner = s.config.intermediate;
  cases.push_back(
      {"swiglu forward", Shape({tokens, inner}), [=](CaseTensors& t) {
         const SwigluForwardArgs args{t.Activation({tokens, inner}), t.Activation({tokens, inner}),
                                      t.Activation({tokens, inner})};
         return OpRun{0, Bytes(args.gate, args.up, args.output),
                      [=](const auto& context) { return SwigluForward(context, args); }};
       }});
  cases.push_back(
      {"swiglu backward", Shape({tokens, inner}), [=](CaseTensors& t) {
         const SwigluBackwardArgs args{t.Activation({tokens, inner}), t.Activation({tokens, inner}),
                                       t.Activation({tokens, inner}), t.Activation({tokens, inner}),
                                       t.Activation({tokens, inner}), {}};
         return OpRun{0, Bytes(args.gate, args.up, args.d_output, args.d_gate, args.d_up),
                      [=](const auto& context) { return SwigluBackward(context, args); }};
       }});
  cases.push_back({"sigmoid_gate forward", Shape({tokens, width}), [=](CaseTensors& t) {
                     const SigmoidGateForwardArgs args{t.Activation({tokens, width}),
                                                       t.Activation({tokens, width}),
                                                       t.Activation({tokens, width})};
                     return OpRun{
                         0, Bytes(args.input, args.gate, args.output),
                         [=](const auto& context) { return SigmoidGateForward(context, args); }};
                   }});
  cases.push_back({"sigmoid_gate backward", Shape({tokens, width}), [=](CaseTensors& t) {
                     const SigmoidGateBackwardArgs args{
                         t.Activation({tokens, width}), t.Activation({tokens, width}),
                         t.Activation({tokens, width}), t.Activation({tokens, width}),
                         t.Activation({tokens, width})};
                     return OpRun{
                         0, Bytes(args.input, args.gate, args.d_output, args.d_input, args.d_gate),
                         [=](const auto& context) { return SigmoidGateBackward(context, args); }};
                   }});
  cases.push_back({"layer_mse", Shape({tokens, width}), [=](CaseTensors& t) {
                     const LayerMseArgs args{.output = t.Activation({tokens, width}),
                                             .target = t.Activation({tokens, width}),
                                             .row_weights = {},
                                             .gradient_scale = 1.0,
                                             .d_output = t.Activation({tokens, width}),
                                             .loss_sum = t.Zeros(DType::kFloat64, {1}),
                                             .moments = {}};
                     return OpRun{0, Bytes(args.output, args.target, args.d_output),
                                  [=](const auto& context) { return LayerMse(context, args); }};
                   }});
  cases.push_back({"copy", Shape({tokens, width}), [=](CaseTensors& t) {
                     const TensorView from = t.Activation({tokens, width});
                     const TensorView to = t.Activation({tokens, width});
                     return OpRun{0, Bytes(from, to),
                                  [=](const auto& context) { return Copy(context, from, to); }};
                   }});
}

void AddEmbedding(const Stream& s, std::vector<OpCase>& cases) {
  const int64_t tokens = s.tokens, width = s.width(), vocabulary = s.config.vocabulary;
  const std::string shape = Shape({tokens, width});
  cases.push_back({"embedding forward", shape, [=](CaseTensors& t) {
                     const EmbeddingForwardArgs args{.tokens = t.Integers({tokens}, vocabulary),
                                                     .table = t.Activation({vocabulary, width}),
                                                     .output = t.Activation({tokens, width}),
                                                     .scale = 12};
                     return OpRun{0, 2 * Size(args.output), [=](const auto& context) {
                                    return EmbeddingForward(context, args);
                                  }};
                   }});
  cases.push_back(
      {"embedding backward", shape, [=](CaseTensors& t) {
         const EmbeddingBackwardArgs args{.tokens = t.Integers({tokens}, vocabulary),
                                          .d_output = t.Activation({tokens, width}),
                                          .d_table = t.Zeros(DType::kFloat32, {vocabulary, width}),
                                          .scale = 12};
         // A distinct token reads and writes its row of the table.
         const double rows =
             static_cast<double>(vocabulary) *
             -std::expm1(-static_cast<double>(tokens) / static_cast<double>(vocabulary));
         return OpRun{0, Size(args.d_output) + 8.0 * rows * static_cast<double>(width),
                      [=](const auto& context) { return EmbeddingBackward(context, args); }};
       }});
}

void AddHead(const Stream& s, std::vector<OpCase>& cases) {
  const int64_t tokens = s.tokens, width = s.width(), vocabulary = s.config.vocabulary;
  const double flops = 2.0 * static_cast<double>(tokens * width) * static_cast<double>(vocabulary);
  cases.push_back({"head cross-entropy with gradients", Shape({tokens, width, vocabulary}),
                   [=](CaseTensors& t) {
                     const HeadCrossEntropyArgs args{
                         .hidden = t.Activation({tokens, width}, 0.1),
                         .head = t.Activation({vocabulary, width}, 0.1),
                         .logit_scale = 1.0,
                         .targets = t.Integers({tokens}, vocabulary),
                         .loss_weights = t.Statistic({tokens}, 1, 1),
                         .gradients = {.scale = 1.0,
                                       .d_hidden = t.Activation({tokens, width}),
                                       .d_head = t.Zeros(DType::kFloat32, {vocabulary, width})},
                         .token_losses = {},
                         .predictions = {},
                         .loss_sum = t.Zeros(DType::kFloat64, {1})};
                     return OpRun{
                         3 * flops, Bytes(args.hidden, args.head, args.gradients.d_hidden),
                         [=](const auto& context) { return HeadCrossEntropy(context, args); }};
                   }});
}

void AddDenseAttention(const Stream& s, std::vector<OpCase>& cases) {
  const SoftmaxConfig& softmax = s.config.softmax;
  const int64_t tokens = s.tokens, heads = softmax.heads, kv = softmax.kv_heads,
                dim = softmax.head_dim;
  ModelConfig dense = s.config;
  dense.softmax.use_sparse = false;
  dense.layers = {{.mixer = MixerKind::kSoftmax}};
  const double flops = ForwardFlops(dense, s.segments).dense_attention;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  const std::string shape = Shape({tokens, heads, kv, dim});
  const auto forward = [=, &s](CaseTensors& t) {
    return DenseAttentionForwardArgs{.q = t.Activation({tokens, heads, dim}),
                                     .k = t.Activation({tokens, kv, dim}),
                                     .v = t.Activation({tokens, kv, dim}),
                                     .segments = s.segments,
                                     .scale = scale,
                                     .out = t.Activation({tokens, heads, dim}),
                                     .logsumexp = t.Statistic({tokens, heads})};
  };
  cases.push_back({"dense_attention forward", shape, [=](CaseTensors& t) {
                     const DenseAttentionForwardArgs args = forward(t);
                     return OpRun{
                         flops, Bytes(args.q, args.k, args.v, args.out),
                         [=](const auto& context) { return DenseAttentionForward(context, args); }};
                   }});
  cases.push_back(
      {"dense_attention backward", shape, [=](CaseTensors& t) {
         const DenseAttentionForwardArgs f = forward(t);
         const DenseAttentionBackwardArgs args{.q = f.q,
                                               .k = f.k,
                                               .v = f.v,
                                               .segments = f.segments,
                                               .scale = f.scale,
                                               .out = f.out,
                                               .logsumexp = f.logsumexp,
                                               .d_out = t.Activation({tokens, heads, dim}),
                                               .dq = t.Activation({tokens, heads, dim}),
                                               .dk = t.Activation({tokens, kv, dim}),
                                               .dv = t.Activation({tokens, kv, dim})};
         return OpRun{
             2 * flops,
             Bytes(args.q, args.k, args.v, args.out, args.d_out, args.dq, args.dk, args.dv),
             [=](const auto& context) { return DenseAttentionBackward(context, args); }};
       }});
}

void AddLightning(const Stream& s, std::vector<OpCase>& cases) {
  const LightningConfig& lightning = s.config.lightning;
  const int64_t tokens = s.tokens, heads = lightning.heads, dim = lightning.head_dim;
  const double flops = LightningMixerFlops(s.config, tokens).lightning;
  const double scale = LightningScaleValue(lightning);
  const std::string shape = Shape({tokens, heads, dim});
  const auto heads_of = [=](CaseTensors& t) { return t.Activation({tokens, heads, dim}); };
  cases.push_back({"lightning forward", shape, [=, &s](CaseTensors& t) {
                     const LightningForwardArgs args{.q = heads_of(t),
                                                     .k = heads_of(t),
                                                     .v = heads_of(t),
                                                     .slopes = s.slopes,
                                                     .segments = s.segments,
                                                     .scale = scale,
                                                     .states = {},
                                                     .out = heads_of(t)};
                     return OpRun{
                         flops, Bytes(args.q, args.k, args.v, args.out),
                         [=](const auto& context) { return LightningForward(context, args); }};
                   }});
  cases.push_back({"lightning backward", shape, [=, &s](CaseTensors& t) {
                     const LightningBackwardArgs args{.q = heads_of(t),
                                                      .k = heads_of(t),
                                                      .v = heads_of(t),
                                                      .slopes = s.slopes,
                                                      .segments = s.segments,
                                                      .scale = scale,
                                                      .states = {},
                                                      .d_states = {},
                                                      .d_out = heads_of(t),
                                                      .dq = heads_of(t),
                                                      .dk = heads_of(t),
                                                      .dv = heads_of(t)};
                     return OpRun{
                         2 * flops,
                         Bytes(args.q, args.k, args.v, args.d_out, args.dq, args.dk, args.dv),
                         [=](const auto& context) { return LightningBackward(context, args); }};
                   }});
}

// Lists as a trained model's are judged by: the leading blocks and the local ones, and older ones
// of which a token shares `shared` with the token before it.
std::vector<int32_t> MadeUpLists(const SparseConfig& sparse, int64_t tokens, int64_t kv_heads,
                                 double shared) {
  const int64_t selected = sparse.selected_blocks();
  std::vector<int32_t> lists(static_cast<size_t>(tokens * kv_heads * selected), -1);
  for (int64_t head = 0; head < kv_heads; ++head) {
    std::set<int32_t> older;
    for (int64_t token = 0; token < tokens; ++token) {
      const int64_t own = token / sparse.block_size;
      const int64_t first_local = std::max<int64_t>(own - sparse.local_blocks(), 0);
      const int64_t first_older = std::min(sparse.init_blocks, first_local);
      const int64_t room = selected - (own - first_local + 1) - first_older;
      const int64_t wanted = std::min(room, first_local - first_older);
      const uint64_t key = HashCounter(static_cast<uint64_t>(token), static_cast<uint64_t>(head));
      for (auto block = older.begin(); block != older.end();) {
        const bool kept = UniformAt(key, static_cast<uint64_t>(*block)) < shared;
        block = kept && *block < first_local ? std::next(block) : older.erase(block);
      }
      for (uint64_t draw = 0; static_cast<int64_t>(older.size()) < wanted; ++draw) {
        const uint64_t among = static_cast<uint64_t>(first_local - first_older);
        older.insert(static_cast<int32_t>(
            first_older + static_cast<int64_t>(HashCounter(key + 1, draw) % among)));
      }
      int32_t* list = lists.data() + (token * kv_heads + head) * selected;
      for (int64_t block = 0; block < first_older; ++block) *list++ = static_cast<int32_t>(block);
      list = std::copy(older.begin(), older.end(), list);
      for (int64_t block = first_local; block <= own; ++block)
        *list++ = static_cast<int32_t>(block);
    }
  }
  return lists;
}

void AddSparseAttention(const Stream& s, double shared, std::vector<OpCase>& cases) {
  const SoftmaxConfig& softmax = s.config.softmax;
  const int64_t tokens = s.tokens, heads = softmax.heads, kv = softmax.kv_heads,
                dim = softmax.head_dim;
  ModelConfig sparse = s.config;
  sparse.softmax.use_sparse = true;
  sparse.softmax.sparse.dense_length = 0;
  sparse.layers = {{.mixer = MixerKind::kSoftmax}};
  const double flops = ForwardFlops(sparse, s.segments).sparse_attention;
  const double scale = 1.0 / std::sqrt(static_cast<double>(dim));
  const std::string shape = absl::StrCat(Shape({tokens, heads, kv, dim}), " shared ", shared);
  const auto forward = [=, &s](CaseTensors& t) {
    const auto lists = MadeUpLists(softmax.sparse, tokens, kv, shared);
    return SparseAttentionForwardArgs{
        .q = t.Activation({tokens, heads, dim}),
        .k = t.Activation({tokens, kv, dim}),
        .v = t.Activation({tokens, kv, dim}),
        .segments = s.segments,
        .blocks = t.Of(lists, {tokens, kv, softmax.sparse.selected_blocks()}),
        .block_size = softmax.sparse.block_size,
        .scale = scale,
        .out = t.Activation({tokens, heads, dim}),
        .logsumexp = t.Statistic({tokens, heads})};
  };
  cases.push_back(
      {"sparse_attention forward", shape, [=](CaseTensors& t) {
         const SparseAttentionForwardArgs args = forward(t);
         return OpRun{flops, Bytes(args.q, args.k, args.v, args.out, args.blocks),
                      [=](const auto& context) { return SparseAttentionForward(context, args); }};
       }});
  cases.push_back(
      {"sparse_attention backward", shape, [=](CaseTensors& t) {
         const SparseAttentionForwardArgs f = forward(t);
         const SparseAttentionBackwardArgs args{.q = f.q,
                                                .k = f.k,
                                                .v = f.v,
                                                .segments = f.segments,
                                                .blocks = f.blocks,
                                                .block_size = f.block_size,
                                                .scale = f.scale,
                                                .out = f.out,
                                                .logsumexp = f.logsumexp,
                                                .d_out = t.Activation({tokens, heads, dim}),
                                                .dq = t.Activation({tokens, heads, dim}),
                                                .dk = t.Activation({tokens, kv, dim}),
                                                .dv = t.Activation({tokens, kv, dim})};
         return OpRun{2 * flops,
                      Bytes(args.q, args.k, args.v, args.out, args.d_out, args.dq, args.dk, args.dv,
                            args.blocks),
                      [=](const auto& context) { return SparseAttentionBackward(context, args); }};
       }});
}

void AddBlockSelection(const Stream& s, std::vector<OpCase>& cases) {
  const SoftmaxConfig& softmax = s.config.softmax;
  const int64_t tokens = s.tokens, heads = softmax.heads, kv = softmax.kv_heads,
                dim = softmax.head_dim;
  const BlockSelectionShape selection = SelectionShape(softmax.sparse);
  ModelConfig sparse = s.config;
  sparse.softmax.use_sparse = true;
  sparse.softmax.sparse.dense_length = 0;
  sparse.layers = {{.mixer = MixerKind::kSoftmax}};
  const double flops = ForwardFlops(sparse, s.segments).block_selection;
  cases.push_back({"block_selection", Shape({tokens, heads, kv, dim}), [=, &s](CaseTensors& t) {
                     const PoolKeysArgs pool{
                         .k = t.Activation({tokens, kv, dim}),
                         .segments = s.segments,
                         .shape = selection,
                         .fine_keys = t.Activation({FineKeyRows(tokens, selection), kv, dim}),
                         .coarse_keys = t.Activation({CoarseKeyRows(tokens, selection), kv, dim})};
                     const SelectBlocksArgs select{
                         .q = t.Activation({tokens, heads, dim}),
                         .fine_keys = pool.fine_keys,
                         .coarse_keys = pool.coarse_keys,
                         .segments = s.segments,
                         .shape = selection,
                         .scale = 1.0 / std::sqrt(static_cast<double>(dim)),
                         .blocks = t.Integers({tokens, kv, selection.selected_blocks}, 1)};
                     return OpRun{flops, Bytes(pool.k, select.q, select.blocks),
                                  [=](const ExecutionContext& context) -> absl::Status {
                                    RETURN_IF_ERROR(PoolKeys(context, pool));
                                    return SelectBlocks(context, select);
                                  }};
                   }});
}

void AddAdamW(const Stream& s, std::vector<OpCase>& cases) {
  const int64_t rows = s.config.intermediate, width = s.width();
  cases.push_back({"adamw", Shape({4, rows, width}), [=](CaseTensors& t) {
                     std::vector<AdamWTensor> tensors;
                     for (int i = 0; i < 4; ++i) {
                       const auto fp32 = [&] { return t.Statistic({rows, width}, 0.01, 0.02); };
                       tensors.push_back({.weight = fp32(),
                                          .gradient = fp32(),
                                          .first_moment = fp32(),
                                          .second_moment = fp32(),
                                          .rounded = t.activations() == DType::kBFloat16
                                                         ? t.Activation({rows, width})
                                                         : TensorView(),
                                          .learning_rate = 1e-6,
                                          .weight_decay = 0.1});
                     }
                     const TensorView sum = t.Zeros(DType::kFloat64, {1});
                     const double elements = 4.0 * static_cast<double>(rows * width);
                     const bool rounds = !tensors[0].rounded.empty();
                     return OpRun{0, elements * (4 * 4 + 3 * 4 + (rounds ? 2 : 0)),
                                  [tensors, sum](const auto& context) {
                                    return AdamWUpdate(
                                        context,
                                        {.tensors = tensors, .step = 1, .gradient_squares = sum});
                                  }};
                   }});
  cases.push_back({"sum_of_squares", Shape({4, rows, width}), [=](CaseTensors& t) {
                     std::vector<TensorView> tensors;
                     for (int i = 0; i < 4; ++i) tensors.push_back(t.Statistic({rows, width}));
                     const TensorView sum = t.Zeros(DType::kFloat64, {1});
                     return OpRun{0, 4 * Size(tensors[0]), [tensors, sum](const auto& context) {
                                    return SumOfSquares(context, tensors, sum);
                                  }};
                   }});
}

}  // namespace

template <typename Make>
TensorView CaseTensors::Filled(DType dtype, std::initializer_list<int64_t> dims, const Make& make) {
  const TensorView tensor = arena_.Tensor(dtype, dims);
  if (!status_.ok()) return tensor;
  const int64_t count = std::min(tensor.size(), kPatternElements);
  const uint64_t key = HashCounter(++seed_, 0);
  using Element = decltype(make(key, 0));
  std::vector<Element> pattern(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i)
    pattern[static_cast<size_t>(i)] = make(key, static_cast<uint64_t>(i));
  const ArenaScope scope(*context_.arena);
  const TensorView staged = context_.arena->Tensor(DTypeOf<Element>::value, {count});
  status_ = CopyFromHost(context_, pattern.data(), staged);
  const TensorView flat = tensor.Reshape({tensor.size()});
  for (int64_t begin = 0; begin < tensor.size() && status_.ok(); begin += count) {
    const int64_t piece = std::min(count, tensor.size() - begin);
    const TensorView from = staged.Rows(0, piece), to = flat.Rows(begin, piece);
    status_ = from.dtype() == to.dtype() ? Copy(context_, from, to) : Convert(context_, from, to);
  }
  return tensor;
}

TensorView CaseTensors::Activation(std::initializer_list<int64_t> dims, double deviation) {
  return Filled(activations_, dims, [deviation](uint64_t key, uint64_t index) {
    return static_cast<float>(deviation * NormalAt(key, index));
  });
}

TensorView CaseTensors::Statistic(std::initializer_list<int64_t> dims, double low, double high) {
  return Filled(DType::kFloat32, dims, [=](uint64_t key, uint64_t index) {
    return static_cast<float>(low + (high - low) * UniformAt(key, index));
  });
}

TensorView CaseTensors::Zeros(DType dtype, std::initializer_list<int64_t> dims) {
  const TensorView tensor = arena_.Tensor(dtype, dims);
  if (status_.ok()) status_ = Zero(context_, tensor);
  return tensor;
}

TensorView CaseTensors::Of(const std::vector<int32_t>& values,
                           std::initializer_list<int64_t> dims) {
  const TensorView tensor = arena_.Tensor(DType::kInt32, dims);
  if (status_.ok()) status_ = CopyFromHost(context_, values.data(), tensor);
  return tensor;
}

TensorView CaseTensors::Integers(std::initializer_list<int64_t> dims, int64_t bound) {
  return Filled(DType::kInt32, dims, [bound](uint64_t key, uint64_t index) {
    return static_cast<int32_t>(HashCounter(key, index) % static_cast<uint64_t>(bound));
  });
}

std::vector<OpCase> OpCases(const ModelConfig& config, int64_t tokens) {
  // Cases refer to it as long as they live.
  const auto stream = std::make_shared<const Stream>(
      Stream{config, tokens, {{.query_count = tokens}}, LightningSlopes(config.lightning)});
  const Stream& s = *stream;
  const int64_t inner = config.softmax.heads * config.softmax.head_dim;
  std::vector<OpCase> cases;
  AddPointwise(s, cases);
  AddRmsNorm(s, cases);
  AddHeadNormRope(s, cases);
  AddEmbedding(s, cases);
  AddAdamW(s, cases);
  AddLinear(s, "query", s.width(), inner, cases);
  AddLinear(s, "up", s.width(), config.intermediate, cases);
  AddLinear(s, "down", config.intermediate, s.width(), cases);
  AddHead(s, cases);
  AddDenseAttention(s, cases);
  AddLightning(s, cases);
  AddBlockSelection(s, cases);
  for (const double shared : {0.87, 0.0}) AddSparseAttention(s, shared, cases);
  for (OpCase& op_case : cases) {
    op_case.prepare = [stream, prepare = std::move(op_case.prepare)](CaseTensors& tensors) {
      OpRun prepared = prepare(tensors);
      prepared.run = [stream, run = std::move(prepared.run)](const ExecutionContext& context) {
        return run(context);
      };
      return prepared;
    };
  }
  return cases;
}

}  // namespace salamander
