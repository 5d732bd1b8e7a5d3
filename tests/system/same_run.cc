#include "tests/system/same_run.h"

#include <cstring>
#include <map>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model/checkpoint/checkpoint.h"
#include "tests/system/program.h"

namespace salamander {
namespace {

// Every tensor of a checkpoint: its bytes.
std::map<std::string, std::vector<float>> TensorsOf(const std::string& path) {
  std::map<std::string, std::vector<float>> tensors;
  const auto checkpoint = Checkpoint::Open(path);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  if (!checkpoint.ok()) return tensors;
  for (const auto& [name, tensor] : checkpoint->tensors()) {
    EXPECT_EQ(tensor.dtype, DType::kFloat32) << name;
    EXPECT_LE(tensor.shape.size(), 2u) << name;
    const int64_t columns = tensor.shape.size() == 2 ? tensor.shape[1] : 1;
    std::vector<float>& values = tensors[name];
    values.resize(static_cast<size_t>(tensor.shape[0] * columns));
    const TensorView whole = tensor.shape.size() == 2
                                 ? TensorView::Of(values.data(), {tensor.shape[0], columns})
                                 : TensorView::Of(values.data(), {tensor.shape[0]});
    const absl::Status status = checkpoint->Read(name, whole);
    EXPECT_TRUE(status.ok()) << status;
  }
  return tensors;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

void ExpectSameTensors(const std::string& actual, const std::string& expected) {
  const auto actual_tensors = TensorsOf(actual), expected_tensors = TensorsOf(expected);
  ASSERT_EQ(actual_tensors.size(), expected_tensors.size());
  ASSERT_GT(expected_tensors.count("first_moment/embedding.weight"), 0u);
  ASSERT_GT(expected_tensors.count("second_moment/embedding.weight"), 0u);
  for (const auto& [name, values] : expected_tensors) {
    ASSERT_GT(actual_tensors.count(name), 0u) << name;
    EXPECT_TRUE(SameBits(actual_tensors.at(name), values)) << name;
  }
}

std::vector<std::string> MetricsOf(const std::string& run) {
  std::vector<std::string> lines;
  std::istringstream stream(ReadText(run + "/metrics.jsonl"));
  for (std::string line; std::getline(stream, line);) {
    auto json = nlohmann::json::parse(line);
    json.erase("seconds");
    json.erase("tokens_per_second");
    json.erase("teraflops_per_second");
    json.erase("mfu");
    json.erase("median_rank_seconds");
    for (const char* place : {"slowest_1", "slowest_2", "slowest_3", "slowest_4"}) {
      for (const char* key : {"_rank", "_host", "_seconds"}) json.erase(std::string(place) + key);
    }
    json.erase("arena_peak_bytes");  // since the run last started
    lines.push_back(json.dump());
  }
  return lines;
}

}  // namespace salamander
