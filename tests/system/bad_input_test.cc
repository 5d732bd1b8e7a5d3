// Whatever is wrong with what the program is given: one clear line, a non-zero exit code, no hang,
// nothing that exists is changed and nothing half-made is left.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_replace.h"

#include "data/storage/hdf5_file.h"
#include "tests/system/tiny_road.h"

namespace salamander {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

// The base recipe with one piece replaced.
std::string RecipeWith(const std::string& from, const std::string& to) {
  const std::string text = kBaseRecipe;
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return at == std::string::npos ? text : std::string(text).replace(at, from.size(), to);
}

class BadInputTest : public testing::Test {
 protected:
  // Made once: tokens.h5, base (a run), candidates.ckpt, hybrid.ckpt, hf (exported), select.yaml.
  static void SetUpTestSuite() {
    road = std::make_unique<TinyRoad>();
    road->MakeHybrid();
    road->Succeed({"export", "base", "--out", "hf", "--dtype", "fp32"});
    // Nothing of these tests depends on which machine runs them: a writable place for mistakes.
    fs::create_directory(road->Path("work"));
  }
  static void TearDownTestSuite() { road.reset(); }

  void TearDown() override {
    fs::remove_all(road->Path("work"));
    fs::create_directory(road->Path("work"));
  }

  static std::string Path(const std::string& name) { return road->Path(name); }
  static void Copy(const std::string& from, const std::string& to) {
    fs::copy(Path(from), Path(to), fs::copy_options::recursive);
  }

  // The program must fail with one line that holds all of `parts`, and change nothing.
  static void ExpectRefused(const Launch& launch, const std::vector<std::string>& parts) {
    const auto before = Snapshot(road->directory());
    const Outcome outcome = RunProgram(launch);
    EXPECT_FALSE(outcome.timed_out) << outcome;
    EXPECT_GT(outcome.exit_code, 0) << outcome;
    const std::vector<std::string> lines = outcome.ErrorLines();
    ASSERT_EQ(lines.size(), 1u) << outcome;
    for (const std::string& part : parts) EXPECT_THAT(outcome.errors, HasSubstr(part));
    EXPECT_EQ(Snapshot(road->directory()), before);
  }
  static void ExpectRefused(const std::vector<std::string>& arguments,
                            const std::vector<std::string>& parts, int ranks = 1) {
    ExpectRefused(road->MakeLaunch(arguments, ranks), parts);
  }

  static void ExpectRecipeRefused(const std::string& text, const std::vector<std::string>& parts,
                                  int ranks = 1) {
    WriteText(Path("work/bad.yaml"), text);
    ExpectRefused({"train", "work/bad.yaml"}, parts, ranks);
  }

  static void FlipByte(const std::string& name, double where) {
    std::string bytes = ReadText(Path(name));
    const auto at = static_cast<size_t>(where * static_cast<double>(bytes.size()));
    bytes[at] = static_cast<char>(bytes[at] ^ 0x10);
    WriteText(Path(name), bytes);
  }

  static void FlipByteOfEmbedding(const std::string& shard) {
    const auto file = Hdf5File::OpenForReading(Path(shard));
    ASSERT_TRUE(file.ok()) << file.status();
    const auto dataset = file->OpenDataset("/weights/embedding.weight");
    ASSERT_TRUE(dataset.ok()) << dataset.status();
    std::string bytes = ReadText(Path(shard));
    bytes[static_cast<size_t>(*dataset->FileOffset()) + 11] ^= 0x10;
    WriteText(Path(shard), bytes);
  }

  static constexpr char kShard[] = "work/copy.ckpt/shard-00000-of-00001.h5";

  static std::unique_ptr<TinyRoad> road;
};

std::unique_ptr<TinyRoad> BadInputTest::road;

TEST_F(BadInputTest, TruncatedSafetensors) {
  Copy("hf", "work/hf");
  const std::string file = Path("work/hf/model.safetensors");
  fs::resize_file(file, fs::file_size(file) - 10);
  ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"},
                {"work/hf/model.safetensors", "truncated"});
  fs::resize_file(file, 5);
  ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"}, {"work/hf/model.safetensors"});
}

