// A model in fp64 on the CPU and the same model in bf16 on the GPU, fed the same stream; and the
// yardstick for how far apart they may be.
//
// Yardstick: a bf16 run differs from an exact one by relative errors of 2^-9 (root mean square) at
// every result that is rounded. The fp64 model is run with each weight off by as much: every linear
// map, norm and embedding then hands on errors of that size, which the layers after it carry as
// they carry the GPU's. There are about twice as many roundings as weights on the way, so the GPU's
// error is expected within a small multiple of this spread. What is chaotic in a model (softmax on
// large scores, say) widens both alike.
#ifndef TESTS_GPU_MODEL_ON_GPU_H_
#define TESTS_GPU_MODEL_ON_GPU_H_

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "data/sequences/packed_stream.h"
#include "kernels/base/execution_context.h"
#include "kernels/device.h"
#include "model/conversion/transfer.h"
#include "model/transformer.h"
#include "tests/gpu/gpu_context.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"
#include "trainer/step/objective.h"

namespace salamander {

// Width 64, 4 heads with 2 KV heads, vocabulary 100: tests/model/tiny_model.h's models with head
// dims that the CUDA backend serves.
ModelConfig SmallDenseConfig(int64_t layers, int64_t head_dim);
ModelConfig SmallHybridConfig(int64_t layers, const std::vector<int64_t>& kept, int64_t head_dim);

struct ModelCase {
  std::string name;
  ModelConfig config;
};
// Dense, QK-norm with tied embeddings, Lightning with muP, sparse by either rule; head dims 16, 32,
// 64 and 128. Where two blocks score nearly alike, a sparse query may read the other one: a row or
// two of a stream in either kind of run, a tenth off, which the spread counts with the rest.
std::vector<ModelCase> ModelCases();
void PrintTo(const ModelCase& given, std::ostream* stream);  // as test listings show it

// Weights in fp64 that bf16 holds exactly; activations of order one, norms not all ones.
ModelWeights ExactWeights(const ModelConfig& config, uint64_t seed);
// A copy, each weight off by a relative error of 2^-9 (root mean square).
ModelWeights Perturbed(const ModelWeights& weights, uint64_t seed);

// Documents end to end, random tokens, their next ones as targets, and padding at the end.
PackedStream RandomStream(const std::vector<int64_t>& document_lengths, int64_t vocabulary,
                          uint64_t seed);

// Where a model runs.
struct Place {
  DeviceSession& session;
  const ExecutionContext& execution;
};
inline Place On(GpuContext& gpu) {
  return {gpu.session(), gpu};
}
Place OnCpu(const TestContext& context);

// A copy of a model there, in the dtype: fp64 on the CPU, bf16 on the GPU.
class PlacedModel {
 public:
  PlacedModel(const ModelWeights& weights, const Place& place);

  const Place& place() const { return place_; }
  const Transformer& transformer() const { return transformer_; }
  const ModelConfig& config() const { return transformer_.config(); }
  const ParameterLayout& layout() const { return layout_; }

 private:
  Place place_;
  ParameterLayout layout_;
  ParameterBuffer buffer_;
  Transformer transformer_;
};

// What a model makes of a stream, on the host.
struct Outcome {
  double loss = 0.0;     // a row's mean
  TestTensor hidden;     // [T, C]
  TestTensor gradients;  // [parameters], laid out flat

  TensorView Gradient(const ParameterSpec& spec) const {
    return gradients.View().Rows(spec.offset, spec.size());
  }
};

using ObjectiveOf = std::function<std::unique_ptr<Objective>(const PlacedModel& model)>;
std::unique_ptr<Objective> NextTokenObjective(const PlacedModel& model);

// Final hidden states, then loss and gradients of all parameters in a pass of their own, which
// goes through `replay` where one is given. On a rank of `parallel`: of its rows and its parts of
// the parameters.
Outcome RunModel(const PlacedModel& model, const Objective& objective, const PackedStream& stream,
                 Replay* replay = nullptr, const ParallelContext* parallel = nullptr);

// Root mean square over perturbed models of how far each result was from the exact model's.
struct Spread {
  double loss = 0.0;
  double hidden = 0.0;                 // relative, of all rows together
  double hidden_row = 0.0;             // relative, the largest of any row in any run
  double gradient_norm = 0.0;          // relative
  std::vector<double> gradients = {};  // [parameters] relative, in the layout's order
};
Spread SpreadOf(const ModelWeights& weights, const ObjectiveOf& objective_of,
                const PackedStream& stream, const Outcome& exact);

// Final hidden states by it: all rows together, and the worst row.
void ExpectHiddenWithinSpread(const TensorView& actual, const TensorView& exact,
                              const Spread& spread);

// The GPU's outcome against the exact one, by the spread. Says the largest ratios aloud.
void ExpectWithinSpread(const Outcome& actual, const Outcome& exact, const Spread& spread,
                        const ParameterLayout& layout);

double Cosine(const TensorView& a, const TensorView& b);

}  // namespace salamander

#endif  // TESTS_GPU_MODEL_ON_GPU_H_
