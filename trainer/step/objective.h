// What a stage minimises. One call takes one packed stream through forward, loss and backward, and
// adds the gradients of gradient_scale * loss to those of the trainable parameters, and the loss to
// a total on the device. Nothing is waited for, so that a step's streams run without a gap.
//
//   language model  sum of w_t * cross-entropy of the next token
//
//   distillation    sum over every real token of KL(teacher || student) at temperature 1
//                   (arXiv 2601.22156 eq. 10)
//
//   alignment       sum over every real token of the candidates' squared error against their
//                   layers' own mixers, averaged over layers and channels; the teacher's
//                   outputs flow on (arXiv 2601.22156 eq. 7)
#ifndef TRAINER_STEP_OBJECTIVE_H_
#define TRAINER_STEP_OBJECTIVE_H_

#include <memory>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "data/sequences/packed_stream.h"
#include "kernels/base/execution_context.h"
#include "kernels/head_loss.h"
#include "model/transformer.h"

namespace salamander {

class Objective {
 public:
  virtual ~Objective() = default;

  // The weight of each row in this objective's loss; their sum over the global batch divides it.
  virtual std::vector<float> RowWeights(const PackedStream& stream) const = 0;

  struct Call {
    const ExecutionContext& execution;
    const PackedStream& stream;
    double gradient_scale = 1.0;
    const ModelTensors* gradients = nullptr;  // null: the loss alone
    // [1] fp64, added to: loss_unit() of it is the loss of the rows so far. Tensor ranks all add
    // the same, the whole stream's.
    TensorView loss_sum;
  };
  // Adds the weighted sum of the loss over the stream's rows. Faults that only the device sees come
  // back where the total is read.
  virtual absl::Status Accumulate(const Call& call) const = 0;

  // What one of `loss_sum` stands for.
  virtual double loss_unit() const { return 1.0; }

  // Model operations of Accumulate with these gradients (model/flops.h).
  virtual double Flops(const PackedStream& stream, const ModelTensors& gradients) const = 0;
};

// The loss over the streams without gradients, and the sum of their rows' weights. Waits.
struct LossSums {
  double loss = 0.0;
  double row_weights = 0.0;
};
absl::StatusOr<LossSums> SumLoss(const ExecutionContext& execution, const Objective& objective,
                                 absl::Span<const PackedStream> streams);

// Models outlive the objective. `recomputation` [layers] is the student's; empty: nothing is
// computed again. Alignment keeps nothing from layer to layer anyway. `parallel` outlives the
// objective too, and each model has the rank's weights; null: one rank. Among tensor ranks
// gradients of shared parameters are parts of a sum (model/shared_gradients.h).
std::unique_ptr<Objective> LanguageModelObjective(const Transformer& model,
                                                  std::vector<Recomputation> recomputation = {},
                                                  const ParallelContext* parallel = nullptr);
std::unique_ptr<Objective> DistillationObjective(const Transformer& student,
                                                 const Transformer& teacher,
                                                 std::vector<Recomputation> recomputation = {},
                                                 const ParallelContext* parallel = nullptr);
std::unique_ptr<Objective> AlignmentObjective(const Transformer& model,
                                              const ParallelContext* parallel = nullptr);

// The forward pass over a packed stream, whose tokens go into the arena.
absl::StatusOr<ForwardPass> PassOver(const ExecutionContext& execution, const PackedStream& stream,
                                     const ParallelContext* parallel = nullptr);

// This rank's part of a head's vocabulary, and the way to the other tensor ranks'; none where one
// rank has the whole head.
std::optional<VocabularySplit> SplitOver(const ParallelContext* parallel);

}  // namespace salamander

#endif  // TRAINER_STEP_OBJECTIVE_H_
