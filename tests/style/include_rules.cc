#include "tests/style/include_rules.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <regex>
#include <sstream>

namespace salamander {
namespace {

// What a folder's files may include of the project. The longest matching folder decides.
struct FolderRule {
  std::string_view folder;
  std::initializer_list<std::string_view> may_include;
};

const std::array kFolderRules = {
    FolderRule{"kernels", {"kernels"}},
    FolderRule{"kernels/base", {"kernels/base"}},
    FolderRule{"kernels/cuda/queue", {"kernels/cuda/queue", "kernels/base"}},
    FolderRule{"data", {"data", "kernels/base"}},
    FolderRule{"data/storage", {"data/storage", "kernels/base"}},
    FolderRule{"model", {"model", "kernels"}},
    FolderRule{"model/checkpoint", {"model", "kernels", "data/storage"}},
    FolderRule{"trainer", {"trainer", "model", "data", "kernels"}},
    FolderRule{"tests", {"tests", "trainer", "model", "data", "kernels"}},
};

// Which folders may include a library. `header` is a prefix of the included path.
struct LibraryRule {
  std::string_view header;
  std::initializer_list<std::string_view> folders;
};

const std::array kLibraryRules = {
    LibraryRule{"mpi.h", {"model/parallel", "tests"}},
    LibraryRule{"nccl.h", {"model/parallel", "tests"}},
    LibraryRule{"hdf5", {"data/storage", "tests"}},
    LibraryRule{"H5", {"data/storage", "tests"}},
    LibraryRule{"xxhash.h", {"data/storage", "tests"}},
    LibraryRule{"yaml-cpp/", {"trainer/config", "tests"}},
    LibraryRule{"CLI/", {"trainer"}},
    LibraryRule{"sentencepiece", {"data"}},
    LibraryRule{"nlohmann/", {"model", "data", "trainer", "tests"}},
    LibraryRule{"spdlog/", {"kernels/base"}},
    LibraryRule{"cblas", {"kernels/cpu", "tests"}},
    LibraryRule{"cuda", {"kernels/base", "kernels/cuda", "tests"}},
    LibraryRule{"cublas", {"kernels/cuda", "tests"}},
    LibraryRule{"cudnn", {"kernels/cuda", "tests"}},
    LibraryRule{"gtest/", {"tests"}},
    LibraryRule{"gmock/", {"tests"}},
    LibraryRule{"benchmark/", {"tests"}},
};

bool IsUnder(std::string_view path, std::string_view folder) {
  return path.size() > folder.size() && path.starts_with(folder) && path[folder.size()] == '/';
}

bool IsUnderAny(std::string_view path, std::initializer_list<std::string_view> folders) {
  return std::any_of(folders.begin(), folders.end(),
                     [path](std::string_view folder) { return IsUnder(path, folder); });
}

std::string Join(std::initializer_list<std::string_view> names) {
  std::string joined;
  for (const std::string_view name : names) {
    if (!joined.empty()) joined += ", ";
    joined += name;
  }
  return joined;
}

const FolderRule* FindFolderRule(std::string_view path) {
  const FolderRule* longest = nullptr;
  for (const FolderRule& rule : kFolderRules) {
    if (IsUnder(path, rule.folder) &&
        (longest == nullptr || rule.folder.size() > longest->folder.size())) {
      longest = &rule;
    }
  }
  return longest;
}

}  // namespace

std::vector<Include> FindIncludes(std::string_view text) {
  static const std::regex directive(R"re(\s*#\s*include\s*(["<])([^">]+)[">].*)re");
  std::vector<Include> includes;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::smatch match;
    if (std::regex_match(line, match, directive)) {
      includes.push_back(
          {.path = match[2].str(), .is_quoted = match[1].str() == "\"", .line = number});
    }
  }
  return includes;
}

std::optional<std::string> FindArrowViolation(std::string_view file, const Include& include) {
  const FolderRule* rule = FindFolderRule(file);
  if (rule == nullptr) return "lies in no folder that the design names";
  if (include.path.starts_with(".")) return "is relative; expected the full path from the root";

  for (const LibraryRule& library : kLibraryRules) {
    if (include.path.starts_with(library.header) && !IsUnderAny(file, library.folders)) {
      return "is only for " + Join(library.folders);
    }
  }
  if (FindFolderRule(include.path) != nullptr) {
    if (!include.is_quoted) return "is the project's own; expected quotes, not angle brackets";
    if (!IsUnderAny(include.path, rule->may_include)) {
      return "is against the arrows: " + std::string(rule->folder) + " may include " +
             Join(rule->may_include);
    }
    return std::nullopt;
  }
  if (include.is_quoted && include.path.find('/') == std::string::npos) {
    return "has no folder; expected the full path from the root, or angle brackets for a system "
           "header";
  }
  return std::nullopt;
}

}  // namespace salamander
