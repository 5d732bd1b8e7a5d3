// metrics.jsonl: one JSON object a line, in the order of the run. Format: docs/formats/metrics.md.
#ifndef TRAINER_REPORT_METRICS_LOG_H_
#define TRAINER_REPORT_METRICS_LOG_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"

namespace salamander {

using MetricValue = std::variant<double, int64_t, std::string>;
using Metrics = std::vector<std::pair<std::string, MetricValue>>;

class MetricsLog {
 public:
  // Opens for appending. Lines of steps after `last_step` are cut: a run that goes on from a
  // checkpoint writes them again, so the file is the one of a run that was never stopped (but for
  // times). A torn last line is cut too.
  static absl::StatusOr<MetricsLog> Open(const std::string& path, int64_t last_step);

  // Writes {"kind": kind, "step": step, ...} and flushes. Numbers that are not finite are written
  // as text.
  absl::Status Write(const std::string& kind, int64_t step, const Metrics& metrics);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  MetricsLog(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

// A JSON object with these fields, indented; for summaries.
std::string JsonText(const Metrics& metrics);

}  // namespace salamander

#endif  // TRAINER_REPORT_METRICS_LOG_H_
