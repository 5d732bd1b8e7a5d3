#include "model/parameters.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/random.h"
#include "kernels/base/status_macros.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// Of one step of a copy to a device that rounds on the way; bounds the memory beside the buffers.
constexpr int64_t kRoundedElements = int64_t{1} << 24;

int64_t Product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

int64_t RoundUp(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

int64_t BytesOf(const ParameterLayout& layout, DType dtype) {
  return layout.total_size() * static_cast<int64_t>(SizeOf(dtype)) + Arena::kAlignment;
}

// Element i is drawn for place counter_of(i).
template <typename Element, typename CounterOf>
void FillNormalAs(TensorView view, uint64_t key, double standard_deviation,
                  const CounterOf& counter_of) {
  auto* const values = view.data<Element>();
  const int64_t size = view.size();
#pragma omp parallel for schedule(static)
  for (int64_t index = 0; index < size; ++index) {
    values[index] = static_cast<Element>(standard_deviation *
                                         NormalAt(key, static_cast<uint64_t>(counter_of(index))));
  }
}

template <typename CounterOf>
void FillNormalBy(TensorView view, const std::string& name, uint64_t seed,
                  double standard_deviation, const CounterOf& counter_of) {
  const uint64_t key = HashCounter(seed, HashName(name));
  if (view.dtype() == DType::kFloat64) {
    FillNormalAs<double>(view, key, standard_deviation, counter_of);
  } else {
    FillNormalAs<float>(view, key, standard_deviation, counter_of);
  }
}

void FillOnes(TensorView view) {
  for (int64_t index = 0; index < view.size(); ++index) {
    if (view.dtype() == DType::kFloat64) {
      view.data<double>()[index] = 1.0;
    } else {
      view.data<float>()[index] = 1.0F;
    }
  }
}

}  // namespace

int64_t ParameterSpec::size() const {
  return Product(shape);
}

int64_t ParameterSpec::WholeIndex(int64_t index) const {
  const int64_t columns = shape.size() == 1 ? 1 : shape[1];
  const int64_t whole_columns = shape.size() == 1 ? 1 : whole_shape[1];
  const int64_t row = index / columns + (split_axis == 0 ? split_begin : 0);
  return row * whole_columns + index % columns + (split_axis == 1 ? split_begin : 0);
}

absl::Status CheckTensorShards(const ModelConfig& config, int ranks) {
  const auto divides = [&](int64_t size, const char* what) {
    if (size % ranks == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("tensor_parallel ", ranks, " does not divide the model's ", what, ", ", size));
  };
  const auto mixer = [&](int64_t heads, int64_t kv_heads, const char* what) {
    RETURN_IF_ERROR(divides(heads, what));
    if (kv_heads % ranks == 0 || ranks % kv_heads == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("tensor_parallel ", ranks,
                                                   ": neither it nor the model's ", kv_heads,
                                                   " key-value heads is a multiple of the other"));
  };
  RETURN_IF_ERROR(divides(config.vocabulary, "vocabulary"));
  RETURN_IF_ERROR(divides(config.intermediate, "intermediate width"));
  if (config.has_mixer(MixerKind::kSoftmax))
    RETURN_IF_ERROR(mixer(config.softmax.heads, config.softmax.kv_heads, "softmax heads"));
  if (config.has_mixer(MixerKind::kLightning))
    RETURN_IF_ERROR(mixer(config.lightning.heads, config.lightning.kv_heads, "Lightning heads"));
  return absl::OkStatus();
}

std::vector<int> HolderCounts(const ModelConfig& config, int ranks) {
  std::set<int> counts;
  const ParameterLayout layout(config, {.rank = 0, .ranks = ranks});
  for (const ParameterSpec& spec : layout.specs()) {
    if (spec.holders > 1 && spec.holders < ranks) counts.insert(spec.holders);
  }
  return {counts.begin(), counts.end()};
}

