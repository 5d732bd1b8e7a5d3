// The program's command line: one place for every flag, its help and its example.
#ifndef TRAINER_COMMAND_LINE_H_
#define TRAINER_COMMAND_LINE_H_

#include "absl/status/status.h"

#include "model/parallel/communicator.h"

namespace salamander {

// Parses and runs the command on every rank. A wrong command line has been answered on standard
// error and gives no status.
struct CommandOutcome {
  int exit_code = 0;    // 0; 1: the command failed; 2: the command line was wrong
  absl::Status status;  // of the command
};
CommandOutcome RunCommandLine(int argc, char** argv, Communicator& world);

}  // namespace salamander

#endif  // TRAINER_COMMAND_LINE_H_
