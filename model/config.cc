#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

absl::Status Invalid(absl::string_view field, int64_t found, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("model config: ", field, " is ", found, "; expected ", expected));
}

absl::Status CheckPositive(absl::string_view field, int64_t value) {
  return value > 0 ? absl::OkStatus() : Invalid(field, value, "a positive number");
}

absl::Status CheckHeads(absl::string_view kind, int64_t heads, int64_t kv_heads, int64_t head_dim) {
  RETURN_IF_ERROR(CheckPositive(absl::StrCat(kind, ".heads"), heads));
  RETURN_IF_ERROR(CheckPositive(absl::StrCat(kind, ".kv_heads"), kv_heads));
  RETURN_IF_ERROR(CheckPositive(absl::StrCat(kind, ".head_dim"), head_dim));
  if (heads % kv_heads != 0) {
    return Invalid(absl::StrCat(kind, ".kv_heads"), kv_heads,
                   absl::StrCat("a divisor of ", heads, " heads"));
  }
  return absl::OkStatus();
}

absl::Status InvalidRope(absl::string_view field, double found, absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat("model config: rope.", field, " is ", found, "; expected ", expected));
}

absl::Status CheckLongRope(const RopeConfig& rope, int64_t head_dim) {
  for (const auto& [name, factors] : {std::pair("rope.short_factor", &rope.short_factor),
                                      std::pair("rope.long_factor", &rope.long_factor)}) {
    const auto size = static_cast<int64_t>(factors->size());
    if (size != head_dim / 2)
      return Invalid(name, size, absl::StrCat(head_dim / 2, " entries, half of head_dim"));
  }
  if (rope.original_max_positions < 2) {
    return Invalid("rope.original_max_positions", rope.original_max_positions,
                   "at least 2, for the formula divides by its logarithm");
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const RopeConfig& rope, int64_t head_dim) {
  if (head_dim % 2 != 0)
    return Invalid("head_dim", head_dim, "an even number, for RoPE pairs its halves");
  if (!(rope.theta > 0)) return InvalidRope("theta", rope.theta, "a positive number");
  switch (rope.scaling) {
    case RopeScalingKind::kNone:
      return absl::OkStatus();
    case RopeScalingKind::kLongRope:
      return CheckLongRope(rope, head_dim);
    case RopeScalingKind::kLinear:
    case RopeScalingKind::kLlama3:
      break;
  }
  if (!(rope.factor > 0)) return InvalidRope("factor", rope.factor, "a positive number");
  if (rope.scaling == RopeScalingKind::kLinear) return absl::OkStatus();
  if (!(rope.low_frequency_factor > 0)) {
    return InvalidRope("low_frequency_factor", rope.low_frequency_factor, "a positive number");
  }
  if (!(rope.high_frequency_factor > rope.low_frequency_factor)) {
    return InvalidRope("high_frequency_factor", rope.high_frequency_factor,
                       absl::StrCat("more than low_frequency_factor ", rope.low_frequency_factor));
  }
  return CheckPositive("rope.original_max_positions", rope.original_max_positions);
}

absl::Status CheckSparse(const SparseConfig& sparse) {
  RETURN_IF_ERROR(CheckPositive("sparse.kernel_size", sparse.kernel_size));
  RETURN_IF_ERROR(CheckPositive("sparse.kernel_stride", sparse.kernel_stride));
  RETURN_IF_ERROR(CheckPositive("sparse.block_size", sparse.block_size));
  if (sparse.kernel_size != 2 * sparse.kernel_stride ||
      sparse.block_size != 4 * sparse.kernel_stride) {
    return Invalid(
        "sparse.kernel_stride", sparse.kernel_stride,
        absl::StrCat("half of kernel_size (", sparse.kernel_size, ") and a quarter of block_size (",
                     sparse.block_size, "), as InfLLM-V2 pools"));
  }
  if (sparse.window_size < 0 || sparse.window_size % sparse.block_size != 0) {
    return Invalid("sparse.window_size", sparse.window_size,
                   absl::StrCat("0 or a multiple of block_size ", sparse.block_size));
  }
  if (sparse.init_blocks < 0 || sparse.top_k < sparse.init_blocks + 1) {
    return Invalid("sparse.top_k", sparse.top_k,
                   absl::StrCat("more than the ", sparse.init_blocks, " forced leading blocks"));
  }
  return absl::OkStatus();
}

}  // namespace

