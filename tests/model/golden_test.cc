// Every checkpoint under tests/golden, imported and run, against the logits that another
// implementation gives for it (tests/golden/README.md).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

#include "kernels/head_loss.h"
#include "model/checkpoint/huggingface/hf_import.h"
#include "model/checkpoint/huggingface/safetensors.h"
#include "model/transformer.h"
#include "tests/support/random_tensor.h"
#include "tests/support/test_context.h"

namespace salamander {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBlocksName = "model.layers.0.selected_blocks";
// Of the logits' largest magnitude. The data's authors saw 2e-5 standard deviations between fp32
// and fp64.
constexpr double kLogitsTolerance = 1e-4;

struct Case {
  std::string folder, expected;  // "qwen3", "expected.safetensors"

  std::string Name() const {
    const std::string variant = fs::path(expected).stem().string();
    return absl::StrCat(folder, variant.substr(std::strlen("expected")));
  }
};

// As test listings show the parameter.
void PrintTo(const Case& given, std::ostream* stream) {
  *stream << given.folder << "/" << given.expected;
}

std::string GoldenRoot() {
  return absl::StrCat(SALAMANDER_SOURCE_DIR, "/tests/golden");
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const auto& folder : fs::directory_iterator(GoldenRoot())) {
    if (!folder.is_directory()) continue;
    for (const auto& file : fs::directory_iterator(folder.path())) {
      const std::string name = file.path().filename().string();
      if (absl::StartsWith(name, "expected")) {
        cases.push_back({folder.path().filename().string(), name});
      }
    }
  }
  std::sort(cases.begin(), cases.end(),
            [](const Case& a, const Case& b) { return a.Name() < b.Name(); });
  return cases;
}

template <typename Value>
Value OrDie(absl::StatusOr<Value> value) {
  SALAMANDER_CHECK(value.ok()) << value.status().ToString();
  return *std::move(value);
}

struct ImportedModel {
  explicit ImportedModel(const std::string& folder)
      : ImportedModel(OrDie(HfFolder::Open(folder))) {}
  explicit ImportedModel(const HfFolder& folder)
      : config(folder.config()),
        layout(config),
        buffer(OrDie(ParameterBuffer::Create(layout, DType::kFloat32))),
        transformer(config, BindTensors(config, layout, buffer)) {
    std::vector<NamedTensor> parameters;
    for (const ParameterSpec& spec : layout.specs())
      parameters.push_back({spec.name, buffer.View(spec)});
    OrDie(folder.Load(parameters));
  }

  ModelConfig config;
  ParameterLayout layout;
  ParameterBuffer buffer;
  Transformer transformer;
};

// One expected*.safetensors: what a dense case leaves out is one document and every row.
struct Expected {
  explicit Expected(const std::string& path) {
    const SafetensorsFile file = OrDie(SafetensorsFile::Open(path));
    tokens = Integers(file, "tokens");
    document_starts = file.Find("document_starts") == nullptr ? std::vector<int32_t>{0}
                                                              : Integers(file, "document_starts");
    if (file.Find("rows") != nullptr) {
      rows = Integers(file, "rows");
    } else {
      for (size_t row = 0; row < tokens.size(); ++row) rows.push_back(static_cast<int32_t>(row));
    }
    const std::vector<int64_t>& shape = file.Find("logits")->shape;
    logits = TestTensor(DType::kFloat32, {shape[0], shape[1]});
    SALAMANDER_CHECK(file.Read("logits", logits.View()).ok());
    if (file.Find(kBlocksName) != nullptr) blocks = Integers(file, kBlocksName);
  }

  static std::vector<int32_t> Integers(const SafetensorsFile& file, const std::string& name) {
    TensorView flat;
    std::vector<int32_t> values;
    const std::vector<int64_t>& shape = file.Find(name)->shape;
    int64_t size = 1;
    for (const int64_t dim : shape) size *= dim;
    values.resize(static_cast<size_t>(size));
    flat = shape.size() == 3 ? TensorView::Of(values.data(), {shape[0], shape[1], shape[2]})
                             : TensorView::Of(values.data(), {size});
    const absl::Status status = file.Read(name, flat);
    SALAMANDER_CHECK(status.ok()) << status.ToString();
    return values;
  }

