#include "trainer/bench/bench_row.h"

#include <algorithm>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "trainer/report/table.h"

namespace salamander {
namespace {

std::string RateText(const BenchRow& row) {
  return row.work.flops > 0 ? FlopRateText(row.work.flops / row.seconds)
                            : absl::StrFormat("%.1f GB/s", row.work.bytes / row.seconds * 1e-9);
}

std::string TokenRateText(const BenchRow& row) {
  return row.work.tokens > 0 ? absl::StrFormat("%.1f", row.work.tokens / row.seconds) : "";
}

}  // namespace

BenchRow RowOf(std::string name, std::string shape, const Work& work,
               const std::vector<double>& seconds, const Ceilings& ceilings) {
  const auto [fastest, slowest] = std::minmax_element(seconds.begin(), seconds.end());
  const double median = Median(seconds);
  const double floor =
      std::max(work.flops / ceilings.flops_per_second, work.bytes / ceilings.bytes_per_second);
  return {.name = std::move(name),
          .shape = std::move(shape),
          .work = work,
          .seconds = median,
          .spread = (*slowest - *fastest) / median,
          .share_of_ceiling = floor / median};
}

std::string FlopRateText(double flops_per_second) {
  return flops_per_second < 1e12 ? absl::StrFormat("%.1f GFLOP/s", flops_per_second * 1e-9)
                                 : absl::StrFormat("%.1f TFLOP/s", flops_per_second * 1e-12);
}

std::string TableText(const std::vector<BenchRow>& rows) {
  Table table({"what", "shape", "ms", "spread", "rate", "of ceiling", "tokens/s"});
  for (const BenchRow& row : rows) {
    table.AddRow({row.name, row.shape, absl::StrFormat("%.4f", row.seconds * 1e3),
                  absl::StrFormat("%.0f %%", 100 * row.spread), RateText(row),
                  absl::StrFormat("%.0f %%", 100 * row.share_of_ceiling), TokenRateText(row)});
  }
  return table.Text();
}

std::string JsonText(const BenchOrigin& origin, const std::vector<BenchRow>& rows) {
  nlohmann::ordered_json json = {{"device", origin.device},
                                 {"core_hertz", origin.clocks.core_hertz},
                                 {"memory_hertz", origin.clocks.memory_hertz},
                                 {"commit", origin.commit},
                                 {"flops_per_second", origin.ceilings.flops_per_second},
                                 {"bytes_per_second", origin.ceilings.bytes_per_second},
                                 {"rows", nlohmann::ordered_json::array()}};
  for (const BenchRow& row : rows) {
    json["rows"].push_back({{"name", row.name},
                            {"shape", row.shape},
                            {"seconds", row.seconds},
                            {"spread", row.spread},
                            {"flops", row.work.flops},
                            {"bytes", row.work.bytes},
                            {"tokens", row.work.tokens},
                            {"share_of_ceiling", row.share_of_ceiling}});
  }
  return json.dump(1) + "\n";
}

}  // namespace salamander
