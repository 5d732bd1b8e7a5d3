// One maker a case, a file a family of ops: the tensors of an op at the dims that the table of
// op_cases.cc gives it, and what the op owes for them.
#ifndef TRAINER_BENCH_CASES_CASE_MAKERS_H_
#define TRAINER_BENCH_CASES_CASE_MAKERS_H_

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

#include "trainer/bench/cases/op_cases.h"

namespace salamander {

struct CaseShape {
  const CaseStream& stream;
  std::vector<int64_t> dims;  // as each maker's comment names them
};

using CaseMaker = std::function<OpRun(const CaseShape& shape, RandomTensors& random)>;

// row_cases.cc: elements and rows, bound by memory
OpRun CopyCase(const CaseShape& shape, RandomTensors& random);                 // T, C
OpRun ConvertCase(const CaseShape& shape, RandomTensors& random);              // T, C
OpRun SwigluForwardCase(const CaseShape& shape, RandomTensors& random);        // T, F
OpRun SwigluBackwardCase(const CaseShape& shape, RandomTensors& random);       // T, F
OpRun SigmoidGateForwardCase(const CaseShape& shape, RandomTensors& random);   // T, C
OpRun SigmoidGateBackwardCase(const CaseShape& shape, RandomTensors& random);  // T, C
OpRun LayerMseCase(const CaseShape& shape, RandomTensors& random);             // T, C

// norm_cases.cc: RMSNorm, per-head norm and rotation
OpRun RmsNormForwardCase(const CaseShape& shape, RandomTensors& random);        // T, C
OpRun RmsNormBackwardCase(const CaseShape& shape, RandomTensors& random);       // T, C
OpRun HeadNormRopeForwardCase(const CaseShape& shape, RandomTensors& random);   // T, H, D
OpRun HeadNormRopeBackwardCase(const CaseShape& shape, RandomTensors& random);  // T, H, D
OpRun RopeTablesCase(const CaseShape& shape, RandomTensors& random);            // T, D

// product_cases.cc: linear layers
OpRun LinearForwardCase(const CaseShape& shape, RandomTensors& random);   // T, in, out
OpRun LinearBackwardCase(const CaseShape& shape, RandomTensors& random);  // T, in, out

// vocabulary_cases.cc: embedding, and the head with its losses
OpRun EmbeddingForwardCase(const CaseShape& shape, RandomTensors& random);   // T, V, C
OpRun EmbeddingBackwardCase(const CaseShape& shape, RandomTensors& random);  // T, V, C
OpRun HeadCrossEntropyCase(const CaseShape& shape, RandomTensors& random);   // T, V, C
OpRun HeadDistillationCase(const CaseShape& shape, RandomTensors& random);   // T, V, C
OpRun HeadLogitsCase(const CaseShape& shape, RandomTensors& random);         // T, V, C

// lightning_cases.cc
OpRun LightningForwardCase(const CaseShape& shape, RandomTensors& random);   // T, H, D
OpRun LightningBackwardCase(const CaseShape& shape, RandomTensors& random);  // T, H, D

// softmax_cases.cc: dense attention, block selection, sparse attention
OpRun DenseAttentionForwardCase(const CaseShape& shape, RandomTensors& random);   // T, H, Hkv, D
OpRun DenseAttentionBackwardCase(const CaseShape& shape, RandomTensors& random);  // T, H, Hkv, D
OpRun BlockSelectionCase(const CaseShape& shape, RandomTensors& random);          // T, H, Hkv, D
// A token shares `shared` of its older blocks with the token before it.
CaseMaker SparseAttentionForwardCase(double shared);   // T, H, Hkv, D
CaseMaker SparseAttentionBackwardCase(double shared);  // T, H, Hkv, D

// optimizer_cases.cc: over `count` matrices
OpRun AdamWCase(const CaseShape& shape, RandomTensors& random);         // count, F, C
OpRun SumOfSquaresCase(const CaseShape& shape, RandomTensors& random);  // count, F, C

// An op that takes its arguments in one struct, over what it reads and what it writes; what it adds
// to is in both.
template <typename Args>
OpRun Calling(absl::Status (*op)(const ExecutionContext&, const Args&), const Args& args,
              std::initializer_list<TensorView> reads, std::initializer_list<TensorView> writes,
              double flops = 0.0) {
  OpRun run{
      .flops = flops, .bytes = 0.0, .results = writes, .run = [op, args](const auto& context) {
        return op(context, args);
      }};
  for (const TensorView& tensor : reads) run.bytes += static_cast<double>(tensor.bytes());
  for (const TensorView& tensor : writes) run.bytes += static_cast<double>(tensor.bytes());
  return run;
}

}  // namespace salamander

#endif  // TRAINER_BENCH_CASES_CASE_MAKERS_H_
