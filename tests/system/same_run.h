// Whether two runs came to the same, bit for bit.
#ifndef TESTS_SYSTEM_SAME_RUN_H_
#define TESTS_SYSTEM_SAME_RUN_H_

#include <string>
#include <vector>

namespace salamander {

// Weights and moments of two checkpoints.
void ExpectSameTensors(const std::string& actual, const std::string& expected);

// The lines of a run's metrics.jsonl without what depends on the clock.
std::vector<std::string> MetricsOf(const std::string& run);

}  // namespace salamander

#endif  // TESTS_SYSTEM_SAME_RUN_H_
