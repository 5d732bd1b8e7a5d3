// The real program as child processes: started with arguments, watched, killed, and what it said.
#ifndef TESTS_SYSTEM_PROGRAM_H_
#define TESTS_SYSTEM_PROGRAM_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <sys/types.h>

namespace salamander {

struct Launch {
  std::vector<std::string> arguments = {};
  std::string directory;                   // to run in
  int ranks = 1;                           // above 1: through scripts/mpirun_local
  std::vector<std::string> launcher = {};  // what starts the program, where it is something else
  double timeout_seconds = 20.0;           // killed then; sanitized builds have ten times as long
  int64_t largest_file = 0;                // > 0: writes beyond fail as on a full disk
  bool hides_gpus = false;                 // as on a machine without any
};

struct Outcome {
  int exit_code = -1;  // -1: ended by a signal
  bool timed_out = false;
  std::string output;  // standard output
  std::string errors;  // standard error

  // Lines that the program logged as errors.
  std::vector<std::string> ErrorLines() const;
};

// For test failures: everything that is known.
std::ostream& operator<<(std::ostream& stream, const Outcome& outcome);

// One running program, with the ranks where it has several. The test process takes orphans in, so
// that Wait returns when the last of them is gone, whichever way they end.
class Program {
 public:
  explicit Program(const Launch& launch);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  bool IsRunning();
  void Signal(int signal) const;      // to the process that was started
  void SignalRank(int signal) const;  // to any rank; to the program itself where it is alone
  pid_t ProcessOf(int rank) const;    // of several; -1: there is none
  Outcome Wait();

 private:
  Launch launch_;
  pid_t process_ = -1;
  bool has_ended_ = false;
  int wait_status_ = 0;
  std::string output_path_, errors_path_, temporary_path_;
};

Outcome RunProgram(const Launch& launch);

// Every file and directory below, with its bytes: what a failed command must leave as it was.
std::map<std::string, std::string> Snapshot(const std::string& directory);

std::string ReadText(const std::string& path);
void WriteText(const std::string& path, const std::string& text);

// A fresh directory of a test's own, removed at its end.
class TestDirectory {
 public:
  TestDirectory();
  ~TestDirectory();
  TestDirectory(const TestDirectory&) = delete;
  TestDirectory& operator=(const TestDirectory&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace salamander

#endif  // TESTS_SYSTEM_PROGRAM_H_
