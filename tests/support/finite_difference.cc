#include "tests/support/finite_difference.h"

#include <algorithm>
#include <cmath>

#include "tests/support/random_tensor.h"

namespace salamander {

testing::AssertionResult MatchesFiniteDifferences(const std::function<double()>& forward,
                                                  const TensorView& input,
                                                  const TensorView& gradient,
                                                  const FiniteDifferenceOptions& options) {
  SALAMANDER_CHECK(input.SameShape(gradient))
      << "input " << input.ShapeString() << ", gradient " << gradient.ShapeString();
  SALAMANDER_CHECK(input.size() > 0) << "nothing to check in " << input.ShapeString();
  auto* const elements = input.data<double>();
  const bool sampled = options.samples > 0 && options.samples < input.size();
  const int64_t count = sampled ? options.samples : input.size();
  SplitMix random(options.seed);
  int64_t failures = 0, worst_index = -1;
  double worst_error = -1, worst_numeric = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t index = sampled ? random.Integer(0, input.size() - 1) : i;
    const double value = elements[index];
    const double analytic = ElementAt(gradient, index);
    const double above = value + options.step, below = value - options.step;
    elements[index] = above;
    const double forward_above = forward();
    elements[index] = below;
    const double forward_below = forward();
    elements[index] = value;
    const double numeric = (forward_above - forward_below) / (above - below);
    const double error = std::abs(numeric - analytic) / std::max(1.0, std::abs(analytic));
    if (error <= options.tolerance) continue;  // NaN is a failure
    ++failures;
    if (worst_index < 0 || std::isnan(error) || error > worst_error) {
      worst_index = index;
      worst_error = error;
      worst_numeric = numeric;
    }
  }
  if (failures == 0) return testing::AssertionSuccess();
  return testing::AssertionFailure()
         << failures << " of " << count << " gradient elements of " << gradient.ShapeString()
         << " disagree with central differences (tolerance " << options.tolerance
         << "); worst is element " << worst_index << " (row "
         << worst_index / std::max<int64_t>(input.row_size(), 1) << ", column "
         << worst_index % std::max<int64_t>(input.row_size(), 1) << "): gradient "
         << ElementAt(gradient, worst_index) << ", central difference " << worst_numeric
         << ", error " << worst_error;
}

}  // namespace salamander
