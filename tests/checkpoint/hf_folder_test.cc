#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

#include "data/storage/file_bytes.h"
#include "model/checkpoint/huggingface/hf_export.h"
#include "model/checkpoint/huggingface/hf_import.h"
#include "model/checkpoint/huggingface/hf_names.h"
#include "model/parameters.h"
#include "tests/storage/full_disk.h"
#include "tests/storage/temporary_directory.h"

namespace salamander {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kGoldenCases[] = {"llama_llama3_scaling", "llama_rope_parameters",
                                        "llama_tied",           "minicpm4",
                                        "minicpm4_extended",    "qwen3",
                                        "sala_six_heads",       "sala_small_blocks",
                                        "sala_ragged_lengths"};

std::string Golden(const std::string& name) {
  return absl::StrCat(SALAMANDER_SOURCE_DIR, "/tests/golden/", name);
}

// A model's parameters in memory, filled with NaN so that one that is not read shows.
struct Parameters {
  explicit Parameters(const ModelConfig& config)
      : layout(config), buffer(*ParameterBuffer::Create(layout, DType::kFloat32)) {
    std::memset(buffer.Flat().raw(), 0xFF, static_cast<size_t>(buffer.Flat().bytes()));
    for (const ParameterSpec& spec : layout.specs()) {
      tensors.push_back({spec.name, buffer.View(spec)});
    }
  }
  std::string Bytes() const {
    std::string bytes;
    for (const NamedTensor& tensor : tensors) {
      bytes.append(static_cast<const char*>(tensor.view.raw()),
                   static_cast<size_t>(tensor.view.bytes()));
    }
    return bytes;
  }
  bool HasNan() const {
    for (const NamedTensor& tensor : tensors) {
      const float* const values = tensor.view.data<float>();
      for (int64_t index = 0; index < tensor.view.size(); ++index) {
        if (values[index] != values[index]) return true;
      }
    }
    return false;
  }

  ParameterLayout layout;
  ParameterBuffer buffer;
  std::vector<NamedTensor> tensors;
};

TEST(HfNamesTest, GatesAreNamedByMixer) {
  ModelConfig config;
  config.layers = {{MixerKind::kSoftmax, false}, {MixerKind::kLightning, false}};
  EXPECT_EQ(*HfTensorName(config, "layers.0.mixer.gate.weight"),
            "model.layers.0.self_attn.o_gate.weight");
  EXPECT_EQ(*HfTensorName(config, "layers.1.mixer.gate.weight"),
            "model.layers.1.self_attn.z_proj.weight");
  EXPECT_EQ(*HfTensorName(config, "layers.1.mlp.gate.weight"),
            "model.layers.1.mlp.gate_proj.weight");
  EXPECT_EQ(*HfTensorName(config, "embedding.weight"), "model.embed_tokens.weight");
  for (const char* name : {"layers.2.mixer.gate.weight", "layers.0.candidate.gate.weight",
                           "layers.", "layers.0", "layers.x.mlp.up.weight", "unknown"}) {
    EXPECT_FALSE(HfTensorName(config, name).ok()) << name;
  }
}

TEST(HfNamesTest, PublishedSalaHasItsTensorsAndParameters) {
  Json json = {{"model_type", "minicpm_sala"},
               {"vocab_size", 73448},
               {"hidden_size", 4096},
               {"intermediate_size", 16384},
               {"num_hidden_layers", 32},
               {"num_attention_heads", 32},
               {"num_key_value_heads", 2},
               {"head_dim", 128},
               {"max_position_embeddings", 524288},
               {"attn_use_rope", false},
               {"attn_use_output_gate", true},
               {"lightning_use_rope", true},
               {"qk_norm", true},
               {"use_output_norm", true},
               {"use_output_gate", true},
               {"lightning_scale", "1/sqrt(d)"},
               {"scale_emb", 12},
               {"scale_depth", 1.4},
               {"dim_model_base", 256},
               {"tie_word_embeddings", false},
               {"mixer_types", Json::array()}};
  const std::set<int> softmax_layers = {0, 9, 16, 17, 22, 29, 30, 31};
  for (int layer = 0; layer < 32; ++layer) {
    json["mixer_types"].push_back(softmax_layers.count(layer) > 0 ? "minicpm4" : "lightning-attn");
  }
  auto config = ParseHfConfig("config.json", json.dump());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model.residual_scale, 1.4 / std::sqrt(32.0));
  EXPECT_EQ(config->model.logit_scale, 1.0 / 16);
  const ParameterLayout layout(config->model);
  EXPECT_EQ(layout.parameter_count(), 9477203968);  // of the released checkpoint
  std::set<std::string> tensors;
  for (const ParameterSpec& spec : layout.specs()) {
    auto name = HfTensorName(config->model, spec.name);
    ASSERT_TRUE(name.ok()) << name.status();
    tensors.insert(*name);
  }
  EXPECT_EQ(tensors.size(), 395);
  EXPECT_EQ(tensors.count("model.layers.9.self_attn.o_gate.weight"), 1);
  EXPECT_EQ(tensors.count("model.layers.10.self_attn.z_proj.weight"), 1);
}