TEST_F(BadInputTest, LyingSafetensorsHeader) {
  Copy("hf", "work/hf");
  const std::string file = Path("work/hf/model.safetensors");
  const std::string good = ReadText(file);
  WriteText(file, "\xff\xff\xff\xff\xff\xff\xff\x7f" + good.substr(8));
  ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"},
                {"work/hf/model.safetensors", "header claims 9223372036854775807"});
  WriteText(file, absl::StrReplaceAll(good, {{"\"F32\"", "\"F64\""}}));
  ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"}, {"work/hf/model.safetensors"});
}

TEST_F(BadInputTest, MissingAndMisshapedTensors) {
  Copy("hf", "work/hf");
  const std::string file = Path("work/hf/model.safetensors");
  const std::string config = ReadText(Path("hf/config.json"));
  const std::string tensors = ReadText(file);
  WriteText(file, absl::StrReplaceAll(tensors, {{"layers.2.mlp.up_proj", "layers.2.mlp.xx_proj"}}));
  ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"},
                {"work/hf", "model.layers.2.mlp.up_proj.weight"});
  WriteText(file, tensors);
  WriteText(
      Path("work/hf/config.json"),
      absl::StrReplaceAll(config, {{"\"intermediate_size\": 48", "\"intermediate_size\": 40"}}));
  ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"}, {"48", "40"});
}

TEST_F(BadInputTest, UnknownArchitectureOnOneAndTwoRanks) {
  Copy("hf", "work/hf");
  const std::string config = ReadText(Path("hf/config.json"));
  WriteText(Path("work/hf/config.json"),
            absl::StrReplaceAll(
                config, {{"LlamaForCausalLM", "MambaForCausalLM"}, {"\"llama\"", "\"mamba\""}}));
  for (const int ranks : {1, 2}) {
    ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"},
                  {"work/hf/config.json", "mamba", "expected llama"}, ranks);
  }
  WriteText(Path("work/hf/config.json"), config.substr(0, config.size() / 2));
  ExpectRefused({"import", "work/hf", "--out", "work/new.ckpt"},
                {"work/hf/config.json", "not JSON"});
}

TEST_F(BadInputTest, RecipesNameTheLineAndTheNearestKey) {
  ExpectRecipeRefused(RecipeWith("peak_lr", "peak_lrr"),
                      {"work/bad.yaml:13", "stages[0].peak_lrr", "did you mean peak_lr?"});
  ExpectRecipeRefused(RecipeWith("objective: lm", "objective: llm"),
                      {"work/bad.yaml:9", "'llm'", "did you mean lm?"});
  ExpectRecipeRefused(RecipeWith("tokens: 2K", "tokens: many"),
                      {"work/bad.yaml:11", "stages[0].tokens", "'many'"});
  ExpectRecipeRefused(RecipeWith("sequences: 4", "sequences: [4]"), {"work/bad.yaml:15"});
  ExpectRecipeRefused(RecipeWith("seed: 1", "seed: 1\nseed: 1"), {"work/bad.yaml:4", "twice"});
  ExpectRecipeRefused(RecipeWith("name: base", "name: [base"), {"work/bad.yaml:", "not YAML"});
  ExpectRecipeRefused("", {"work/bad.yaml"});
}

TEST_F(BadInputTest, ImpossibleValuesInRecipes) {
  ExpectRecipeRefused(RecipeWith("tokens: 2K", "tokens: -5"), {"work/bad.yaml:11", "'-5'"});
  ExpectRecipeRefused(RecipeWith("batch_tokens: 256", "batch_tokens: 100"),
                      {"work/bad.yaml:12", "100", "multiple"});
  ExpectRecipeRefused(RecipeWith("batch_tokens: 256", "batch_tokens: 64"),
                      {"work/bad.yaml:12", "data ranks = 64 x 2"}, 2);
  ExpectRecipeRefused(RecipeWith("peak_lr: 3e-3", "peak_lr: .nan"), {"work/bad.yaml:13", ".nan"});
  ExpectRecipeRefused(RecipeWith("held_out: 0.2", "held_out: 0.7"), {"work/bad.yaml:6", "0.7"});
  ExpectRecipeRefused(RecipeWith("run_directory: base", "run_directory: ''"),
                      {"work/bad.yaml:2 run_directory", "empty"});
  ExpectRecipeRefused(RecipeWith("{text: 1}", "{texxt: 1}"), {"work/bad.yaml:14", "texxt", "text"});
}

