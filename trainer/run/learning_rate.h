// The learning rate as a pure function of the stage and the step in it.
#ifndef TRAINER_RUN_LEARNING_RATE_H_
#define TRAINER_RUN_LEARNING_RATE_H_

#include <cstdint>

#include "trainer/config/recipe.h"

namespace salamander {

// Step 0 is the stage's first of `steps`. Warm-up: peak * (step + 1) / warmup_steps, so the first
// step already moves. Then, with u from 0 at the warm-up's end to 1 at the last step: constant
// peak; linear and cosine interpolation to final; exponential peak^(1-u) final^u.
double LearningRateAt(const ScheduleConfig& schedule, int64_t step, int64_t steps);

}  // namespace salamander

#endif  // TRAINER_RUN_LEARNING_RATE_H_
