// Checks every #include of the project against the arrows between its folders, and that the rules
// catch wrong ones.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

#include "tests/style/include_rules.h"

namespace salamander {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> SourceFiles(const fs::path& root) {
  static const std::set<std::string> extensions = {".h", ".cc", ".cu", ".cuh"};
  std::vector<std::string> files;
  for (const char* folder : {"kernels", "model", "data", "trainer", "tests"}) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (entry.is_regular_file() && extensions.count(entry.path().extension().string()) > 0) {
        files.push_back(entry.path().lexically_relative(root).generic_string());
      }
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string ReadText(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

bool IsAllowed(const char* file, const char* directive) {
  const std::vector<Include> includes = FindIncludes(directive);
  EXPECT_EQ(includes.size(), 1U) << directive;
  return !FindArrowViolation(file, includes.at(0)).has_value();
}

TEST(IncludeArrowsTest, EveryIncludeFollowsTheArrows) {
  const fs::path root = SALAMANDER_SOURCE_DIR;
  const std::vector<std::string> files = SourceFiles(root);
  ASSERT_THAT(files, testing::Contains("kernels/base/arena.h")) << "the walk found no sources";

  for (const std::string& file : files) {
    for (const Include& include : FindIncludes(ReadText(root / file))) {
      const std::optional<std::string> violation = FindArrowViolation(file, include);
      EXPECT_FALSE(violation.has_value())
          << file << ":" << include.line << ": \"" << include.path << "\" " << violation.value();
      if (include.is_quoted && fs::exists((root / file).parent_path() / include.path)) {
        EXPECT_TRUE(fs::exists(root / include.path))
            << file << ":" << include.line << ": \"" << include.path
            << "\" is found beside the file; expected the full path from the root";
      }
    }
  }
}

// A header that its source includes first has shown that it needs nothing before it.
TEST(IncludeArrowsTest, EverySourceIncludesItsOwnHeaderFirst) {
  const fs::path root = SALAMANDER_SOURCE_DIR;
  int checked = 0;
  for (const std::string& file : SourceFiles(root)) {
    const std::string header = fs::path(file).replace_extension(".h").generic_string();
    if (fs::path(file).extension() != ".cc" || !fs::exists(root / header)) continue;
    const std::vector<Include> includes = FindIncludes(ReadText(root / file));
    ASSERT_FALSE(includes.empty()) << file;
    EXPECT_EQ(includes.front().path, header) << file << " includes something else first";
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

TEST(IncludeArrowsTest, FindsDirectivesInAnySpelling) {
  const std::vector<Include> includes = FindIncludes(
      "// #include \"a/comment.h\"\n#include <vector>\n  #  include\t\"model/layer.h\"  // why\n");
  ASSERT_EQ(includes.size(), 2U);
  EXPECT_EQ(includes[0].path, "vector");
  EXPECT_FALSE(includes[0].is_quoted);
  EXPECT_EQ(includes[1].path, "model/layer.h");
  EXPECT_TRUE(includes[1].is_quoted);
  EXPECT_EQ(includes[1].line, 3);
}

TEST(IncludeArrowsTest, RefusesIncludesAgainstTheArrows) {
  EXPECT_FALSE(IsAllowed("kernels/linear.h", "#include \"model/layer.h\""));
  EXPECT_FALSE(IsAllowed("kernels/base/arena.h", "#include \"kernels/linear.h\""));
  EXPECT_FALSE(IsAllowed("data/sequences/packing.cc", "#include \"model/layer.h\""));
  EXPECT_FALSE(IsAllowed("data/sequences/packing.cc", "#include \"kernels/linear.h\""));
  EXPECT_FALSE(IsAllowed("data/storage/hdf5_file.cc", "#include \"data/sequences/packing.h\""));
  EXPECT_FALSE(IsAllowed("model/layer.cc", "#include \"data/storage/hdf5_file.h\""));
  EXPECT_FALSE(IsAllowed("model/checkpoint/reader.cc", "#include \"data/sequences/packing.h\""));
  EXPECT_FALSE(IsAllowed("model/layer.cc", "#include \"trainer/loop.h\""));
  EXPECT_FALSE(IsAllowed("trainer/loop.cc", "#include \"tests/support/test_context.h\""));
}

TEST(IncludeArrowsTest, RefusesLibrariesOutsideTheirFolder) {
  EXPECT_FALSE(IsAllowed("kernels/linear.cc", "#include <mpi.h>"));
  EXPECT_FALSE(IsAllowed("trainer/loop.cc", "#include <mpi.h>"));
  EXPECT_FALSE(IsAllowed("model/checkpoint/reader.cc", "#include <hdf5.h>"));
  EXPECT_FALSE(IsAllowed("trainer/loop.cc", "#include <H5Fpublic.h>"));
  EXPECT_FALSE(IsAllowed("model/config/model_config.cc", "#include \"yaml-cpp/yaml.h\""));
  EXPECT_FALSE(IsAllowed("model/layer.cc", "#include \"CLI/CLI.hpp\""));
  EXPECT_FALSE(IsAllowed("trainer/loop.cc", "#include <sentencepiece_processor.h>"));
  EXPECT_FALSE(IsAllowed("trainer/loop.cc", "#include <cuda_runtime.h>"));
  EXPECT_FALSE(IsAllowed("kernels/linear.cc", "#include <nlohmann/json.hpp>"));
}

TEST(IncludeArrowsTest, RefusesPathsThatDoNotStartAtTheRoot) {
  EXPECT_FALSE(IsAllowed("kernels/base/arena.cc", "#include \"arena.h\""));
  EXPECT_FALSE(IsAllowed("kernels/base/arena.cc", "#include \"../linear.h\""));
  EXPECT_FALSE(IsAllowed("kernels/base/arena.cc", "#include <kernels/base/arena.h>"));
}

TEST(IncludeArrowsTest, AllowsIncludesAlongTheArrows) {
  EXPECT_TRUE(IsAllowed("kernels/cpu/linear.cc", "#include \"kernels/linear.h\""));
  EXPECT_TRUE(IsAllowed("kernels/cpu/linear.cc", "#include <cblas.h>"));
  EXPECT_TRUE(IsAllowed("data/sequences/packing.cc", "#include \"kernels/base/segments.h\""));
  EXPECT_TRUE(IsAllowed("data/sequences/packing.cc", "#include \"data/storage/hdf5_file.h\""));
  EXPECT_TRUE(IsAllowed("data/storage/hdf5_file.cc", "#include <hdf5.h>"));
  EXPECT_TRUE(IsAllowed("model/checkpoint/reader.cc", "#include \"data/storage/hdf5_file.h\""));
  EXPECT_TRUE(IsAllowed("model/parallel/mpi_communicator.cc", "#include <mpi.h>"));
  EXPECT_TRUE(IsAllowed("trainer/config/yaml_reader.cc", "#include \"yaml-cpp/yaml.h\""));
  EXPECT_TRUE(IsAllowed("trainer/loop.cc", "#include \"model/layer.h\""));
  EXPECT_TRUE(IsAllowed("tests/model/layer_test.cc", "#include \"gtest/gtest.h\""));
  EXPECT_TRUE(IsAllowed("trainer/loop.cc", "#include <vector>"));
}

}  // namespace
}  // namespace salamander
