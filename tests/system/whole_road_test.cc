// The whole road, command by command, as a user walks it: text to tokens, a dense base, HuggingFace
// and back, candidates, alignment, measured selection, the hybrid, distillation, a longer stage
// with sparse attention, evaluation, export, import, generation.

#include <algorithm>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

#include "data/storage/checksum.h"
#include "model/checkpoint/checkpoint.h"
#include "tests/system/tiny_road.h"

namespace salamander {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

constexpr char kAlignRecipe[] = R"(name: align
run_directory: align
seed: 2
model: {from: candidates.ckpt}
data:
  text: {path: tokens.h5, held_out: 0.2, lanes: 2}
stages:
  - name: align
    objective: align
    train: candidates
    sequence_length: 64
    tokens: 8K
    batch_tokens: 256
    peak_lr: 3e-3
    mixture: {text: 1}
evaluation: {sequences: 4}
)";

constexpr char kSelection[] = R"(scorer: halo_ratio
keep_count: 2
force_first: false
force_last: true
candidates: align
data: tokens.h5
held_out: 0.2
sequence_length: 64
sequences: 4
recall_length: 64
recall_pairs: 4
recall_samples: 4
)";

constexpr char kHybridRecipe[] = R"(name: hybrid
run_directory: hybrid
seed: 3
model: {from: hybrid.ckpt}
teacher: base.ckpt
data:
  text: {path: tokens.h5, held_out: 0.2, lanes: 2}
  recall: {kind: associative_recall, path: tokens.h5, pairs: 4, sample_length: 64}
stages:
  - name: distill
    objective: distill
    sequence_length: 64
    tokens: 4K
    batch_tokens: 256
    peak_lr: 2e-3
    mixture: {text: 3, recall: 1}
  - name: long
    objective: lm
    sequence_length: 256
    tokens: 4K
    batch_tokens: 512
    peak_lr: 1e-3
    mixture: {text: 1}
    sparse: on
    dense_length: 64
    optimizer_state: reset
evaluation: {sequences: 4}
)";

std::vector<json> MetricsOf(const std::string& run) {
  std::vector<json> lines;
  std::istringstream stream(ReadText(run + "/metrics.jsonl"));
  for (std::string line; std::getline(stream, line);) lines.push_back(json::parse(line));
  return lines;
}

double MeanLoss(const std::vector<json>& lines, size_t begin, size_t end) {
  double sum = 0.0;
  for (size_t index = begin; index < end; ++index) sum += lines[index].at("loss").get<double>();
  return sum / static_cast<double>(end - begin);
}

// Of the whole tensor, however many pieces it was written in.
std::string TensorChecksum(const Checkpoint& checkpoint, const std::string& name) {
  const Checkpoint::Tensor& tensor = checkpoint.tensors().at(name);
  const Rectangle whole = WholeOf(tensor.shape);
  std::vector<float> values(static_cast<size_t>(whole.rows * whole.columns));
  const TensorView view = TensorView::Of(values.data(), {whole.rows, whole.columns});
  const absl::Status status = checkpoint.ReadPart(name, tensor.shape, whole, view);
  EXPECT_TRUE(status.ok()) << status;
  return ChecksumText(ChecksumOf(view.raw(), static_cast<size_t>(view.bytes())));
}

// Checksums of the tensors below weights/: equal where the bits are.
std::vector<std::string> WeightChecksums(const std::string& path) {
  std::vector<std::string> lines;
  const auto checkpoint = Checkpoint::Open(path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  if (!checkpoint.ok()) return lines;
  EXPECT_TRUE(checkpoint->Verify().ok());
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    if (name.rfind("weights/", 0) != 0) continue;
    lines.push_back(absl::StrCat(name, " ", TensorChecksum(*checkpoint, name)));
  }
  EXPECT_FALSE(lines.empty());
  return lines;
}