  std::vector<Segment> Segments() const {
    std::vector<Segment> segments;
    for (size_t document = 0; document < document_starts.size(); ++document) {
      const auto begin = static_cast<int64_t>(document_starts[document]);
      const auto end = document + 1 < document_starts.size()
                           ? static_cast<int64_t>(document_starts[document + 1])
                           : static_cast<int64_t>(tokens.size());
      segments.push_back({.query_begin = begin, .query_count = end - begin, .key_begin = begin});
    }
    return segments;
  }

  std::vector<int32_t> tokens, document_starts, rows;
  TestTensor logits;            // [rows, V]
  std::vector<int32_t> blocks;  // [rows, Hkv, N], or empty
};

class GoldenTest : public testing::TestWithParam<Case> {
 protected:
  // The logits of the expected rows, and the blocks that layer 0 chose for them where it is sparse.
  void Run(const ImportedModel& model, Expected& expected, TestTensor& logits,
           std::vector<int32_t>& blocks) {
    TestContext context;
    const ArenaScope scope(context.arena());
    const ExecutionContext& execution = context;
    const std::vector<Segment> segments = expected.Segments();
    const auto tokens = static_cast<int64_t>(expected.tokens.size());
    Activations saved;
    const auto hidden =
        model.transformer.Forward({.execution = &execution,
                                   .tokens = TensorView::Of(expected.tokens.data(), {tokens}),
                                   .segments = segments,
                                   .cache = nullptr,
                                   .use_candidate = {},
                                   .tap = {}},
                                  &saved);
    ASSERT_TRUE(hidden.ok()) << hidden.status();
    for (size_t index = 0; index < expected.rows.size(); ++index) {
      const int64_t row = expected.rows[index];
      ASSERT_TRUE(
          HeadLogits(execution, {.hidden = hidden->Rows(row, 1),
                                 .head = model.transformer.weights().head,
                                 .logit_scale = model.config.logit_scale,
                                 .logits = logits.View().Rows(static_cast<int64_t>(index), 1)})
              .ok());
      const TensorView& chosen = saved.layers[0].mixer.blocks;
      if (chosen.empty()) continue;
      const int32_t* const first = chosen.data<int32_t>() + row * chosen.row_size();
      blocks.insert(blocks.end(), first, first + chosen.row_size());
    }
  }
};

TEST_P(GoldenTest, LogitsAndSelectedBlocksAreTheReferences) {
  const std::string folder = absl::StrCat(GoldenRoot(), "/", GetParam().folder);
  const ImportedModel model(folder);
  Expected expected(absl::StrCat(folder, "/", GetParam().expected));
  const TensorView reference = expected.logits.View();
  TestTensor logits(DType::kFloat32, {reference.dim(0), reference.dim(1)});
  std::vector<int32_t> blocks;
  Run(model, expected, logits, blocks);
  double largest = 0.0;
  for (const float value : expected.logits.Elements<float>())
    largest = std::max(largest, std::abs(static_cast<double>(value)));
  const double error = MaxAbsDifference(logits.View(), reference) / largest;
  RecordProperty("relative_error", absl::StrCat(error));
  EXPECT_LE(error, kLogitsTolerance);
  if (!expected.blocks.empty()) {
    EXPECT_EQ(blocks, expected.blocks);
  }
}

INSTANTIATE_TEST_SUITE_P(Checkpoints, GoldenTest, testing::ValuesIn(Cases()),
                         [](const auto& given) { return given.param.Name(); });

// A folder that goes missing, or a glob that finds nothing, must not pass for agreement.
TEST(GoldenDataTest, IsAllThere) {
  const std::vector<Case> cases = Cases();
  EXPECT_EQ(cases.size(), 22U);
  int with_blocks = 0;
  for (const Case& each : cases) {
    const Expected expected(absl::StrCat(GoldenRoot(), "/", each.folder, "/", each.expected));
    with_blocks += expected.blocks.empty() ? 0 : 1;
    EXPECT_FALSE(expected.rows.empty()) << each.Name();
  }
  EXPECT_EQ(with_blocks, 4);
}

}  // namespace
}  // namespace salamander
