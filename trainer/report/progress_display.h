// How far a stage is: a bar that redraws itself on a terminal, plain lines otherwise. Goes to
// standard error.
#ifndef TRAINER_REPORT_PROGRESS_DISPLAY_H_
#define TRAINER_REPORT_PROGRESS_DISPLAY_H_

#include <chrono>
#include <cstdint>
#include <string>

namespace salamander {

struct StepReport {
  int64_t step = 0;   // done in the stage
  int64_t steps = 0;  // of the stage
  double loss = 0.0;
  double learning_rate = 0.0;
  double tokens_per_second = 0.0;
};

class ProgressDisplay {
 public:
  // Shows nothing where `is_shown` is false (ranks other than 0).
  ProgressDisplay(std::string stage, bool is_shown, int64_t plain_line_every_steps);

  void Show(const StepReport& report);
  void Finish();  // leaves the bar's line

 private:
  std::string stage_;
  bool is_shown_;
  bool is_terminal_;
  int64_t every_;
  int64_t first_step_ = -1;
  std::chrono::steady_clock::time_point start_;
};

// "3h12m", "4m05s", "9s".
std::string DurationText(double seconds);

// The line without the stage's name: bar, step, loss, speed, time left. `seconds_left` below 0 is
// not known.
std::string ProgressLine(const StepReport& report, double seconds_left, int bar_width);

}  // namespace salamander

#endif  // TRAINER_REPORT_PROGRESS_DISPLAY_H_