// The steps in order, on so many ranks; each test looks at what one of them left.
class WholeRoad {
 public:
  explicit WholeRoad(int ranks) : ranks_(ranks) {
    WriteText(road_.Path("align.yaml"), kAlignRecipe);
    WriteText(road_.Path("select.yaml"), kSelection);
    WriteText(road_.Path("hybrid.yaml"), kHybridRecipe);
    Step({"train", "base.yaml"});
    Step({"export", "base", "--out", "base_hf", "--dtype", "fp32", "--shard-bytes", "50000"});
    Step({"import", "base_hf", "--out", "base.ckpt"});
    Step({"convert", "base.ckpt", "--all", "--out", "candidates.ckpt", "--data", "tokens.h5",
          "--report-tokens", "1024"});
    Step({"train", "align.yaml"});
    selected_ = Step({"select", "select.yaml", "--out", "keep.yaml"});
    Step({"convert", "align", "--keep", "keep.yaml", "--sparse", "sparse.yaml", "--out",
          "hybrid.ckpt", "--data", "tokens.h5", "--report-tokens", "1024"});
    Step({"train", "hybrid.yaml"});
    Step({"export", "hybrid", "--out", "hybrid_hf", "--dtype", "fp32"});
    Step({"import", "hybrid_hf", "--out", "again.ckpt"});
  }

  std::string Path(const std::string& name) const { return road_.Path(name); }
  Outcome Step(const std::vector<std::string>& arguments) const {
    return road_.Succeed(arguments, ranks_);
  }
  json Evaluate(const std::string& from) const {
    Step({"evaluate", from, "--data", "tokens.h5", "--held-out", "0.2", "--sequence-length", "128",
          "--sequences", "4", "--recall-lengths", "64", "128", "--recall-pairs", "4", "--teacher",
          "base.ckpt", "--json", "result.json"});
    return json::parse(ReadText(Path("result.json")));
  }
  const Outcome& selected() const { return selected_; }

 private:
  int ranks_;
  TinyRoad road_;
  Outcome selected_;
};

class WholeRoadTest : public testing::Test {
 protected:
  static void SetUpTestSuite() { road = std::make_unique<WholeRoad>(1); }
  static void TearDownTestSuite() { road.reset(); }

  static std::string Path(const std::string& name) { return road->Path(name); }
  static std::string LastCheckpoint(const std::string& run) {
    return ListCheckpoints(Path(run + "/checkpoints"))->back();
  }

  static std::unique_ptr<WholeRoad> road;
};

std::unique_ptr<WholeRoad> WholeRoadTest::road;

TEST_F(WholeRoadTest, ExportAndImportGiveTheSameBits) {
  EXPECT_TRUE(fs::exists(Path("base_hf/model.safetensors.index.json")));
  EXPECT_EQ(WeightChecksums(Path("base.ckpt")), WeightChecksums(LastCheckpoint("base")));
  EXPECT_TRUE(fs::exists(Path("hybrid_hf/model.safetensors")));
  EXPECT_EQ(WeightChecksums(Path("again.ckpt")), WeightChecksums(LastCheckpoint("hybrid")));
}

TEST_F(WholeRoadTest, AlignmentTrainsTheCandidatesAlone) {
  const std::vector<json> lines = MetricsOf(Path("align"));
  ASSERT_EQ(lines.size(), 34u);  // 32 steps, and evaluation and memory at the end
  EXPECT_LT(MeanLoss(lines, 28, 32), 0.8 * MeanLoss(lines, 0, 4));
  const auto before = Checkpoint::Open(Path("candidates.ckpt"));
  const auto after = Checkpoint::Open(LastCheckpoint("align"));
  ASSERT_TRUE(before.ok() && after.ok());
  int changed = 0;
  for (const auto& [name, tensor] : before->tensors()) {
    const bool is_same = TensorChecksum(*after, name) == TensorChecksum(*before, name);
    EXPECT_TRUE(is_same || name.find("candidate") != std::string::npos) << name;
    if (!is_same) ++changed;
  }
  EXPECT_GT(changed, 0);
}