bool ModelConfig::has_mixer(MixerKind kind) const {
  return std::any_of(layers.begin(), layers.end(), [kind](const LayerConfig& layer) {
    return layer.mixer == kind || (kind == MixerKind::kLightning && layer.has_candidate);
  });
}

absl::Status ModelConfig::Validate() const {
  RETURN_IF_ERROR(CheckPositive("vocabulary", vocabulary));
  RETURN_IF_ERROR(CheckPositive("width", width));
  RETURN_IF_ERROR(CheckPositive("intermediate", intermediate));
  RETURN_IF_ERROR(CheckPositive("layers", layer_count()));
  for (const LayerConfig& layer : layers) {
    if (layer.has_candidate && layer.mixer != MixerKind::kSoftmax) {
      return absl::InvalidArgumentError(
          "model config: a candidate stands beside a Lightning layer; only softmax layers are "
          "converted");
    }
  }
  if (has_mixer(MixerKind::kSoftmax)) {
    RETURN_IF_ERROR(CheckHeads("softmax", softmax.heads, softmax.kv_heads, softmax.head_dim));
    if (softmax.use_rope) RETURN_IF_ERROR(CheckRope(rope, softmax.head_dim));
    if (softmax.use_sparse) RETURN_IF_ERROR(CheckSparse(softmax.sparse));
  }
  if (has_mixer(MixerKind::kLightning)) {
    RETURN_IF_ERROR(
        CheckHeads("lightning", lightning.heads, lightning.kv_heads, lightning.head_dim));
    if (lightning.kv_heads != lightning.heads) {
      return Invalid(
          "lightning.kv_heads", lightning.kv_heads,
          absl::StrCat(lightning.heads, ", one per head: Lightning layers have no grouped keys"));
    }
    if (lightning.use_rope) RETURN_IF_ERROR(CheckRope(rope, lightning.head_dim));
    const auto slopes = static_cast<int64_t>(lightning.slopes.size());
    if (slopes != 0 && slopes != lightning.heads) {
      return Invalid("lightning.slopes", slopes,
                     absl::StrCat(lightning.heads, " entries, one per head"));
    }
    if (std::any_of(lightning.slopes.begin(), lightning.slopes.end(),
                    [](double slope) { return !(slope >= 0 && std::isfinite(slope)); })) {
      return absl::InvalidArgumentError(
          "model config: lightning.slopes has a negative or infinite entry; a decay is exp(-slope) "
          "with a finite slope >= 0");
    }
  }
  return absl::OkStatus();
}

std::vector<double> AlibiSlopes(int64_t heads) {
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  std::vector<double> slopes;
  for (int64_t head = 0; head < power; ++head) {
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(power)));
  }
  for (int64_t head = 0; static_cast<int64_t>(slopes.size()) < heads; head += 2) {
    slopes.push_back(
        std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(2 * power)));
  }
  return slopes;
}

std::vector<double> LightningSlopes(const LightningConfig& config) {
  return config.slopes.empty() ? AlibiSlopes(config.heads) : config.slopes;
}

double LightningScaleValue(const LightningConfig& config) {
  const auto head_dim = static_cast<double>(config.head_dim);
  switch (config.scale) {
    case LightningScale::kInverseSqrtHeadDim:
      return 1.0 / std::sqrt(head_dim);
    case LightningScale::kInverseHeadDim:
      return 1.0 / head_dim;
    case LightningScale::kOne:
      return 1.0;
  }
  return 1.0;
}

absl::string_view Name(ModelFamily family) {
  switch (family) {
    case ModelFamily::kLlama:
      return "llama";
    case ModelFamily::kQwen3:
      return "qwen3";
    case ModelFamily::kMiniCpm:
      return "minicpm";
    case ModelFamily::kMiniCpmSala:
      return "minicpm_sala";
  }
  return "unknown";
}

absl::string_view Name(MixerKind kind) {
  return kind == MixerKind::kSoftmax ? "softmax" : "lightning";
}

}  // namespace salamander
