// The keys and values that softmax attention reads. Where the stream is cut into slices, every rank
// gathers those of all slices, which grouped queries keep small, and its queries read them as if it
// held the whole stream: segments say which rows are theirs. What a rank's queries give the
// gradients of all rows is summed over ranks and goes back to the rows' own.
#ifndef MODEL_LAYERS_KEY_SLICES_H_
#define MODEL_LAYERS_KEY_SLICES_H_

#include "absl/status/statusor.h"

#include "kernels/base/tensor_view.h"
#include "model/layers/mixer.h"

namespace salamander {

struct KeysAndValues {
  TensorView keys, values;  // [T, Hkv, D]
};

// Collective over the context's ranks: [ranks * T, Hkv, D] in the arena. `own` itself where one
// rank holds the stream.
absl::StatusOr<KeysAndValues> GatherSlices(const MixerPass& pass, const KeysAndValues& own);

// Zeros of as many rows as GatherSlices gives, in the arena, for gradients; `own`, zeroed, where
// one rank holds the stream.
absl::StatusOr<KeysAndValues> ZeroGradients(const MixerPass& pass, const KeysAndValues& own);

// Collective: `own` becomes its rows of the sum of `all` over ranks. Nothing to do where they are
// the same.
absl::Status ScatterGradients(const MixerPass& pass, const KeysAndValues& all,
                              const KeysAndValues& own);

}  // namespace salamander

#endif  // MODEL_LAYERS_KEY_SLICES_H_
