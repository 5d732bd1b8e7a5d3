// What of a layer is kept for the backward, and what the backward computes again.
#ifndef MODEL_RECOMPUTATION_H_
#define MODEL_RECOMPUTATION_H_

namespace salamander {

enum class Recomputation {
  kNone,       // everything is kept
  kAttention,  // a mixer's inner activations are computed again from its input
  kFull,       // all of a layer but its input is
};

}  // namespace salamander

#endif  // MODEL_RECOMPUTATION_H_
