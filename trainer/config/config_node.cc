#include "trainer/config/config_node.h"

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr size_t kLongestShown = 60;

// The entry `key` of a map, made where there is none; a section that is not there yet becomes one.
absl::StatusOr<ConfigNode*> Entry(ConfigNode* node, absl::string_view key) {
  if (node->kind == ConfigNode::Kind::kNull) node->kind = ConfigNode::Kind::kMap;
  if (node->kind != ConfigNode::Kind::kMap || key.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(key), " does not name a key of a section"));
  }
  for (auto& [name, value] : node->entries) {
    if (absl::string_view(name) == key) return &value;
  }
  node->entries.push_back({std::string(key), ConfigNode()});
  return &node->entries.back().value;
}

// "stages[1]" -> its entry of a map, then items of lists.
absl::StatusOr<ConfigNode*> Step(ConfigNode* node, absl::string_view part) {
  const std::vector<absl::string_view> pieces = absl::StrSplit(part, '[');
  ASSIGN_OR_RETURN(ConfigNode * next, Entry(node, pieces[0]));
  for (size_t index = 1; index < pieces.size(); ++index) {
    const absl::string_view text = pieces[index];
    size_t item = 0;
    if (!absl::EndsWith(text, "]") || !absl::SimpleAtoi(text.substr(0, text.size() - 1), &item)) {
      return absl::InvalidArgumentError(
          absl::StrCat(Shown(part), " has a malformed index; expected name[0]"));
    }
    if (next->kind != ConfigNode::Kind::kList || item >= next->items.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          Shown(part), " is outside the list, which has ", next->items.size(), " entries"));
    }
    next = &next->items[item];
  }
  return next;
}

void SetPlace(const std::string& place, ConfigNode& node) {
  node.place = place;
  for (ConfigNode& item : node.items) SetPlace(place, item);
  for (auto& [key, value] : node.entries) SetPlace(place, value);
}

}  // namespace

const ConfigNode* ConfigNode::Find(absl::string_view key) const {
  for (const auto& [name, value] : entries) {
    if (absl::string_view(name) == key) return &value;
  }
  return nullptr;
}

absl::Status ApplyOverride(absl::string_view assignment, ConfigNode& root) {
  const size_t equals = assignment.find('=');
  if (equals == absl::string_view::npos || equals == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--set ", assignment, ": expected key=value, as in stages[1].peak_lr=1e-4"));
  }
  const std::string place = absl::StrCat("--set ", assignment);
  ConfigNode* node = &root;
  for (const absl::string_view part : absl::StrSplit(assignment.substr(0, equals), '.')) {
    auto next = Step(node, part);
    RETURN_IF_ERROR(Annotate(next.status(), place));
    node = *next;
    if (node->place.empty()) node->place = place;
  }
  ASSIGN_OR_RETURN(*node, ParseConfig(assignment.substr(equals + 1), place));
  SetPlace(place, *node);
  return absl::OkStatus();
}

ConfigPlaces::ConfigPlaces(const ConfigNode& root) {
  Add("", root);
}

void ConfigPlaces::Add(const std::string& path, const ConfigNode& node) {
  places_[path] = node.place;
  for (size_t index = 0; index < node.items.size(); ++index)
    Add(absl::StrCat(path, "[", index, "]"), node.items[index]);
  for (const auto& [key, value] : node.entries)
    Add(path.empty() ? key : absl::StrCat(path, ".", key), value);
}

std::string ConfigPlaces::At(const std::string& path) const {
  std::string section = path;
  while (true) {
    const auto found = places_.find(section);
    if (found != places_.end()) return absl::StrCat(found->second, " ", path);
    if (section.empty()) return path;
    const size_t cut = section.find_last_of(".[");
    section.resize(cut == std::string::npos ? 0 : cut);
  }
}

std::string Shown(absl::string_view text) {
  const bool is_long = text.size() > kLongestShown;
  return absl::StrCat("'", absl::Utf8SafeCEscape(text.substr(0, kLongestShown)),
                      is_long ? "...'" : "'");
}

}  // namespace salamander