TEST_F(BadInputTest, DevicesThatAreNotThere) {
  ExpectRecipeRefused(RecipeWith("name: base", "name: base\ndevice: tpu"),
                      {"work/bad.yaml:2 device", "tpu", "auto, cpu, cuda"});
  const auto expect_no_gpu = [](const std::vector<std::string>& arguments, int ranks) {
    Launch launch = road->MakeLaunch(arguments, ranks);
    launch.hides_gpus = true;
    ExpectRefused(launch, {"device: cuda was asked for", "use device: cpu"});
  };
  for (const int ranks : {1, 2}) {
    expect_no_gpu({"train", "base.yaml", "--set", "device=cuda"}, ranks);
    expect_no_gpu({"evaluate", "base", "--data", "tokens.h5", "--device", "cuda"}, ranks);
  }
  expect_no_gpu({"generate", "base", "--prompt", "a", "--device", "cuda"}, 1);
}

TEST_F(BadInputTest, StagesThatDoNotFitTheModelAreToldBeforeTheFirstStep) {
  const std::string second = R"(
  - name: second
    objective: lm
    sequence_length: 64
    tokens: 1K
    batch_tokens: 256
    peak_lr: 1e-3
    mixture: {text: 1}
    sparse: on
)";
  for (const int ranks : {1, 2}) {
    ExpectRecipeRefused(absl::StrReplaceAll(RecipeWith("evaluation:", second + "evaluation:"),
                                            {{"directory: base", "directory: work/run"}}),
                        {"stage second", "sparse", "convert"}, ranks);
  }
}

TEST_F(BadInputTest, MissingFilesAndModelShapesThatCannotBe) {
  ExpectRefused({"train", "nothing.yaml"}, {"nothing.yaml", "No such file"});
  ExpectRefused({"convert", "nothing", "--all", "--out", "work/x"}, {"nothing", "checkpoint"});
  ExpectRefused({"generate", "nothing", "--prompt", "a"}, {"nothing", "checkpoint"}, 2);
  ExpectRefused({"inspect", "nothing"}, {"nothing", "checkpoint"});
  ExpectRefused({"tokenize", "nothing", "--out", "work/t.h5"}, {"nothing", "No such file"});
  ExpectRefused({"evaluate", "base", "--data", "nothing.h5"}, {"nothing.h5", "No such file"}, 2);
  ExpectRecipeRefused(RecipeWith("tokens.h5", "nothing.h5"), {"data.text", "nothing.h5"});
  ExpectRecipeRefused(RecipeWith("model.yaml", "nothing.yaml"), {"nothing.yaml", "No such file"});
  const std::string shape = ReadText(Path("model.yaml"));
  WriteText(Path("work/shape.yaml"), absl::StrReplaceAll(shape, {{"kv_heads: 2", "kv_heads: 3"}}));
  ExpectRecipeRefused(absl::StrReplaceAll(RecipeWith("model.yaml", "work/shape.yaml"),
                                          {{"directory: base", "directory: work/run"}}),
                      {"work/shape.yaml", "kv_heads is 3", "divisor"});
}

