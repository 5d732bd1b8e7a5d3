// A YAML document as a plain tree that remembers lines. The only place that knows yaml-cpp is
// config_node.cc.
#ifndef TRAINER_CONFIG_CONFIG_NODE_H_
#define TRAINER_CONFIG_CONFIG_NODE_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace salamander {

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  int line = 0;  // from 1
  std::string scalar;
  std::vector<ConfigNode> items;                            // of a list
  std::vector<std::pair<std::string, ConfigNode>> entries;  // of a map, in the file's order

  const ConfigNode* Find(absl::string_view key) const;  // null where there is none
};

// Refuses what is not YAML (file:line and the reason), a key that stands twice, keys that are not
// plain text, and documents too deep or too large to be a configuration (aliases expand, so a small
// file can be huge).
absl::StatusOr<ConfigNode> ParseConfig(absl::string_view text, const std::string& file);

// Sets one value by its path, "stages[1].peak_lr=1e-4". The value is YAML. Whether such a key
// exists is the reader's to say; a path through a list needs an index that is there.
absl::Status ApplyOverride(absl::string_view assignment, ConfigNode& root);

}  // namespace salamander

#endif  // TRAINER_CONFIG_CONFIG_NODE_H_