// "0, 3" of what select printed.
std::string KeptIn(const Outcome& selected) {
  const std::string& said = selected.output;
  const std::string before = "softmax stays in layers ";
  const size_t begin = said.find(before);
  if (begin == std::string::npos) return "";
  return said.substr(begin + before.size(), said.find(" (", begin) - begin - before.size());
}

TEST_F(WholeRoadTest, TheStoredScoresGiveTheSameListAgain) {
  const std::string table = ReadText(Path("keep_scores.csv"));
  EXPECT_EQ(table.rfind("layer,recall,common\n0,", 0), 0u) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 5);
  WriteText(Path("replay.yaml"),
            "scorer: halo_ratio\nkeep_count: 2\nforce_first: false\nscores: keep_scores.csv\n"
            "layer_count: 4\n");
  const Outcome replayed = road->Step({"select", "replay.yaml", "--out", "replayed.yaml"});
  EXPECT_EQ(KeptIn(replayed), KeptIn(road->selected()));
  EXPECT_THAT(KeptIn(replayed), testing::EndsWith(", 3"));  // forced
}

TEST_F(WholeRoadTest, TheHybridKeepsTheSelectedLayers) {
  const std::string kept = KeptIn(road->selected());
  ASSERT_NE(kept, "");
  EXPECT_THAT(road->Step({"inspect", "hybrid.ckpt", "--verify"}).output,
              HasSubstr("softmax layers: " + kept + " "));
  EXPECT_THAT(road->Step({"inspect", "again.ckpt"}).output,
              HasSubstr("softmax layers: " + kept + " "));
  const std::string report = ReadText(Path("hybrid.ckpt/metadata/parity.txt"));
  for (const char* part : {"KL of the whole model", "cosine", "dropped", "copied"})
    EXPECT_THAT(report, HasSubstr(part));
}

TEST_F(WholeRoadTest, TrainingImprovesTheConvertedModel) {
  const json converted = road->Evaluate("hybrid.ckpt"), trained = road->Evaluate("hybrid");
  EXPECT_LT(trained.at("loss").get<double>(), converted.at("loss").get<double>());
  for (const char* key : {"recall_accuracy_64", "recall_accuracy_128", "recall_probability_128"})
    EXPECT_TRUE(trained.contains(key)) << key;
  // The same weights, exported and imported, score the same.
  EXPECT_EQ(road->Evaluate("again.ckpt").at("loss"), trained.at("loss"));
  EXPECT_GT(trained.at("kl_to_teacher").get<double>(), 1e-4);
  // To itself the base has no distance.
  EXPECT_NEAR(road->Evaluate("base").at("kl_to_teacher").get<double>(), 0.0, 1e-6);
}

TEST_F(WholeRoadTest, GenerationIsDeterministic) {
  const std::vector<std::string> greedy = {"generate", "hybrid",           "--prompt",
                                           "#include", "--max-new-tokens", "80"};
  const std::string first = road->Step(greedy).output;
  EXPECT_EQ(first.rfind("#include", 0), 0u);
  EXPECT_EQ(road->Step(greedy).output, first);

  const auto sample = [&](const std::string& seed) {
    std::vector<std::string> arguments = greedy;
    arguments.insert(arguments.end(), {"--temperature", "1", "--seed", seed});
    return road->Step(arguments).output;
  };
  EXPECT_EQ(sample("1"), sample("1"));
  EXPECT_NE(sample("1"), sample("2"));
}

TEST_F(WholeRoadTest, TwoRanksWalkItToo) {
  const WholeRoad two(2);
  const auto one_lines = MetricsOf(Path("hybrid")), two_lines = MetricsOf(two.Path("hybrid"));
  ASSERT_EQ(two_lines.size(), one_lines.size());
  EXPECT_TRUE(fs::exists(two.Path("again.ckpt/manifest.json")));
  // The first step of the base sees the same batch and the same weights.
  EXPECT_NEAR(MetricsOf(two.Path("base"))[0].at("loss").get<double>(),
              MetricsOf(Path("base"))[0].at("loss").get<double>(), 1e-4);
}

}  // namespace
}  // namespace salamander
