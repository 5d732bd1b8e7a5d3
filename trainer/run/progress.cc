#include "trainer/run/progress.h"

#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

using Json = nlohmann::json;

constexpr int64_t kVersion = 1;

// May throw Json::exception; ParseProgress catches.
absl::StatusOr<RunProgress> FromJson(const Json& json) {
  if (json.at("version").get<int64_t>() != kVersion) {
    return absl::UnimplementedError(absl::StrCat("progress version ", json.at("version").dump(),
                                                 "; this program reads ", kVersion));
  }
  RunProgress progress{.stage = json.at("stage").get<int64_t>(),
                       .stage_step = json.at("stage_step").get<int64_t>(),
                       .global_step = json.at("global_step").get<int64_t>(),
                       .tokens = json.at("tokens").get<int64_t>(),
                       .optimizer_step = json.at("optimizer_step").get<int64_t>(),
                       .skipped_steps = json.at("skipped_steps").get<int64_t>(),
                       .stage_start = {}};
  for (const char* name :
       {"stage", "stage_step", "global_step", "tokens", "optimizer_step", "skipped_steps"}) {
    if (json.at(name).get<int64_t>() < 0) {
      return absl::DataLossError(absl::StrCat("the run's progress is damaged: ", name,
                                              " is negative; use another checkpoint"));
    }
  }
  for (const auto& [name, position] : json.at("stage_start").items()) {
    ASSIGN_OR_RETURN(progress.stage_start[name],
                     UnflattenPosition(position.get<std::vector<int64_t>>()));
  }
  return progress;
}

}  // namespace

std::string ProgressText(const RunProgress& progress) {
  Json positions = Json::object();
  for (const auto& [name, position] : progress.stage_start)
    positions[name] = FlattenPosition(position);
  return Json{{"version", kVersion},
              {"stage", progress.stage},
              {"stage_step", progress.stage_step},
              {"global_step", progress.global_step},
              {"tokens", progress.tokens},
              {"optimizer_step", progress.optimizer_step},
              {"skipped_steps", progress.skipped_steps},
              {"stage_start", positions}}
      .dump(1);
}

absl::StatusOr<RunProgress> ParseProgress(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  try {
    return FromJson(json);
  } catch (const Json::exception& error) {
    return absl::DataLossError(
        absl::StrCat("the run's progress is damaged: ", error.what(), "; use another checkpoint"));
  }
}

}  // namespace salamander
