// Where a run is: what a checkpoint stores besides tensors so that the run goes on as if it had not
// stopped.
#ifndef TRAINER_RUN_PROGRESS_H_
#define TRAINER_RUN_PROGRESS_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "data/sequences/sequence_stream.h"

namespace salamander {

struct RunProgress {
  int64_t stage = 0;           // entry of the recipe's list that is under way
  int64_t stage_step = 0;      // optimizer steps done in it
  int64_t global_step = 0;     // optimizer steps done in all
  int64_t tokens = 0;          // trained on in all
  int64_t optimizer_step = 0;  // updates since the moments were last zero
  int64_t skipped_steps = 0;   // whose loss or gradient was not finite
  std::map<std::string, SourcePosition> stage_start;  // each source's position when the stage began

  bool operator==(const RunProgress&) const = default;
};

std::string ProgressText(const RunProgress& progress);  // JSON
absl::StatusOr<RunProgress> ParseProgress(absl::string_view text);

}  // namespace salamander

#endif  // TRAINER_RUN_PROGRESS_H_
