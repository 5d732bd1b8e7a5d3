// A YAML document as a plain tree that remembers where each value stands. The only place that
// knows yaml-cpp is yaml_parser.cc.
#ifndef TRAINER_CONFIG_CONFIG_NODE_H_
#define TRAINER_CONFIG_CONFIG_NODE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace salamander {

struct ConfigEntry;

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  std::string place;  // "recipe.yaml:41", or "--set seed=1"
  std::string scalar;
  std::vector<ConfigNode> items;     // of a list
  std::vector<ConfigEntry> entries;  // of a map, in the file's order

  const ConfigNode* Find(absl::string_view key) const;  // null where there is none
};

struct ConfigEntry {
  std::string key;
  ConfigNode value;
};

// Refuses, as "file:line path: found; expected": what is not YAML, a second document, a key that
// stands twice or is not plain text, tags, and documents too deep or too large to be a
// configuration (aliases are expanded, so a small file can be huge).
absl::StatusOr<ConfigNode> ParseConfig(absl::string_view text, const std::string& file);

// Sets one value by its path, "stages[1].peak_lr=1e-4". The value is YAML. Whether such a key
// exists is the reader's to say; a path through a list needs an index that is there.
absl::Status ApplyOverride(absl::string_view assignment, ConfigNode& root);

// Where every key of a document stands, so that a check of the finished struct can name the line.
class ConfigPlaces {
 public:
  ConfigPlaces() = default;
  explicit ConfigPlaces(const ConfigNode& root);

  // "recipe.yaml:41 stages[2].tokens"; for a key that was left out, the place of the section it
  // belongs to. Without a document the path alone.
  std::string At(const std::string& path) const;

 private:
  void Add(const std::string& path, const ConfigNode& node);

  std::map<std::string, std::string> places_;  // by path; "" is the document
};

// A value as a message shows it: quoted, cut at 60 characters.
std::string Shown(absl::string_view text);

}  // namespace salamander

#endif  // TRAINER_CONFIG_CONFIG_NODE_H_
