#include "trainer/report/progress_display.h"

#include <cmath>
#include <cstdio>
#include <utility>

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

#include "kernels/base/logging.h"

namespace salamander {
namespace {

constexpr int kBarWidth = 24;

}  // namespace

std::string DurationText(double seconds) {
  const int64_t whole = std::llround(seconds);
  if (whole >= 3600) return absl::StrFormat("%dh%02dm", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  return absl::StrFormat("%ds", whole);
}

std::string ProgressLine(const StepReport& report, double seconds_left, int bar_width) {
  std::string bar;
  if (bar_width > 0) {
    const auto filled =
        static_cast<size_t>(report.steps > 0 ? bar_width * report.step / report.steps : 0);
    bar = absl::StrCat("[", std::string(filled, '='),
                       std::string(static_cast<size_t>(bar_width) - filled, ' '), "] ");
  }
  return absl::StrCat(
      bar,
      absl::StrFormat("%d/%d  loss %.4f  lr %.2e  %.0f tokens/s", report.step, report.steps,
                      report.loss, report.learning_rate, report.tokens_per_second),
      seconds_left < 0 ? "" : absl::StrCat("  ", DurationText(seconds_left), " left"));
}

ProgressDisplay::ProgressDisplay(std::string stage, bool is_shown, int64_t plain_line_every_steps)
    : stage_(std::move(stage)),
      is_shown_(is_shown),
      is_terminal_(isatty(STDERR_FILENO) != 0),
      every_(plain_line_every_steps),
      start_(std::chrono::steady_clock::now()) {}

void ProgressDisplay::Show(const StepReport& report) {
  if (!is_shown_) return;
  if (first_step_ < 0) first_step_ = report.step - 1;
  const double elapsed =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const auto done = static_cast<double>(report.step - first_step_);
  const double left = elapsed / done * static_cast<double>(report.steps - report.step);
  if (is_terminal_) {
    std::fprintf(stderr, "\r%s %s\033[K", stage_.c_str(),
                 ProgressLine(report, left, kBarWidth).c_str());
    std::fflush(stderr);
  } else if (report.step % every_ == 0 || report.step == report.steps) {
    LogInfo(absl::StrCat(stage_, " ", ProgressLine(report, left, 0)));
  }
}

void ProgressDisplay::Finish() {
  if (is_shown_ && is_terminal_) std::fputc('\n', stderr);
}

}  // namespace salamander
