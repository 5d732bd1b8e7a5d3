#include "kernels/dense_attention.h"

#include "kernels/attention_checks.h"
#include "kernels/dispatch.h"

namespace salamander {

absl::Status DenseAttentionForward(const ExecutionContext& context,
                                   const DenseAttentionForwardArgs& args) {
  CheckAttentionArgs(args);
  DISPATCH_BACKEND(DenseAttentionForward, context, args);
}

absl::Status DenseAttentionBackward(const ExecutionContext& context,
                                    const DenseAttentionBackwardArgs& args) {
  CheckAttentionArgs(args);
  CheckAttentionGradients(args);
  DISPATCH_BACKEND(DenseAttentionBackward, context, args);
}

}  // namespace salamander
