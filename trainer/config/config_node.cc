#include "trainer/config/config_node.h"

#include <sstream>

#include <yaml-cpp/yaml.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr int kDeepest = 32;
constexpr int kLargest = 100000;  // nodes
constexpr size_t kLongestText = size_t{4} << 20;

// yaml-cpp recurses on nesting: what could exhaust the stack is refused before it is parsed.
bool IsTooDeep(absl::string_view text) {
  int depth = 0;
  int deepest = 0;
  for (const char c : text) {
    depth += c == '[' || c == '{' ? 1 : 0;
    depth -= c == ']' || c == '}' ? 1 : 0;
    deepest = std::max(deepest, depth);
  }
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    int marks = 0;
    for (const char c : line) {
      if (c != ' ' && c != '-' && c != '?' && c != ':') break;
      marks += c == ' ' ? 0 : 1;
    }
    const auto indent = static_cast<int>(
        line.find_first_not_of(' ') == absl::string_view::npos ? 0 : line.find_first_not_of(' '));
    deepest = std::max({deepest, marks, indent / 2});
  }
  return deepest > kDeepest;
}

class Converter {
 public:
  explicit Converter(std::string file) : file_(std::move(file)) {}

  absl::StatusOr<ConfigNode> Convert(const YAML::Node& node, int depth) {
    if (depth > kDeepest || ++nodes_ > kLargest) {
      return Error(node, absl::StrCat("the document is too deep or too large; expected at most ",
                                      kDeepest, " levels and ", kLargest, " values"));
    }
    ConfigNode result;
    result.line = node.Mark().line + 1;
    if (node.IsScalar()) {
      result.kind = ConfigNode::Kind::kScalar;
      result.scalar = node.Scalar();
    } else if (node.IsSequence()) {
      result.kind = ConfigNode::Kind::kList;
      for (const YAML::Node& item : node) {
        ASSIGN_OR_RETURN(ConfigNode converted, Convert(item, depth + 1));
        result.items.push_back(std::move(converted));
      }
    } else if (node.IsMap()) {
      result.kind = ConfigNode::Kind::kMap;
      for (const auto& entry : node)
        RETURN_IF_ERROR(AddEntry(entry.first, entry.second, depth, result));
    }
    return result;
  }

 private:
  absl::Status AddEntry(const YAML::Node& key, const YAML::Node& value, int depth,
                        ConfigNode& map) {
    if (!key.IsScalar()) return Error(key, "a key is not plain text");
    if (map.Find(key.Scalar()) != nullptr)
      return Error(key, absl::StrCat("'", key.Scalar(), "' stands twice; keep one"));
    ASSIGN_OR_RETURN(ConfigNode converted, Convert(value, depth + 1));
    map.entries.emplace_back(key.Scalar(), std::move(converted));
    return absl::OkStatus();
  }

  absl::Status Error(const YAML::Node& node, absl::string_view message) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ":", node.Mark().line + 1, " ", message));
  }

  std::string file_;
  int nodes_ = 0;
};

// "stages[1]" -> its entry of a map, then items of lists.
absl::StatusOr<ConfigNode*> Step(ConfigNode* node, absl::string_view part) {
  const std::vector<absl::string_view> pieces = absl::StrSplit(part, '[');
  if (node->kind == ConfigNode::Kind::kNull) node->kind = ConfigNode::Kind::kMap;
  if (node->kind != ConfigNode::Kind::kMap || pieces[0].empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", part, "' does not name a key of a section"));
  }
  ConfigNode* next = const_cast<ConfigNode*>(node->Find(pieces[0]));
  if (next == nullptr) {
    node->entries.emplace_back(std::string(pieces[0]), ConfigNode());
    next = &node->entries.back().second;
    next->line = node->line;
  }
  for (size_t index = 1; index < pieces.size(); ++index) {
    absl::string_view text = pieces[index];
    size_t item = 0;
    if (!absl::EndsWith(text, "]") || !absl::SimpleAtoi(text.substr(0, text.size() - 1), &item)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", part, "' has a malformed index; expected name[0]"));
    }
    if (next->kind != ConfigNode::Kind::kList || item >= next->items.size()) {
      return absl::InvalidArgumentError(absl::StrCat("'", part, "' is outside the list, which has ",
                                                     next->items.size(), " entries"));
    }
    next = &next->items[item];
  }
  return next;
}

}  // namespace

const ConfigNode* ConfigNode::Find(absl::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (absl::string_view(name) == key) return &value;
  }
  return nullptr;
}

absl::StatusOr<ConfigNode> ParseConfig(absl::string_view text, const std::string& file) {
  if (text.size() > kLongestText || IsTooDeep(text)) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":1 the document is too deep or too large to be a configuration"));
  }
  try {
    const YAML::Node document = YAML::Load(std::string(text));
    return Converter(file).Convert(document, 0);
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ":", error.mark.line + 1, " not YAML: ", error.msg));
  }
}

absl::Status ApplyOverride(absl::string_view assignment, ConfigNode& root) {
  const size_t equals = assignment.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", assignment, ": expected key=value, as in stages[1].peak_lr=1e-4"));
  }
  const std::string where = absl::StrCat("--set ", assignment);
  ConfigNode* node = &root;
  for (const absl::string_view part : absl::StrSplit(assignment.substr(0, equals), '.')) {
    auto next = Step(node, part);
    RETURN_IF_ERROR(Annotate(next.status(), where));
    node = *next;
  }
  ASSIGN_OR_RETURN(ConfigNode value, ParseConfig(assignment.substr(equals + 1), where));
  value.line = node->line;
  *node = std::move(value);
  return absl::OkStatus();
}

}  // namespace salamander