TEST(HfFolderTest, EveryGoldenFolderComesBackBitwise) {
  for (const std::string name : kGoldenCases) {
    const TemporaryDirectory directory;
    auto folder = HfFolder::Open(Golden(name));
    ASSERT_TRUE(folder.ok()) << folder.status();
    const Parameters first(folder->config());
    auto reports = folder->Load(first.tensors);
    ASSERT_TRUE(reports.ok()) << reports.status();
    EXPECT_EQ(reports->size(), first.tensors.size()) << name;
    for (const TensorReport& report : *reports) {
      EXPECT_EQ(report.fate, TensorFate::kLoaded) << name << " " << report.tensor;
    }
    EXPECT_FALSE(first.HasNan()) << name;

    const HfExportOptions options = {
        .weights = {.precision = SafetensorsPrecision::kFloat32, .max_shard_bytes = 20000},
        .side_files = {{"tokenizer.model", "pieces"}}};
    const absl::Status written =
        ExportHfFolder(directory / "out", folder->config(), first.tensors, options);
    ASSERT_TRUE(written.ok()) << written;
    auto again = HfFolder::Open(directory / "out");
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_TRUE(again->config() == folder->config()) << name;
    const Parameters second(again->config());
    ASSERT_TRUE(again->Load(second.tensors).ok());
    EXPECT_EQ(second.Bytes(), first.Bytes()) << name;
    EXPECT_EQ(again->ReadSideFiles()->at("tokenizer.model"), "pieces");
  }
}

TEST(HfFolderTest, Bfloat16FolderKeepsBfloat16WeightsBitwise) {
  const TemporaryDirectory directory;
  auto folder = HfFolder::Open(Golden("minicpm4"));  // stored as BF16
  ASSERT_TRUE(folder.ok()) << folder.status();
  const Parameters first(folder->config());
  ASSERT_TRUE(folder->Load(first.tensors).ok());
  ASSERT_TRUE(ExportHfFolder(directory / "out", folder->config(), first.tensors, {}).ok());
  const Parameters second(folder->config());
  ASSERT_TRUE(HfFolder::Open(directory / "out")->Load(second.tensors).ok());
  EXPECT_EQ(second.Bytes(), first.Bytes());
}

// A copy of a golden folder whose tensors and config a test may change.
class ChangedFolderTest : public ::testing::Test {
 protected:
  ChangedFolderTest() {
    fs::copy(Golden("llama_tied"), path(), fs::copy_options::recursive);
    auto folder = SafetensorsFolder::Open(path());
    for (const std::string& name : folder->names()) {
      const std::vector<int64_t>& shape = folder->Find(name)->shape;
      const bool is_matrix = shape.size() == 2;
      auto& values =
          values_.emplace_back(static_cast<size_t>(is_matrix ? shape[0] * shape[1] : shape[0]));
      const TensorView view = is_matrix ? TensorView::Of(values.data(), {shape[0], shape[1]})
                                        : TensorView::Of(values.data(), {shape[0]});
      EXPECT_TRUE(folder->Read(name, view).ok());
      tensors_.push_back({name, view});
    }
  }

