// yaml-cpp's events to a ConfigNode. Events rather than yaml-cpp's own nodes, because those resolve
// duplicates, second documents and aliases of any size in silence. yaml-cpp itself refuses nesting
// beyond 500 levels.
#include <algorithm>
#include <exception>
#include <map>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "trainer/config/config_node.h"

namespace salamander {
namespace {

constexpr size_t kLongestText = size_t{1} << 20;  // bytes
constexpr int64_t kLargest = 50000;               // values
constexpr int64_t kDeepest = 32;                  // levels

struct Extent {
  int64_t values = 1;
  int64_t levels = 1;
};

Extent ExtentOf(const ConfigNode& node) {
  Extent extent;
  const auto add = [&extent](const ConfigNode& child) {
    const Extent inner = ExtentOf(child);
    extent.values += inner.values;
    extent.levels = std::max(extent.levels, inner.levels + 1);
  };
  for (const ConfigNode& item : node.items) add(item);
  for (const auto& [key, value] : node.entries) add(value);
  return extent;
}

// Builds the tree; the first fault is kept and every later event ignored.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(const std::string& file) : file_(file) {}

  const absl::Status& status() const { return status_; }
  ConfigNode TakeRoot() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Place(mark, anchor, NewNode(mark, ConfigNode::Kind::kNull));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    CheckTag(mark, tag);
    if (!status_.ok()) return;
    if (ExpectsKey()) {
      TakeKey(mark, value);
      return;
    }
    ConfigNode node = NewNode(mark, ConfigNode::Kind::kScalar);
    node.scalar = value;
    Place(mark, anchor, std::move(node));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    if (!status_.ok()) return;
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) return Fail(mark, "an alias stands inside its own anchor");
    const Extent extent = ExtentOf(found->second);
    values_ += extent.values - 1;
    if (static_cast<int64_t>(open_.size()) + extent.levels > kDeepest) return FailTooLarge(mark);
    Place(mark, 0, found->second);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    Open(mark, tag, anchor, ConfigNode::Kind::kList);
  }
  void OnSequenceEnd() override { Close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    Open(mark, tag, anchor, ConfigNode::Kind::kMap);
  }
  void OnMapEnd() override { Close(); }

 private:
  struct OpenNode {
    ConfigNode node;
    YAML::Mark mark;
    YAML::anchor_t anchor = 0;
    std::optional<std::string> key;  // of the entry whose value comes next
    std::string key_place;
    std::map<std::string, int> key_lines;
  };

  ConfigNode NewNode(const YAML::Mark& mark, ConfigNode::Kind kind) const {
    ConfigNode node;
    node.kind = kind;
    node.place = absl::StrCat(file_, ":", mark.line + 1);
    return node;
  }

  std::string Path() const {
    std::string path;
    for (const OpenNode& open : open_) {
      if (open.node.kind == ConfigNode::Kind::kList) {
        absl::StrAppend(&path, "[", open.node.items.size(), "]");
      } else if (open.key.has_value()) {
        absl::StrAppend(&path, path.empty() ? "" : ".", *open.key);
      }
    }
    return path;
  }

  void Fail(const YAML::Mark& mark, absl::string_view message) {
    if (!status_.ok()) return;
    const std::string path = Path();
    status_ = absl::InvalidArgumentError(
        absl::StrCat(file_, ":", mark.line + 1, " ", path, path.empty() ? "" : ": ", message));
  }

  void FailTooLarge(const YAML::Mark& mark) {
    Fail(mark, absl::StrCat("the document is too deep or too large; expected at most ", kDeepest,
                            " levels and ", kLargest, " values"));
  }

  void CheckTag(const YAML::Mark& mark, const std::string& tag) {
    // "?" is a plain scalar and "!" a quoted one.
    if (tag.empty() || tag == "?" || tag == "!") return;
    Fail(mark, absl::StrCat("the tag ", Shown(tag), "; expected a value without a tag"));
  }

  bool ExpectsKey() const {
    return !open_.empty() && open_.back().node.kind == ConfigNode::Kind::kMap &&
           !open_.back().key.has_value();
  }

  void TakeKey(const YAML::Mark& mark, const std::string& key) {
    OpenNode& map = open_.back();
    const auto [first, is_new] = map.key_lines.emplace(key, mark.line + 1);
    map.key = key;
    map.key_place = absl::StrCat(file_, ":", mark.line + 1);
    if (!is_new)
      Fail(mark, absl::StrCat("stands twice, first on line ", first->second, "; keep one"));
  }

  void Open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
            ConfigNode::Kind kind) {
    CheckTag(mark, tag);
    if (!status_.ok()) return;
    if (ExpectsKey()) return Fail(mark, "a list or section as a key; expected plain text");
    if (static_cast<int64_t>(open_.size()) >= kDeepest) return FailTooLarge(mark);
    open_.push_back({NewNode(mark, kind), mark, anchor, std::nullopt, "", {}});
  }

  void Close() {
    if (!status_.ok()) return;
    OpenNode closed = std::move(open_.back());
    open_.pop_back();
    Place(closed.mark, closed.anchor, std::move(closed.node));
  }

  // Puts a finished value where it belongs.
  void Place(const YAML::Mark& mark, YAML::anchor_t anchor, ConfigNode node) {
    if (!status_.ok()) return;
    if (ExpectsKey()) return Fail(mark, "an alias or nothing as a key; expected plain text");
    if (++values_ > kLargest) return FailTooLarge(mark);
    if (anchor != 0) anchors_[anchor] = node;
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (OpenNode& parent = open_.back(); parent.node.kind == ConfigNode::Kind::kList) {
      parent.node.items.push_back(std::move(node));
    } else {
      node.place = parent.key_place;
      parent.node.entries.push_back({*parent.key, std::move(node)});
      parent.key.reset();
    }
  }

  const std::string& file_;
  absl::Status status_;
  ConfigNode root_;
  std::vector<OpenNode> open_;
  std::map<YAML::anchor_t, ConfigNode> anchors_;
  int64_t values_ = 0;
};

// May throw; ParseConfig catches.
absl::Status Parse(absl::string_view text, const std::string& file, TreeBuilder& builder) {
  std::istringstream stream{std::string(text)};
  YAML::Parser parser(stream);
  if (!parser.HandleNextDocument(builder)) return absl::OkStatus();
  TreeBuilder rest(file);
  if (!parser.HandleNextDocument(rest)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(file, ": a second document after '---'; expected one"));
}

absl::Status NotYaml(const std::string& file, absl::string_view line, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat(file, line, " is not YAML: ", reason));
}

}  // namespace

absl::StatusOr<ConfigNode> ParseConfig(absl::string_view text, const std::string& file) {
  if (text.size() > kLongestText) {
    return absl::InvalidArgumentError(absl::StrCat(
        file, ": ", text.size(), " bytes; expected a configuration of at most ", kLongestText));
  }
  TreeBuilder builder(file);
  absl::Status status;
  try {
    status = Parse(text, file, builder);
  } catch (const YAML::Exception& error) {
    status = NotYaml(file, absl::StrCat(":", error.mark.line + 1), error.msg);
  } catch (const std::exception& error) {
    status = NotYaml(file, "", error.what());
  }
  // The first fault is the tree's where it has one: the parser went on after it.
  RETURN_IF_ERROR(builder.status());
  RETURN_IF_ERROR(status);
  ConfigNode root = builder.TakeRoot();
  if (root.place.empty()) root.place = absl::StrCat(file, ":1");
  return root;
}

}  // namespace salamander
