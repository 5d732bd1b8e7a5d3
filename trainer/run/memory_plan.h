// How much of a device's memory a run will hold, found out before it holds any: the ops of each
// stage's passes run without computing (DeviceSession::Plan) and what they take is counted.
#ifndef TRAINER_RUN_MEMORY_PLAN_H_
#define TRAINER_RUN_MEMORY_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

#include "kernels/device.h"
#include "trainer/config/recipe.h"
#include "trainer/run/run_state.h"

namespace salamander {

// All in bytes, of one rank.
struct MemoryPlan {
  // Stages that lay the ranks out in other ways hold other parts of the model.
  struct Stage {
    std::string name;

    // Held all through the stage.
    int64_t masters = 0;    // fp32; of the rank's shard where passes read other weights
    int64_t moments = 0;    // fp32, two, of the rank's shard
    int64_t gradients = 0;  // fp32
    int64_t weights = 0;    // as the passes read them
    int64_t teacher = 0;

    int64_t activations = 0;  // that a micro-batch's forward keeps for its backward
    int64_t training = 0;     // the most in use at once: activations, gradients of them, scratch
    int64_t evaluation = 0;   // the same in the stage's evaluations

    int64_t held() const { return masters + moments + gradients + weights + teacher; }
    int64_t arena() const { return std::max(training, evaluation); }
    int64_t total() const { return held() + arena(); }
  };
  std::vector<Stage> stages = {};

  // Requires: it was planned.
  const Stage& Of(const std::string& stage) const;
  int64_t total() const;  // of the stage that takes the most
};

// Of a validated recipe's train stages from `first_stage` on, on so many ranks, for the rank that
// needs the most. An arena's need hangs on how the data is cut into documents: it is taken for
// whole sequences, for two documents in each and for short ones, whichever is the most. Not
// counted: what NCCL takes for itself. Sends nothing. Fails where a stage does not fit the model,
// and where the device plans nothing.
absl::StatusOr<MemoryPlan> PlanMemory(const Recipe& recipe, const RunModels& models,
                                      int64_t first_stage, int ranks, DeviceSession& session);

// Fails where a rank's share of the device, `bytes`, is less than the plan asks for, naming the
// stage, what takes how much, and what to change.
absl::Status CheckFits(const MemoryPlan& plan, int64_t bytes, const std::string& device);

}  // namespace salamander

#endif  // TRAINER_RUN_MEMORY_PLAN_H_