TEST_F(BadInputTest, BenchesThatCannotBeRunOrWrittenDown) {
  const auto bench = [](const std::vector<std::string>& options) {
    std::vector<std::string> arguments = {"bench", "--model", "model.yaml", "--keep", "0"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    return arguments;
  };
  ExpectRefused(bench({"--layers", "100"}), {"--layers 100", "model.yaml has 4"});
  ExpectRefused(bench({"--only", "swiglu("}), {"--only 'swiglu('", "regular expression"});
  ExpectRefused(bench({"--json", "nowhere/bench.json"}), {"nowhere/bench.json", "No such file"});
}

TEST_F(BadInputTest, WrongOverrides) {
  ExpectRefused({"train", "base.yaml", "--set", "sed=2"}, {"--set sed=2", "did you mean seed?"});
  ExpectRefused({"train", "base.yaml", "--set", "stages[7].tokens=1K"},
                {"--set stages[7].tokens=1K", "outside the list"});
  ExpectRefused({"train", "base.yaml", "--set", "stages[0].tokens=x"}, {"'x'"});
  ExpectRefused({"train", "base.yaml", "--set", "seed"}, {"--set seed", "key=value"});
}

TEST_F(BadInputTest, TokenFileWithWrongMagic) {
  WriteText(Path("work/t.h5"), "this is no token file, and long enough to be asked about\n");
  ExpectRefused({"inspect", "work/t.h5"}, {"work/t.h5", "wrong magic"});
  ExpectRefused({"evaluate", "base", "--data", "work/t.h5"}, {"work/t.h5", "wrong magic"});
  for (const int ranks : {1, 2}) {
    ExpectRecipeRefused(absl::StrReplaceAll(RecipeWith("tokens.h5", "work/t.h5"),
                                            {{"directory: base", "directory: work/run"}}),
                        {"work/t.h5", "wrong magic"}, ranks);
  }
}

TEST_F(BadInputTest, TokenFileWithATornTail) {
  Copy("tokens.h5", "work/t.h5");
  fs::resize_file(Path("work/t.h5"), fs::file_size(Path("work/t.h5")) - 100);
  ExpectRefused({"inspect", "work/t.h5"}, {"work/t.h5", "cut short"});
  ExpectRefused({"evaluate", "base", "--data", "work/t.h5"}, {"work/t.h5", "cut short"});
}

TEST_F(BadInputTest, TokenFileWithAFlippedByte) {
  Copy("tokens.h5", "work/t.h5");
  FlipByte("work/t.h5", 0.5);
  ExpectRefused({"inspect", "work/t.h5", "--verify"}, {"work/t.h5", "checksum"});
  ExpectRefused({"evaluate", "base", "--data", "work/t.h5", "--sequence-length", "64"},
                {"work/t.h5", "checksum"});
}

TEST_F(BadInputTest, TrainingOnDamagedTokensEndsOnEveryRank) {
  Copy("tokens.h5", "work/t.h5");
  FlipByte("work/t.h5", 0.5);
  WriteText(Path("work/bad.yaml"),
            absl::StrReplaceAll(RecipeWith("tokens.h5", "work/t.h5"),
                                {{"directory: base", "directory: work/run"}}));
  for (const int ranks : {1, 2}) {
    const Outcome outcome = road->Run({"train", "work/bad.yaml"}, ranks);
    EXPECT_FALSE(outcome.timed_out) << outcome;
    EXPECT_GT(outcome.exit_code, 0) << outcome;
    ASSERT_EQ(outcome.ErrorLines().size(), 1u) << outcome;
    EXPECT_THAT(outcome.ErrorLines()[0], AllOf(HasSubstr("work/t.h5"), HasSubstr("checksum")));
  }
}

TEST_F(BadInputTest, CheckpointWithAMissingShard) {
  Copy("hybrid.ckpt", "work/copy.ckpt");
  fs::remove(Path(kShard));
  ExpectRefused({"inspect", "work/copy.ckpt"}, {kShard, "missing"});
  ExpectRefused({"generate", "work/copy.ckpt", "--prompt", "a"}, {kShard, "missing"});
  for (const int ranks : {1, 2}) {
    ExpectRefused({"evaluate", "work/copy.ckpt", "--data", "tokens.h5"}, {kShard, "missing"},
                  ranks);
  }
}

TEST_F(BadInputTest, CheckpointWithAFlippedByte) {
  Copy("hybrid.ckpt", "work/copy.ckpt");
  FlipByteOfEmbedding(kShard);
  ExpectRefused({"generate", "work/copy.ckpt", "--prompt", "a"}, {kShard, "checksum"});
  ExpectRefused({"inspect", "work/copy.ckpt", "--verify"}, {kShard, "checksum"});
  ExpectRefused({"export", "work/copy.ckpt", "--out", "work/hf"}, {kShard, "checksum"});
  ExpectRefused({"convert", "work/copy.ckpt", "--all", "--out", "work/x"}, {kShard, "checksum"}, 2);
}

TEST_F(BadInputTest, CheckpointWithADamagedManifestOrText) {
  Copy("hybrid.ckpt", "work/copy.ckpt");
  FlipByte("work/copy.ckpt/metadata/model.json", 0.5);
  ExpectRefused({"export", "work/copy.ckpt", "--out", "work/hf"},
                {"work/copy.ckpt/metadata/model.json", "checksum"});
  FlipByte("work/copy.ckpt/manifest.json", 0.5);
  ExpectRefused({"export", "work/copy.ckpt", "--out", "work/hf"}, {"work/copy.ckpt/manifest.json"});
  fs::remove(Path("work/copy.ckpt/manifest.json"));
  ExpectRefused({"export", "work/copy.ckpt", "--out", "work/hf"}, {"work/copy.ckpt", "manifest"});
}

TEST_F(BadInputTest, ARunWhoseLastCheckpointIsDamagedIsNotBegunAnew) {
  Copy("base", "work/run");
  WriteText(Path("work/bad.yaml"), RecipeWith("directory: base", "directory: work/run"));
  const std::string checkpoint = "work/run/checkpoints/step-00000008";
  FlipByteOfEmbedding(checkpoint + "/shard-00000-of-00001.h5");
  for (const int ranks : {1, 2})
    ExpectRefused({"train", "work/bad.yaml"}, {checkpoint, "checksum"}, ranks);
  fs::remove(Path(checkpoint + "/shard-00000-of-00001.h5"));
  ExpectRefused({"train", "work/bad.yaml"}, {checkpoint, "missing"});
}

// RLIMIT_FSIZE stands for the full disk: a write fails half-way.
TEST_F(BadInputTest, FullDisk) {
  const auto expect_full = [&](const std::vector<std::string>& arguments, int64_t bytes,
                               const std::string& part) {
    Launch launch = road->MakeLaunch(arguments);
    launch.largest_file = bytes;
    ExpectRefused(launch, {part});
  };
  expect_full({"import", "hf", "--out", "work/x.ckpt"}, 64 << 10, "work/x.ckpt");
  expect_full({"import", "hf", "--out", "work/x.ckpt"}, 1 << 10, "work/x.ckpt");
  expect_full({"convert", "base", "--all", "--out", "work/x.ckpt"}, 64 << 10, "work/x.ckpt");
  expect_full({"export", "base", "--out", "work/hf"}, 16 << 10, "work/hf");
  expect_full({"tokenize", TinyRoad::TextFolder(), "--pattern", TinyRoad::TextPattern(), "--out",
               "work/t.h5"},
              4 << 10, "work/t.h5");
}

TEST_F(BadInputTest, FullDiskLeavesARunItsLastCheckpoint) {
  Copy("base", "work/run");
  WriteText(
      Path("work/more.yaml"),
      absl::StrReplaceAll(RecipeWith("directory: base", "directory: work/run"), {{"evaluation:", R"(
  - name: second
    objective: lm
    sequence_length: 64
    tokens: 1K
    batch_tokens: 256
    peak_lr: 1e-3
    mixture: {text: 1}
evaluation:)"}}));
  const auto before = Snapshot(Path("work/run/checkpoints"));
  Launch launch = road->MakeLaunch({"train", "work/more.yaml"});
  launch.largest_file = 64 << 10;
  const Outcome outcome = RunProgram(launch);
  EXPECT_GT(outcome.exit_code, 0) << outcome;
  ASSERT_EQ(outcome.ErrorLines().size(), 1u) << outcome;
  EXPECT_THAT(outcome.ErrorLines()[0], HasSubstr("work/run/checkpoints/"));
  EXPECT_EQ(Snapshot(Path("work/run/checkpoints")), before);
  // With room again the run goes on.
  const Outcome again = road->Succeed({"train", "work/more.yaml"});
  EXPECT_THAT(again.errors, HasSubstr("going on from work/run/checkpoints/step-00000008"));
}

// Below a regular file nobody can write, not even root.
TEST_F(BadInputTest, NoPlaceToWrite) {
  const std::string below = "model.yaml/below";
  ExpectRefused({"import", "hf", "--out", below}, {below, "Not a directory"});
  ExpectRefused({"convert", "base", "--all", "--out", below}, {below, "Not a directory"}, 2);
  ExpectRefused({"export", "base", "--out", below}, {below, "Not a directory"});
  ExpectRefused({"tokenize", "base.yaml", "--out", below}, {"model.yaml", "Not a directory"});
  ExpectRefused({"evaluate", "base", "--data", "tokens.h5", "--json", below},
                {below, "Not a directory"});
  for (const int ranks : {1, 2}) {
    ExpectRecipeRefused(RecipeWith("directory: base", "directory: model.yaml/below"),
                        {below, "Not a directory"}, ranks);
  }
}

TEST_F(BadInputTest, NoPermissionToWrite) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everywhere";
  fs::create_directory(Path("work/closed"));
  fs::permissions(Path("work/closed"), fs::perms::owner_read | fs::perms::owner_exec);
  ExpectRefused({"import", "hf", "--out", "work/closed/x"}, {"work/closed/x", "Permission denied"});
  fs::permissions(Path("work/closed"), fs::perms::owner_all);
}

TEST_F(BadInputTest, ExistingOutputsAreNotReplaced) {
  ExpectRefused({"import", "hf", "--out", "hybrid.ckpt"}, {"hybrid.ckpt", "exists"});
  ExpectRefused({"convert", "base", "--all", "--out", "hybrid.ckpt/"}, {"hybrid.ckpt", "exists"});
  ExpectRefused({"export", "base", "--out", "hf"}, {"hf", "exists"}, 2);
  ExpectRefused({"tokenize", "base.yaml", "--out", "hf"}, {"hf", "Is a directory"});
}

TEST_F(BadInputTest, KeptLayersThatAreNotThere) {
  const auto expect_keep = [](const std::string& keep, const std::vector<std::string>& parts) {
    ExpectRefused({"convert", "candidates.ckpt", "--keep", keep, "--out", "work/x"}, parts);
  };
  expect_keep("0,9", {"9", "0..3"});
  expect_keep("-1,3", {"-1", "0..3"});
  expect_keep("0,0", {"twice"});
  expect_keep("abc", {"abc", "0,3,11"});
  WriteText(Path("work/keep.yaml"), "layers: [0, 17]\n");
  expect_keep("work/keep.yaml", {"17", "0..3"});
  WriteText(Path("work/keep.yaml"), "layer: [0]\n");
  expect_keep("work/keep.yaml", {"work/keep.yaml:1", "did you mean layers?"});
  ExpectRefused({"convert", "base", "--keep", "0,3", "--out", "work/x"}, {"--all first"});
}

TEST_F(BadInputTest, SelectionsThatCannotBe) {
  const auto expect_select = [](const std::string& text, const std::vector<std::string>& parts) {
    WriteText(Path("work/select.yaml"), text);
    ExpectRefused({"select", "work/select.yaml", "--out", "work/keep.yaml"}, parts);
  };
  expect_select("scorer: hallo_ratio\n", {"work/select.yaml:1", "did you mean halo_ratio?"});
  expect_select("scorer: halo_ratio\n", {"work/select.yaml", "scores"});
  expect_select("scorer: uniform\nlayer_count: 4\nkeep_count: 9\n", {"work/select.yaml", "9"});
  expect_select("candidates: base\ndata: tokens.h5\nheld_out: 0.2\nsequence_length: 64\n",
                {"base", "no candidate"});
  WriteText(Path("work/scores.csv"), "layer,recall,common\n0,0.5,0.4\n1,nan,0.5\n");
  expect_select("scores: work/scores.csv\nlayer_count: 2\n", {"work/scores.csv", "nan"});
  WriteText(Path("work/scores.csv"), "layer,recall,common\n0,0.5,0.4\n0,0.4,0.5\n");
  expect_select("scores: work/scores.csv\nlayer_count: 2\n", {"work/scores.csv"});
  WriteText(Path("work/scores.csv"), "layer,recall,common\n0,0.5,0.4\n");
  expect_select("scores: work/scores.csv\nlayer_count: 2\n", {"work/scores.csv"});
}

}  // namespace
}  // namespace salamander