ParameterLayout::ParameterLayout(const ModelConfig& config, const TensorShard& shard, int replicas)
    : shard_(shard) {
  const int64_t width = config.width;
  const Split by_vocabulary = {.axis = 0, .units = config.vocabulary};
  const Split rows = {.axis = 0, .units = config.intermediate};
  const Split columns = {.axis = 1, .units = config.intermediate};
  Add("embedding.weight", {config.vocabulary, width}, by_vocabulary, ParameterKind::kEmbedding,
      ParameterRole::kEmbedding, -1);
  for (int64_t layer = 0; layer < config.layer_count(); ++layer) {
    const std::string prefix = absl::StrCat("layers.", layer, ".");
    const LayerConfig& kind = config.layers[static_cast<size_t>(layer)];
    Add(prefix + "input_norm.weight", {width}, {}, ParameterKind::kNorm, ParameterRole::kNorm,
        layer);
    AddMixer(config, kind.mixer,
             kind.mixer == MixerKind::kSoftmax ? ParameterRole::kSoftmaxMixer
                                               : ParameterRole::kLightningMixer,
             layer);
    if (kind.has_candidate)
      AddMixer(config, MixerKind::kLightning, ParameterRole::kCandidate, layer);
    Add(prefix + "post_norm.weight", {width}, {}, ParameterKind::kNorm, ParameterRole::kNorm,
        layer);
    Add(prefix + "mlp.gate.weight", {config.intermediate, width}, rows, ParameterKind::kMatrix,
        ParameterRole::kMlp, layer);
    Add(prefix + "mlp.up.weight", {config.intermediate, width}, rows, ParameterKind::kMatrix,
        ParameterRole::kMlp, layer);
    Add(prefix + "mlp.down.weight", {width, config.intermediate}, columns, ParameterKind::kMatrix,
        ParameterRole::kMlp, layer);
  }
  Add("final_norm.weight", {width}, {}, ParameterKind::kNorm, ParameterRole::kNorm, -1);
  if (!config.tie_embeddings) {
    Add("head.weight", {config.vocabulary, width}, by_vocabulary, ParameterKind::kHead,
        ParameterRole::kHead, -1);
  }
  total_size_ = RoundUp(total_size_, kAlignmentElements * replicas);
}

void ParameterLayout::AddMixer(const ModelConfig& config, MixerKind mixer, ParameterRole role,
                               int64_t layer) {
  const bool softmax = mixer == MixerKind::kSoftmax;
  const int64_t head_dim = softmax ? config.softmax.head_dim : config.lightning.head_dim;
  const int64_t heads = softmax ? config.softmax.heads : config.lightning.heads;
  const int64_t kv_heads = softmax ? config.softmax.kv_heads : config.lightning.kv_heads;
  const int64_t inner = head_dim * heads, kv = head_dim * kv_heads;
  const Split by_head = {.axis = 0, .units = heads};
  const Split by_kv_head = {.axis = 0, .units = kv_heads};
  const bool qk_norm = softmax ? config.softmax.use_qk_norm : config.lightning.use_qk_norm;
  const bool gate = softmax ? config.softmax.use_output_gate : config.lightning.use_output_gate;
  const std::string prefix =
      absl::StrCat("layers.", layer, role == ParameterRole::kCandidate ? ".candidate." : ".mixer.");
  Add(prefix + "query.weight", {inner, config.width}, by_head, ParameterKind::kMatrix, role, layer);
  Add(prefix + "key.weight", {kv, config.width}, by_kv_head, ParameterKind::kMatrix, role, layer);
  Add(prefix + "value.weight", {kv, config.width}, by_kv_head, ParameterKind::kMatrix, role, layer);
  Add(prefix + "output.weight", {config.width, inner}, {.axis = 1, .units = heads},
      ParameterKind::kMatrix, role, layer);
  if (qk_norm) {
    Add(prefix + "query_norm.weight", {head_dim}, {}, ParameterKind::kNorm, role, layer);
    Add(prefix + "key_norm.weight", {head_dim}, {}, ParameterKind::kNorm, role, layer);
  }
  if (!softmax && config.lightning.use_output_norm) {
    Add(prefix + "output_norm.weight", {inner}, by_head, ParameterKind::kNorm, role, layer);
  }
  if (gate)
    Add(prefix + "gate.weight", {inner, config.width}, by_head, ParameterKind::kMatrix, role,
        layer);
}

