// The direction of arrows between folders, as a rule on single #include lines:
//   kernels <- model <- trainer, data <- trainer, data/storage <- model/checkpoint; everyone may
//   include kernels/base.
// A library that the design gives to one folder (MPI, HDF5, yaml-cpp, ...) is included nowhere
// else.
#ifndef TESTS_STYLE_INCLUDE_RULES_H_
#define TESTS_STYLE_INCLUDE_RULES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace salamander {

struct Include {
  std::string path;  // between the quotes or angle brackets
  bool is_quoted = false;
  int line = 0;
};

// Every #include directive of a source text, conditional ones too.
std::vector<Include> FindIncludes(std::string_view text);

// What is wrong with `include` in `file` (a path from the project's root), or nothing.
std::optional<std::string> FindArrowViolation(std::string_view file, const Include& include);

}  // namespace salamander

#endif  // TESTS_STYLE_INCLUDE_RULES_H_
