#include "tests/gpu/model_on_gpu.h"

#include <algorithm>
#include <cmath>
#include <iostream>

#include "kernels/base/random.h"
#include "kernels/memory.h"
#include "model/shared_gradients.h"
#include "tests/model/tiny_model.h"

namespace salamander {
namespace {

template <typename Value>
Value OrDie(absl::StatusOr<Value> value) {
  SALAMANDER_CHECK(value.ok()) << value.status().ToString();
  return *std::move(value);
}

void CheckOk(const absl::Status& status) {
  SALAMANDER_CHECK(status.ok()) << status.ToString();
}

constexpr int kPerturbedRuns = 8;

// Of the spread: sqrt(2) is expected for twice as many sources of error. Averages over many
// elements show their expectation, so that a factor of three is room for the backward's further
// roundings and for what the shape of the model makes unequal. The loss is one number: eight runs
// tell its spread to a quarter, and a normal deviate passes 2.5 times the expected one in one of
// eighty tests.
constexpr double kAverageMultiple = 3.0;
constexpr double kLossMultiple = 6.0;

// Relative errors of e leave a cosine of 1 - e^2 / 2. A hundred roundings one after another give e
// = 10 * 2^-9 and 0.9998; 0.99 leaves an amplification of seven, and no room for a wrong term.
constexpr double kLeastCosine = 0.99;

ModelConfig Resized(ModelConfig config, int64_t head_dim) {
  config.vocabulary = 100;
  config.width = 64;
  config.intermediate = 160;
  config.max_positions = 1024;
  config.softmax.head_dim = head_dim;
  if (config.lightning.heads > 0) config.lightning.head_dim = head_dim;
  return config;
}

ModelConfig SparseConfigOf(DenseRule rule, int64_t dense_length, int64_t head_dim) {
  ModelConfig config = SmallHybridConfig(3, {0, 2}, head_dim);
  config.softmax.use_sparse = true;
  config.softmax.sparse.dense_rule = rule;
  config.softmax.sparse.dense_length = dense_length;
  return config;
}

double WorstRow(const TensorView& actual, const TensorView& expected) {
  double worst = 0.0;
  for (int64_t row = 0; row < expected.dim(0); ++row)
    worst = std::max(worst, RelativeRmse(actual.Rows(row, 1), expected.Rows(row, 1)));
  return worst;
}

double Norm(const TensorView& view) {
  return std::sqrt(Dot(view, view));
}

TestTensor OnHost(const ExecutionContext& execution, const TensorView& tensor) {
  TestTensor host = tensor.rank() == 1 ? TestTensor(tensor.dtype(), {tensor.dim(0)})
                                       : TestTensor(tensor.dtype(), {tensor.dim(0), tensor.dim(1)});
  CheckOk(CopyToHost(execution, tensor, host.View().raw()));
  return host;
}

ParameterBuffer CopyOf(const ModelWeights& weights, const ParameterLayout& layout,
                       const Place& place) {
  const DType dtype = place.session.device().kind == DeviceKind::kCpu
                          ? weights.buffer.Flat().dtype()
                          : DType::kBFloat16;
  ParameterBuffer copy = OrDie(ParameterBuffer::Create(layout, dtype, place.session));
  CheckOk(CopyParameters(place.execution, weights.buffer, copy));
  return copy;
}

}  // namespace

ModelConfig SmallDenseConfig(int64_t layers, int64_t head_dim) {
  return Resized(TinyDenseConfig(layers), head_dim);
}

ModelConfig SmallHybridConfig(int64_t layers, const std::vector<int64_t>& kept, int64_t head_dim) {
  return Resized(TinyHybridConfig(layers, kept), head_dim);
}

std::vector<ModelCase> ModelCases() {
  ModelConfig tied = SmallDenseConfig(2, 128);
  tied.softmax.use_qk_norm = true;
  tied.tie_embeddings = true;
  ModelConfig mup = SmallHybridConfig(3, {0}, 32);
  mup.embedding_scale = 3.0;
  mup.residual_scale = 0.6;
  mup.logit_scale = 0.5;
  return {{"Dense", SmallDenseConfig(2, 64)},
          {"QkNormTied", tied},
          {"LightningWithMup", mup},
          {"WideLightning", SmallHybridConfig(2, {1}, 128)},
          {"SparsePerDocument", SparseConfigOf(DenseRule::kPerDocument, 60, 16)},
          {"SparsePerQuery", SparseConfigOf(DenseRule::kPerQuery, 40, 64)}};
}

void PrintTo(const ModelCase& given, std::ostream* stream) {
  *stream << given.name;
}

ModelWeights ExactWeights(const ModelConfig& config, uint64_t seed) {
  ModelWeights weights = OrDie(ModelWeights::Create(config, DType::kFloat64));
  for (const ParameterSpec& spec : weights.layout.specs()) {
    const TensorView view = weights.buffer.View(spec);
    const bool is_embedding_alone =
        spec.kind == ParameterKind::kEmbedding && !config.tie_embeddings;
    const double deviation =
        is_embedding_alone ? 1.0 : 1.0 / std::sqrt(static_cast<double>(view.row_size()));
    SplitMix random(HashCounter(seed, HashName(spec.name)));
    TestTensor rounded(DType::kBFloat16, {view.size()});
    for (int64_t index = 0; index < view.size(); ++index) {
      rounded.Set(index, spec.kind == ParameterKind::kNorm ? random.Uniform() + 0.5
                                                           : deviation * random.Normal());
      SetElement(view, index, rounded.At(index));
    }
  }
  return weights;
}

ModelWeights Perturbed(const ModelWeights& weights, uint64_t seed) {
  ModelWeights perturbed = OrDie(ModelWeights::Create(weights.config, DType::kFloat64));
  const TensorView from = weights.buffer.Flat();
  SplitMix random(seed);
  for (int64_t index = 0; index < from.size(); ++index) {
    SetElement(perturbed.buffer.Flat(), index,
               ElementAt(from, index) * (1.0 + kBFloat16Rounding * random.Normal()));
  }
  return perturbed;
}

PackedStream RandomStream(const std::vector<int64_t>& document_lengths, int64_t vocabulary,
                          uint64_t seed) {
  SplitMix random(seed);
  PackedStream stream;
  for (const int64_t length : document_lengths) {
    std::vector<int32_t> document;
    for (int64_t index = 0; index < length; ++index)
      document.push_back(static_cast<int32_t>(random.Integer(0, vocabulary - 1)));
    AppendPiece(document, -1, {}, &stream);
  }
  AppendPadding(5, 0, &stream);
  return stream;
}

Place OnCpu(const TestContext& context) {
  return {CpuSession(), context};
}

PlacedModel::PlacedModel(const ModelWeights& weights, const Place& place)
    : place_(place),
      layout_(weights.layout),
      buffer_(CopyOf(weights, layout_, place)),
      transformer_(weights.config, BindTensors(weights.config, layout_, buffer_)) {}

std::unique_ptr<Objective> NextTokenObjective(const PlacedModel& model) {
  return LanguageModelObjective(model.transformer());
}

Outcome RunModel(const PlacedModel& model, const Objective& objective, const PackedStream& stream,
                 Replay* replay, const ParallelContext* parallel) {
  const auto& [session, execution] = model.place();
  const ArenaScope scope(*execution.arena);
  Outcome outcome;
  const ForwardPass pass = OrDie(PassOver(execution, stream, parallel));
  outcome.hidden = OnHost(execution, OrDie(model.transformer().Forward(pass, nullptr)));

  double row_weights = 0.0;
  for (const float weight : objective.RowWeights(stream))
    row_weights += static_cast<double>(weight);
  const DType activations = model.transformer().weights().embedding.dtype();
  const ParameterBuffer gradients =
      OrDie(ParameterBuffer::Create(model.layout(), StatisticsType(activations), session));
  const ModelTensors views = BindTensors(model.config(), model.layout(), gradients);
  const TensorView loss_sum = execution.arena->Tensor(DType::kFloat64, {1});
  CheckOk(Zero(execution, loss_sum));
  const auto accumulate = [&, &execution = execution] {
    return objective.Accumulate({.execution = execution,
                                 .stream = stream,
                                 .gradient_scale = 1.0 / row_weights,
                                 .gradients = &views,
                                 .loss_sum = loss_sum});
  };
  CheckOk(replay == nullptr ? accumulate() : replay->Run(accumulate));
  if (parallel != nullptr)
    CheckOk(SumSharedGradients(execution, model.layout(), ShardLayout(model.layout(), 0, 1),
                               gradients, *parallel));
  outcome.gradients = OnHost(execution, gradients.Flat());
  outcome.loss = OnHost(execution, loss_sum).At(0) * objective.loss_unit() / row_weights;
  return outcome;
}

double Cosine(const TensorView& a, const TensorView& b) {
  return Dot(a, b) / (Norm(a) * Norm(b));
}

Spread SpreadOf(const ModelWeights& weights, const ObjectiveOf& objective_of,
                const PackedStream& stream, const Outcome& exact) {
  const auto specs = weights.layout.specs();
  Spread squares{.gradients = std::vector<double>(specs.size(), 0.0)};
  const auto add = [](double difference, double& sum) { sum += difference * difference; };
  for (int run = 0; run < kPerturbedRuns; ++run) {
    const TestContext context;
    const PlacedModel model(Perturbed(weights, 1000 + static_cast<uint64_t>(run)), OnCpu(context));
    const Outcome outcome = RunModel(model, *objective_of(model), stream);
    add(outcome.loss - exact.loss, squares.loss);
    add(RelativeRmse(outcome.hidden.View(), exact.hidden.View()), squares.hidden);
    squares.hidden_row =
        std::max(squares.hidden_row, WorstRow(outcome.hidden.View(), exact.hidden.View()));
    add(Norm(outcome.gradients.View()) / Norm(exact.gradients.View()) - 1.0, squares.gradient_norm);
    for (size_t index = 0; index < specs.size(); ++index) {
      add(RelativeRmse(outcome.Gradient(specs[index]), exact.Gradient(specs[index])),
          squares.gradients[index]);
    }
  }
  const auto root = [](double& sum) { sum = std::sqrt(sum / kPerturbedRuns); };
  root(squares.loss), root(squares.hidden), root(squares.gradient_norm);
  for (double& sum : squares.gradients) root(sum);
  return squares;
}

void ExpectHiddenWithinSpread(const TensorView& actual, const TensorView& exact,
                              const Spread& spread) {
  const double error = RelativeRmse(actual, exact);
  const double worst_row = WorstRow(actual, exact);
  EXPECT_LE(error, kAverageMultiple * spread.hidden);
  EXPECT_LE(worst_row, kAverageMultiple * spread.hidden_row);
  std::cout << "hidden off by " << error << " = " << error / spread.hidden << " spreads; worst row "
            << worst_row << " = " << worst_row / spread.hidden_row << "\n";
}

void ExpectWithinSpread(const Outcome& actual, const Outcome& exact, const Spread& spread,
                        const ParameterLayout& layout) {
  const double loss_error = std::abs(actual.loss - exact.loss);
  EXPECT_LE(loss_error, kLossMultiple * spread.loss) << "loss " << exact.loss;
  ExpectHiddenWithinSpread(actual.hidden.View(), exact.hidden.View(), spread);
  const double norm_error =
      std::abs(Norm(actual.gradients.View()) / Norm(exact.gradients.View()) - 1.0);
  EXPECT_LE(norm_error, kLossMultiple * spread.gradient_norm);

  double worst_ratio = 0.0;
  double worst_cosine = 1.0;
  for (size_t index = 0; index < layout.specs().size(); ++index) {
    const ParameterSpec& spec = layout.specs()[index];
    const TensorView gradient = actual.Gradient(spec), expected = exact.Gradient(spec);
    if (Norm(expected) == 0.0) {
      EXPECT_EQ(Norm(gradient), 0.0) << spec.name;
      continue;
    }
    const double error = RelativeRmse(gradient, expected);
    EXPECT_LE(error, kAverageMultiple * spread.gradients[index]) << spec.name;
    const double cosine = Cosine(gradient, expected);
    EXPECT_GT(cosine, kLeastCosine) << spec.name;
    worst_ratio = std::max(worst_ratio, error / spread.gradients[index]);
    worst_cosine = std::min(worst_cosine, cosine);
  }
  std::cout << "loss " << exact.loss << ", off by " << loss_error << " = "
            << loss_error / spread.loss << " spreads; gradient norm "
            << norm_error / spread.gradient_norm << "; worst gradient " << worst_ratio
            << ", cosine " << worst_cosine << "\n";
}

}  // namespace salamander
