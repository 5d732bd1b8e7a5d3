// Shape and arithmetic of a model: dense Llama, Qwen3 and MiniCPM-4, and the MiniCPM-SALA hybrid,
// each a choice of fields. Whatever differs between models is a field here, never a constant in a
// layer.
#ifndef MODEL_CONFIG_H_
#define MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace salamander {

// Which HuggingFace class the model is written as.
enum class ModelFamily { kLlama, kQwen3, kMiniCpm, kMiniCpmSala };

enum class MixerKind { kSoftmax, kLightning };

enum class RopeScalingKind { kNone, kLinear, kLlama3, kLongRope };

// Rotary position embedding, half-split pairing: dimension d rotates with d + D/2 by position *
// inv_frequency[d].
struct RopeConfig {
  double theta = 10000.0;
  RopeScalingKind scaling = RopeScalingKind::kNone;
  double factor = 1.0;                 // linear, llama3
  double low_frequency_factor = 1.0;   // llama3
  double high_frequency_factor = 4.0;  // llama3
  int64_t original_max_positions = 0;  // llama3, longrope
  std::vector<double>
      short_factor;  // longrope, D/2 divisors of the frequencies up to the original length
  std::vector<double> long_factor;  // longrope, beyond it
  double attention_factor = 0.0;  // longrope multiplier of cos and sin; 0 takes the formula's value

  bool operator==(const RopeConfig&) const = default;
};

// Whether a document switches from dense to sparse attention as a whole (its length reaches
// dense_length, as the public MiniCPM-SALA code does) or query by query (position + 1 reaches it;
// training and step-by-step decoding agree).
enum class DenseRule { kPerDocument, kPerQuery };

// InfLLM-V2 (arXiv 2509.24663). Level-2 pooling is four times level 1.
struct SparseConfig {
  int64_t kernel_size = 32;    // tokens pooled into one fine key
  int64_t kernel_stride = 16;  // tokens between fine keys
  int64_t block_size = 64;     // keys selected together
  int64_t init_blocks = 1;     // leading blocks that are always selected
  int64_t window_size =
      2048;  // the current block and window_size / block_size before it are always selected
  int64_t top_k = 64;  // with the window: top_k + window_size / block_size blocks in all
  int64_t dense_length = 8192;
  DenseRule dense_rule = DenseRule::kPerDocument;

  int64_t local_blocks() const { return window_size / block_size; }
  int64_t selected_blocks() const { return top_k + local_blocks(); }
  bool operator==(const SparseConfig&) const = default;
};

// The softmax layers: dense attention, or sparse where `use_sparse`.
struct SoftmaxConfig {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool use_rope = true;
  bool use_qk_norm = false;
  bool use_output_gate = false;  // sigmoid(gate(u)) times the attention output
  bool use_sparse = false;
  SparseConfig sparse;

  bool operator==(const SoftmaxConfig&) const = default;
};

enum class LightningScale { kInverseSqrtHeadDim, kInverseHeadDim, kOne };

// The Lightning (linear attention) layers.
struct LightningConfig {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // equal to heads after conversion
  int64_t head_dim = 0;
  bool use_rope = true;
  bool use_qk_norm = true;
  bool use_output_norm = true;  // one RMSNorm over all heads together
  bool use_output_gate = true;
  LightningScale scale = LightningScale::kInverseSqrtHeadDim;
  std::vector<double>
      slopes;  // [heads] decay exp(-slope) per token; empty takes AlibiSlopes(heads)

  bool operator==(const LightningConfig&) const = default;
};

// What stands in one layer. A candidate is a Lightning mixer being aligned beside the layer's own
// softmax mixer.
struct LayerConfig {
  MixerKind mixer = MixerKind::kSoftmax;
  bool has_candidate = false;

  bool operator==(const LayerConfig&) const = default;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kLlama;
  int64_t vocabulary = 0;
  int64_t width = 0;         // C
  int64_t intermediate = 0;  // SwiGLU inner width
  std::vector<LayerConfig> layers;
  double norm_epsilon = 1e-6;
  bool tie_embeddings = false;
  int64_t max_positions = 0;
  double initializer_range = 0.02;

  // muP (MiniCPM): 1 everywhere else.
  double embedding_scale = 1.0;  // scale_emb: times the embedding
  double residual_scale = 1.0;   // scale_depth / sqrt(layers): times each residual branch
  double logit_scale = 1.0;  // dim_model_base / width: times the final hidden state before the head

  // MiniCPM's keys behind the two derived scales, kept so that an export writes what was read.
  double scale_depth = 0.0;
  int64_t dim_model_base = 0;

  SoftmaxConfig softmax;
  LightningConfig lightning;
  RopeConfig rope;

  int64_t bos_id = -1;
  std::vector<int64_t> eos_ids;
  int64_t pad_id = -1;

  int64_t layer_count() const { return static_cast<int64_t>(layers.size()); }
  bool has_mixer(MixerKind kind) const;
  bool operator==(const ModelConfig&) const = default;

  // Refuses a shape that cannot be built, naming the field, its value and what would do.
  absl::Status Validate() const;
};

// ALiBi's slopes, the decay of MiniCPM-SALA and HypeNet: 2^(-8 (h + 1) / H) for H a power of two;
// otherwise the list of the next lower power of two followed by every second slope of twice that.
std::vector<double> AlibiSlopes(int64_t heads);

// The slopes in force: the config's own, or ALiBi's.
std::vector<double> LightningSlopes(const LightningConfig& config);

// The factor on q . k in the Lightning layers.
double LightningScaleValue(const LightningConfig& config);

absl::string_view Name(ModelFamily family);
absl::string_view Name(MixerKind kind);

}  // namespace salamander

#endif  // MODEL_CONFIG_H_