void ParameterLayout::Add(const std::string& name, const std::vector<int64_t>& shape,
                          const Split& split, ParameterKind kind, ParameterRole role,
                          int64_t layer) {
  ParameterSpec spec{.name = name,
                     .shape = shape,
                     .kind = kind,
                     .role = role,
                     .layer = layer,
                     .offset = total_size_,
                     .whole_shape = shape,
                     .split_axis = split.axis};
  // Fewer units than ranks: several ranks hold the same one.
  const int64_t parts = split.units == 0 ? 1 : std::min<int64_t>(split.units, shard_.ranks);
  spec.holders = static_cast<int>(shard_.ranks / parts);
  spec.holder = shard_.rank % spec.holders;
  int64_t& length = spec.shape[static_cast<size_t>(split.axis)];
  length /= parts;
  spec.split_begin = shard_.rank / spec.holders * length;
  total_size_ += RoundUp(spec.size(), kAlignmentElements);
  index_[name] = specs_.size();
  specs_.push_back(std::move(spec));
}

int64_t ParameterLayout::parameter_count() const {
  int64_t count = 0;
  for (const ParameterSpec& spec : specs_) count += Product(spec.whole_shape);
  return count;
}

const ParameterSpec* ParameterLayout::Find(const std::string& name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &specs_[found->second];
}

absl::StatusOr<ParameterBuffer> ParameterBuffer::Create(const ParameterLayout& layout,
                                                        DType dtype) {
  // Fresh pages of the system are zero.
  ASSIGN_OR_RETURN(Arena memory, Arena::Reserve(BytesOf(layout, dtype)));
  return ParameterBuffer(std::move(memory), dtype, layout.total_size());
}

absl::StatusOr<ParameterBuffer> ParameterBuffer::Create(const ParameterLayout& layout, DType dtype,
                                                        DeviceSession& session) {
  ASSIGN_OR_RETURN(Arena memory, session.Reserve(BytesOf(layout, dtype)));
  return ParameterBuffer(std::move(memory), dtype, layout.total_size());
}

ParameterBuffer ParameterBuffer::Planned(const ParameterLayout& layout, DType dtype, Arena memory) {
  return ParameterBuffer(std::move(memory), dtype, layout.total_size());
}

TensorView ParameterBuffer::View(const ParameterSpec& spec) const {
  const TensorView rows = flat_.Rows(spec.offset, spec.size());
  return spec.shape.size() == 1 ? rows : rows.Reshape({spec.shape[0], spec.shape[1]});
}

absl::Status CopyParameters(const ExecutionContext& context, const ParameterBuffer& host,
                            const ParameterBuffer& device) {
  const TensorView from = host.Flat();
  const TensorView to = device.Flat();
  SALAMANDER_CHECK(from.size() == to.size()) << from.ShapeString() << " to " << to.ShapeString();
  if (from.dtype() == to.dtype()) return CopyFromHost(context, from.raw(), to);
  const ExecutionContext on_host;
  const int64_t piece = std::min(kRoundedElements, from.size());
  std::vector<double> memory(static_cast<size_t>(piece));  // holds an element of any dtype each
  for (int64_t begin = 0; begin < from.size(); begin += piece) {
    const int64_t count = std::min(piece, from.size() - begin);
    const TensorView rounded(memory.data(), to.dtype(), {count});
    RETURN_IF_ERROR(Convert(on_host, from.Rows(begin, count), rounded));
    RETURN_IF_ERROR(CopyFromHost(context, rounded.raw(), to.Rows(begin, count)));
  }
  return absl::OkStatus();
}

void FillNormal(TensorView view, const std::string& name, uint64_t seed,
                double standard_deviation) {
  FillNormalBy(view, name, seed, standard_deviation, std::identity());
}

void InitializeWeights(const ModelConfig& config, const ParameterLayout& layout, uint64_t seed,
                       ParameterBuffer& weights) {
  for (const ParameterSpec& spec : layout.specs()) {
    if (spec.kind == ParameterKind::kNorm) {
      FillOnes(weights.View(spec));
    } else {
      FillNormalBy(weights.View(spec), spec.name, seed, config.initializer_range,
                   [&spec](int64_t index) { return spec.WholeIndex(index); });
    }
  }
}

}  // namespace salamander
