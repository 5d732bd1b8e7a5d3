#include "kernels/base/logging.h"

#include <cstdlib>
#include <mutex>
#include <string>

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace salamander {
namespace {

std::mutex position_mutex;
LogPosition current_position;

std::string Prefix(const LogPosition& position) {
  std::vector<std::string> parts;
  if (position.stage >= 0) parts.push_back(absl::StrCat("stage ", position.stage));
  if (position.step >= 0) parts.push_back(absl::StrCat("step ", position.step));
  if (position.rank >= 0) parts.push_back(absl::StrCat("rank ", position.rank));
  return parts.empty() ? "" : absl::StrCat("[", absl::StrJoin(parts, " | "), "] ");
}

spdlog::logger& Logger() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto created = spdlog::stderr_color_mt("salamander");
    created->set_pattern("%H:%M:%S %^%L%$ %v");
    return created;
  }();
  return *logger;
}

void Log(spdlog::level::level_enum level, absl::string_view message) {
  const std::string line = absl::StrCat(Prefix(GetLogPosition()), message);
  Logger().log(level, "{}", line);
}

}  // namespace

void SetLogPosition(const LogPosition& position) {
  const std::lock_guard<std::mutex> lock(position_mutex);
  current_position = position;
}

LogPosition GetLogPosition() {
  const std::lock_guard<std::mutex> lock(position_mutex);
  return current_position;
}

void LogInfo(absl::string_view message) {
  if (GetLogPosition().rank <= 0) Log(spdlog::level::info, message);
}
void LogWarning(absl::string_view message) {
  Log(spdlog::level::warn, message);
}
void LogError(absl::string_view message) {
  Log(spdlog::level::err, message);
}

void FatalError(const char* file, int line, absl::string_view message) {
  Log(spdlog::level::critical, absl::StrCat(file, ":", line, " ", message));
  std::abort();
}

}  // namespace salamander
