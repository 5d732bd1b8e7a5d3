// Which sources the program was built from.
#ifndef TRAINER_COMMANDS_BUILD_COMMIT_H_
#define TRAINER_COMMANDS_BUILD_COMMIT_H_

#include "absl/strings/string_view.h"

namespace salamander {

// As `git describe --always --dirty` said when the build was configured, which a commit or a
// checkout calls for; empty where the sources are no git repository.
absl::string_view BuildCommit();

}  // namespace salamander

#endif  // TRAINER_COMMANDS_BUILD_COMMIT_H_
