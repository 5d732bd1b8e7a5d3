// Early return on a failed absl::Status, the tree's one error idiom for user and environment
// errors.
//   RETURN_IF_ERROR(Check(x));                 ASSIGN_OR_RETURN(const File file, File::Open(path));
#ifndef KERNELS_BASE_STATUS_MACROS_H_
#define KERNELS_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

#define RETURN_IF_ERROR(expression)                                                 \
  do {                                                                              \
    if (absl::Status status_macro_value = (expression); !status_macro_value.ok()) { \
      return status_macro_value;                                                    \
    }                                                                               \
  } while (false)

#define STATUS_MACROS_CONCAT_INNER(a, b) a##b
#define STATUS_MACROS_CONCAT(a, b) STATUS_MACROS_CONCAT_INNER(a, b)

#define ASSIGN_OR_RETURN(left, expression) \
  ASSIGN_OR_RETURN_INNER(STATUS_MACROS_CONCAT(status_or_, __LINE__), left, expression)
#define ASSIGN_OR_RETURN_INNER(variable, left, expression) \
  auto variable = (expression);                            \
  if (!variable.ok()) return std::move(variable).status(); \
  left = *std::move(variable)

namespace salamander {

// Prefixes a failed status with where it happened, outermost first: "run/recipe.yaml: stages[2]:
// ...".
inline absl::Status Annotate(const absl::Status& status, absl::string_view where) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

}  // namespace salamander

#endif  // KERNELS_BASE_STATUS_MACROS_H_