  std::string path() const { return directory_ / "folder"; }
  void ChangeConfig(const char* key, const Json& value) {
    Json json = Json::parse(*ReadFileBytes(path() + "/config.json", 1 << 20));
    json[key] = value;
    EXPECT_TRUE(WriteFileBytes(path() + "/config.json", json.dump()).ok());
  }
  NamedTensor& Tensor(const std::string& name) {
    for (NamedTensor& tensor : tensors_) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << name;
    return tensors_[0];
  }
  absl::StatusOr<std::vector<TensorReport>> WriteAndLoad() {
    EXPECT_TRUE(WriteSafetensorsFolder(path(), tensors_, {}).ok());
    auto folder = HfFolder::Open(path());
    if (!folder.ok()) return folder.status();
    const Parameters parameters(folder->config());
    return folder->Load(parameters.tensors);
  }
  std::string ErrorOfLoad() {
    const absl::Status status = WriteAndLoad().status();
    EXPECT_FALSE(status.ok());
    return std::string(status.message());
  }

  TemporaryDirectory directory_;
  std::vector<std::vector<float>> values_;
  std::vector<NamedTensor> tensors_;
};

TEST_F(ChangedFolderTest, MissingTensorIsNamed) {
  Tensor("model.layers.1.mlp.up_proj.weight").name = "model.extra";
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("model.layers.1.mlp.up_proj.weight: missing, expected the "
                                       "shape of float32[40, 32]"));
}

TEST_F(ChangedFolderTest, MisshapedTensorIsNamed) {
  NamedTensor& tensor = Tensor("model.layers.1.mlp.up_proj.weight");
  tensor.view = tensor.view.Reshape({32, 40});
  EXPECT_THAT(ErrorOfLoad(),
              HasSubstr("model.layers.1.mlp.up_proj.weight: found BF16[32, 40], expected the shape "
                        "of float32[40, 32]"));
}

TEST_F(ChangedFolderTest, TensorOfALayerWithoutUseIsRefused) {
  values_.emplace_back(32, 1.0F);
  tensors_.push_back(
      {"model.layers.0.self_attn.q_proj.bias", TensorView::Of(values_.back().data(), {32})});
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("q_proj.bias: found BF16[32], but the config has no use"));
}

TEST_F(ChangedFolderTest, FewerLayersInTheConfigThanInTheFileAreRefused) {
  ChangeConfig("num_hidden_layers", 1);
  EXPECT_THAT(ErrorOfLoad(), HasSubstr("model.layers.1."));
}

TEST_F(ChangedFolderTest, EveryOtherTensorHasAFate) {
  for (const char* name :
       {"lm_head.weight", "model.vision.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"}) {
    values_.emplace_back(4, 1.0F);
    tensors_.push_back({name, TensorView::Of(values_.back().data(), {4})});
  }
  auto reports = WriteAndLoad();
  ASSERT_TRUE(reports.ok()) << reports.status();
  std::map<std::string, TensorFate> fates;
  for (const TensorReport& report : *reports) fates[report.tensor] = report.fate;
  EXPECT_EQ(fates.at("lm_head.weight"), TensorFate::kTied);
  EXPECT_EQ(fates.at("model.vision.weight"), TensorFate::kUnused);
  EXPECT_EQ(fates.at("model.layers.0.self_attn.rotary_emb.inv_freq"), TensorFate::kBuffer);
  EXPECT_EQ(fates.at("model.norm.weight"), TensorFate::kLoaded);
  EXPECT_EQ(fates.size(), tensors_.size());
}

TEST_F(ChangedFolderTest, MissingConfigIsNamed) {
  fs::remove(path() + "/config.json");
  EXPECT_THAT(std::string(HfFolder::Open(path()).status().message()), HasSubstr("config.json"));
  EXPECT_FALSE(HfFolder::Open(directory_ / "absent").ok());
}

TEST_F(ChangedFolderTest, FailedExportLeavesNothingAndAnExistingFolderStays) {
  auto folder = HfFolder::Open(path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  const Parameters parameters(folder->config());
  ASSERT_TRUE(folder->Load(parameters.tensors).ok());
  const size_t entries = directory_.entry_count();
  {
    const FileSizeLimit limit(3000);
    const absl::Status full =
        ExportHfFolder(directory_ / "out", folder->config(), parameters.tensors, {});
    EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted) << full;
  }
  EXPECT_EQ(directory_.entry_count(), entries);
  EXPECT_EQ(ExportHfFolder(path(), folder->config(), parameters.tensors, {}).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(HfFolder::Open(path()).ok());
  EXPECT_FALSE(
      ExportHfFolder(path() + "/config.json/out", folder->config(), parameters.tensors, {}).ok());
}

}  // namespace
}  // namespace salamander
