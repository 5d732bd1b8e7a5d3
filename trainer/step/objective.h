// What a stage minimises. One call takes one packed stream through forward, loss and backward, adds
// the gradients of gradient_scale * loss to those of the trainable parameters, and says what the
// loss was.
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
#include <vector>

#include "absl/status/statusor.h"

#include "data/sequences/packed_stream.h"
#include "kernels/base/execution_context.h"
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
  };
  // The weighted sum of the loss over the stream's rows.
  virtual absl::StatusOr<double> Accumulate(const Call& call) const = 0;
};

// Models outlive the objective.
std::unique_ptr<Objective> LanguageModelObjective(const Transformer& model);
std::unique_ptr<Objective> DistillationObjective(const Transformer& student,
                                                 const Transformer& teacher);
std::unique_ptr<Objective> AlignmentObjective(const Transformer& model);

// The forward pass over a packed stream.
ForwardPass PassOver(const ExecutionContext& execution, const PackedStream& stream);

}  // namespace salamander

#endif  // TRAINER_STEP_OBJECTIVE_H_
