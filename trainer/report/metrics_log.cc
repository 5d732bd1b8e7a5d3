#include "trainer/report/metrics_log.h"

#include <cerrno>
#include <cmath>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

#include "data/storage/atomic_path.h"
#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kLargestLog = int64_t{4} << 30;

Json ValueJson(const MetricValue& value) {
  if (const double* number = std::get_if<double>(&value)) {
    return std::isfinite(*number) ? Json(*number) : Json(absl::StrCat(*number));
  }
  if (const int64_t* number = std::get_if<int64_t>(&value)) return Json(*number);
  return Json(std::get<std::string>(value));
}

Json ObjectJson(const Metrics& metrics) {
  Json json = Json::object();
  for (const auto& [name, value] : metrics) json[name] = ValueJson(value);
  return json;
}

bool BelongsToSteps(absl::string_view line, int64_t last_step) {
  const Json json = Json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || !json["step"].is_number_integer())
    return false;
  return json["step"].get<int64_t>() <= last_step;
}

absl::Status CutAfter(const std::string& path, int64_t last_step) {
  const auto text = ReadFileBytes(path, kLargestLog);
  if (absl::IsNotFound(text.status())) return absl::OkStatus();
  RETURN_IF_ERROR(text.status());
  std::string kept;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    if (BelongsToSteps(line, last_step)) absl::StrAppend(&kept, line, "\n");
  }
  return kept == *text ? absl::OkStatus() : WriteFileAtomically(path, kept);
}

}  // namespace

absl::StatusOr<MetricsLog> MetricsLog::Open(const std::string& path, int64_t last_step) {
  RETURN_IF_ERROR(CutAfter(path, last_step));
  std::FILE* const file = std::fopen(path.c_str(), "a");
  if (file == nullptr) return ErrnoStatus(errno, "open for appending", path);
  return MetricsLog(path, file);
}

absl::Status MetricsLog::Write(const std::string& kind, int64_t step, const Metrics& metrics) {
  Json json = {{"kind", kind}, {"step", step}};
  json.update(ObjectJson(metrics));
  const std::string line = json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() ||
      std::fflush(file_.get()) != 0) {
    return ErrnoStatus(errno, "append", path_);
  }
  return absl::OkStatus();
}

std::string JsonText(const Metrics& metrics) {
  return ObjectJson(metrics).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace salamander
