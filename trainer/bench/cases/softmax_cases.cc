#include <cmath>

#include "kernels/base/status_macros.h"
#include "kernels/block_selection.h"
#include "kernels/dense_attention.h"
#include "kernels/sparse_attention.h"
#include "model/flops.h"
#include "model/layers/block_selection_shape.h"
#include "trainer/bench/cases/block_lists.h"
#include "trainer/bench/cases/case_makers.h"

namespace salamander {
namespace {

TensorView Heads(const CaseShape& shape, RandomTensors& random) {
  return random.Activation({shape.dims[0], shape.dims[1], shape.dims[3]});
}

TensorView KeyHeads(const CaseShape& shape, RandomTensors& random) {
  return random.Activation({shape.dims[0], shape.dims[2], shape.dims[3]});
}

TensorView LogSumExp(const CaseShape& shape, RandomTensors& random) {
  return random.Statistic({shape.dims[0], shape.dims[1]});
}

double Scale(const CaseShape& shape) {
  return 1.0 / std::sqrt(static_cast<double>(shape.dims[3]));
}

// Of one softmax layer, dense or sparse from the first token on.
ModelFlops LayerFlops(const CaseStream& stream, bool is_sparse) {
  ModelConfig config = stream.config;
  config.softmax.use_sparse = is_sparse;
  config.softmax.sparse.dense_length = 0;
  config.layers = {{.mixer = MixerKind::kSoftmax}};
  return ForwardFlops(config, stream.segments);
}

TensorView BlockLists(const CaseShape& shape, RandomTensors& random, double shared) {
  const SparseConfig& sparse = shape.stream.config.softmax.sparse;
  return random.Of(MadeUpBlockLists(sparse, shape.stream.segments, shape.dims[2], shared),
                   {shape.dims[0], shape.dims[2], sparse.selected_blocks()});
}

}  // namespace

OpRun DenseAttentionForwardCase(const CaseShape& shape, RandomTensors& random) {
  const DenseAttentionForwardArgs args{.q = Heads(shape, random),
                                       .k = KeyHeads(shape, random),
                                       .v = KeyHeads(shape, random),
                                       .segments = shape.stream.segments,
                                       .scale = Scale(shape),
                                       .out = Heads(shape, random),
                                       .logsumexp = LogSumExp(shape, random)};
  return Calling(DenseAttentionForward, args, {args.q, args.k, args.v}, {args.out, args.logsumexp},
                 LayerFlops(shape.stream, false).dense_attention);
}

OpRun DenseAttentionBackwardCase(const CaseShape& shape, RandomTensors& random) {
  const DenseAttentionBackwardArgs args{.q = Heads(shape, random),
                                        .k = KeyHeads(shape, random),
                                        .v = KeyHeads(shape, random),
                                        .segments = shape.stream.segments,
                                        .scale = Scale(shape),
                                        .out = Heads(shape, random),
                                        .logsumexp = LogSumExp(shape, random),
                                        .d_out = Heads(shape, random),
                                        .dq = Heads(shape, random),
                                        .dk = KeyHeads(shape, random),
                                        .dv = KeyHeads(shape, random)};
  return Calling(DenseAttentionBackward, args,
                 {args.q, args.k, args.v, args.out, args.logsumexp, args.d_out, args.dk, args.dv},
                 {args.dq, args.dk, args.dv}, 2 * LayerFlops(shape.stream, false).dense_attention);
}

// Pooling and selection. Which of two blocks that score nearly alike is listed depends on the last
// bit: the pooled keys are what can be compared.
OpRun BlockSelectionCase(const CaseShape& shape, RandomTensors& random) {
  const int64_t tokens = shape.dims[0], kv_heads = shape.dims[2], dim = shape.dims[3];
  const BlockSelectionShape selection = SelectionShape(shape.stream.config.softmax.sparse);
  const auto pooled = [&](int64_t rows) { return random.Activation({rows, kv_heads, dim}); };
  const PoolKeysArgs pool{.k = KeyHeads(shape, random),
                          .segments = shape.stream.segments,
                          .shape = selection,
                          .fine_keys = pooled(FineKeyRows(tokens, selection)),
                          .coarse_keys = pooled(CoarseKeyRows(tokens, selection))};
  const SelectBlocksArgs select{
      .q = Heads(shape, random),
      .fine_keys = pool.fine_keys,
      .coarse_keys = pool.coarse_keys,
      .segments = shape.stream.segments,
      .shape = selection,
      .scale = Scale(shape),
      .blocks = random.Integers({tokens, kv_heads, selection.selected_blocks}, 1)};
  return {.flops = LayerFlops(shape.stream, true).block_selection,
          .bytes = static_cast<double>(pool.k.bytes() + select.q.bytes() + select.blocks.bytes()),
          .results = {pool.fine_keys, pool.coarse_keys},
          .run = [=](const ExecutionContext& context) -> absl::Status {
            RETURN_IF_ERROR(PoolKeys(context, pool));
            return SelectBlocks(context, select);
          }};
}

CaseMaker SparseAttentionForwardCase(double shared) {
  return [shared](const CaseShape& shape, RandomTensors& random) {
    const SparseAttentionForwardArgs args{
        .q = Heads(shape, random),
        .k = KeyHeads(shape, random),
        .v = KeyHeads(shape, random),
        .segments = shape.stream.segments,
        .blocks = BlockLists(shape, random, shared),
        .block_size = shape.stream.config.softmax.sparse.block_size,
        .scale = Scale(shape),
        .out = Heads(shape, random),
        .logsumexp = LogSumExp(shape, random)};
    return Calling(SparseAttentionForward, args, {args.q, args.k, args.v, args.blocks},
                   {args.out, args.logsumexp}, LayerFlops(shape.stream, true).sparse_attention);
  };
}

CaseMaker SparseAttentionBackwardCase(double shared) {
  return [shared](const CaseShape& shape, RandomTensors& random) {
    const SparseAttentionBackwardArgs args{
        .q = Heads(shape, random),
        .k = KeyHeads(shape, random),
        .v = KeyHeads(shape, random),
        .segments = shape.stream.segments,
        .blocks = BlockLists(shape, random, shared),
        .block_size = shape.stream.config.softmax.sparse.block_size,
        .scale = Scale(shape),
        .out = Heads(shape, random),
        .logsumexp = LogSumExp(shape, random),
        .d_out = Heads(shape, random),
        .dq = Heads(shape, random),
        .dk = KeyHeads(shape, random),
        .dv = KeyHeads(shape, random)};
    return Calling(SparseAttentionBackward, args,
                   {args.q, args.k, args.v, args.blocks, args.out, args.logsumexp, args.d_out,
                    args.dk, args.dv},
                   {args.dq, args.dk, args.dv},
                   2 * LayerFlops(shape.stream, true).sparse_attention);
  };
}

}  // namespace salamander
