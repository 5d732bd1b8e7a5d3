#include "trainer/run/learning_rate.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace salamander {

double LearningRateAt(const ScheduleConfig& schedule, int64_t step, int64_t steps) {
  if (step < schedule.warmup_steps) {
    return schedule.peak * static_cast<double>(step + 1) /
           static_cast<double>(schedule.warmup_steps);
  }
  const double final = schedule.final < 0 ? schedule.peak : schedule.final;
  const auto decay_steps =
      static_cast<double>(std::max<int64_t>(steps - 1 - schedule.warmup_steps, 1));
  const double u = std::min(1.0, static_cast<double>(step - schedule.warmup_steps) / decay_steps);
  switch (schedule.shape) {
    case ScheduleShape::kConstant:
      return schedule.peak;
    case ScheduleShape::kCosine:
      return final + (schedule.peak - final) * 0.5 * (1.0 + std::cos(std::numbers::pi * u));
    case ScheduleShape::kExponential:
      return schedule.peak * std::pow(final / schedule.peak, u);
    case ScheduleShape::kLinear:
      return schedule.peak + (final - schedule.peak) * u;
  }
  return schedule.peak;
}

}  // namespace salamander
