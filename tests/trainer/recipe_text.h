// A small valid recipe as text, for tests to edit.
#ifndef TESTS_TRAINER_RECIPE_TEXT_H_
#define TESTS_TRAINER_RECIPE_TEXT_H_

#include <string>

#include "kernels/base/logging.h"

namespace salamander {

inline constexpr char kRecipeExample[] = R"(name: example
run_directory: runs/example
model: {from: hybrid.ckpt}
teacher: base.ckpt
data:
  text: {path: text.h5, held_out: 0.02}
  recall: {kind: associative_recall, path: text.h5, sample_length: 256}
optimizer:
  groups:
    - {match: "layers.*.weight", learning_rate_multiplier: 0.25}
stages:
  - name: distill
    objective: distill
    sequence_length: 1K
    tokens: 64K
    batch_tokens: 8K
    peak_lr: 1e-3
    schedule: {shape: cosine, warmup_steps: 2, final_lr: 1e-5}
    mixture: {text: 3, recall: 1}
  - name: extend
    objective: lm
    sequence_length: 4K
    tokens: 1M
    batch_tokens: 32K
    micro_batch_tokens: 8K
    peak_lr: 1e-4
    schedule: {shape: linear, warmup_tokens: 100K, final_lr: 0}
    mixture: {text: 1}
    sparse: on
    dense_rule: per_query
    optimizer_state: reset
evaluation: {every_steps: 10, recall_lengths: [256, 1K]}
checkpoint: {every_steps: 5}
)";

// The example with one piece of its text replaced.
inline std::string RecipeWith(const std::string& from, const std::string& to) {
  std::string text = kRecipeExample;
  const size_t at = text.find(from);
  SALAMANDER_CHECK(at != std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

}  // namespace salamander

#endif  // TESTS_TRAINER_RECIPE_TEXT_H_
