#include "tests/system/tiny_road.h"

#include <gtest/gtest.h>

namespace salamander {
namespace {

constexpr char kShape[] = R"(family: llama
width: 32
intermediate: 48
layers: 4
heads: 4
kv_heads: 2
head_dim: 8
max_positions: 1K
tie_embeddings: true
)";

constexpr char kSparse[] = R"(kernel_size: 8
kernel_stride: 4
block_size: 16
init_blocks: 1
window_size: 32
top_k: 2
dense_length: 64
)";

}  // namespace

const char kBaseRecipe[] = R"(name: base
run_directory: base
seed: 1
model: {shape: model.yaml}
data:
  text: {path: tokens.h5, held_out: 0.2}
stages:
  - name: base
    objective: lm
    sequence_length: 64
    tokens: 2K
    batch_tokens: 256
    peak_lr: 3e-3
    mixture: {text: 1}
evaluation: {sequences: 4}
)";

TinyRoad::TinyRoad() {
  WriteText(Path("model.yaml"), kShape);
  WriteText(Path("sparse.yaml"), kSparse);
  WriteText(Path("base.yaml"), kBaseRecipe);
  Succeed({"tokenize", TextFolder(), "--pattern", TextPattern(), "--out", "tokens.h5"});
}

std::string TinyRoad::TextFolder() {
  return std::string(SALAMANDER_SOURCE_DIR) + "/kernels/base";
}

Launch TinyRoad::MakeLaunch(const std::vector<std::string>& arguments, int ranks) const {
  return {.arguments = arguments, .directory = directory(), .ranks = ranks};
}

Outcome TinyRoad::Run(const std::vector<std::string>& arguments, int ranks) const {
  return RunProgram(MakeLaunch(arguments, ranks));
}

Outcome TinyRoad::Succeed(const std::vector<std::string>& arguments, int ranks) const {
  Outcome outcome = Run(arguments, ranks);
  EXPECT_EQ(outcome.exit_code, 0) << arguments.front() << ": " << outcome;
  return outcome;
}

void TinyRoad::MakeHybrid() const {
  Succeed({"train", "base.yaml"});
  Succeed({"convert", "base", "--all", "--out", "candidates.ckpt", "--report-tokens", "512"});
  Succeed({"convert", "candidates.ckpt", "--keep", "0,3", "--sparse", "sparse.yaml", "--out",
           "hybrid.ckpt", "--report-tokens", "512"});
}

}  // namespace salamander
