#include "tests/system/program.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <ostream>
#include <sstream>
#include <thread>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/base/logging.h"

namespace salamander {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

// Sanitized programs take about ten times as long.
constexpr double kPatience = SALAMANDER_TEST_PATIENCE;

// Sleeps between two looks at a child.
constexpr auto kPause = std::chrono::milliseconds(2);

// The process ids of a process's children. One that ends meanwhile is left out.
std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  std::error_code error;
  for (fs::directory_iterator entry("/proc", error); entry != fs::directory_iterator();
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; }))
      continue;
    std::ifstream stream(entry->path() / "stat");
    std::string text;
    if (!std::getline(stream, text) || text.rfind(')') == std::string::npos) continue;
    std::istringstream fields(text.substr(text.rfind(')') + 1));
    char state = 0;
    pid_t its_parent = 0;
    if (fields >> state >> its_parent && its_parent == parent && state != 'Z')
      children.push_back(static_cast<pid_t>(std::stol(name)));
  }
  return children;
}

// All below a process, parents before children.
std::vector<pid_t> DescendantsOf(pid_t root) {
  std::vector<pid_t> all = ChildrenOf(root);
  for (size_t index = 0; index < all.size(); ++index) {
    const std::vector<pid_t> children = ChildrenOf(all[index]);
    all.insert(all.end(), children.begin(), children.end());
  }
  return all;
}

// The processes below one that run the program.
std::vector<pid_t> RanksBelow(pid_t root) {
  std::vector<pid_t> ranks;
  for (const pid_t process : DescendantsOf(root)) {
    std::error_code error;
    if (fs::read_symlink("/proc/" + std::to_string(process) + "/exe", error) ==
        fs::canonical(SALAMANDER_PROGRAM))
      ranks.push_back(process);
  }
  return ranks;
}

// In the child, between fork and exec.
[[noreturn]] void Become(const Launch& launch, const std::vector<std::string>& command,
                         const std::string& output, const std::string& errors,
                         const std::string& temporary) {
  const int in = open("/dev/null", O_RDONLY);
  const int out = open(output.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int err = open(errors.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (in < 0 || out < 0 || err < 0 || chdir(launch.directory.c_str()) != 0) std::_Exit(127);
  dup2(in, 0);
  dup2(out, 1);
  dup2(err, 2);
  setpgid(0, 0);
  if (launch.largest_file > 0) {
    // Without the signal a write beyond the limit fails with EFBIG, and the program goes on.
    std::signal(SIGXFSZ, SIG_IGN);
    const auto limit = static_cast<rlim_t>(launch.largest_file);
    const rlimit limits = {limit, limit};
    if (setrlimit(RLIMIT_FSIZE, &limits) != 0) std::_Exit(127);
  }
  // The program alone, even where the test itself runs under a job.
  for (const char* variable : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) unsetenv(variable);
  if (launch.hides_gpus) setenv("CUDA_VISIBLE_DEVICES", "", 1);
  setenv("TMPDIR", temporary.c_str(), 1);
  setenv("OMP_NUM_THREADS", "1", 1);
  setenv("OMP_WAIT_POLICY", "passive", 1);
  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execv(arguments[0], arguments.data());
  std::_Exit(127);
}

}  // namespace

std::vector<std::string> Outcome::ErrorLines() const {
  std::vector<std::string> lines;
  std::istringstream stream(errors);
  for (std::string line; std::getline(stream, line);) {
    constexpr size_t kLevel = 8;  // after "HH:MM:SS"
    if (line.compare(kLevel < line.size() ? kLevel : line.size(), 3, " E ") == 0)
      lines.push_back(line);
  }
  return lines;
}

std::ostream& operator<<(std::ostream& stream, const Outcome& outcome) {
  return stream << "exit code " << outcome.exit_code << (outcome.timed_out ? ", timed out" : "")
                << "\n--- output\n"
                << outcome.output << "--- errors\n"
                << outcome.errors << "---";
}

Program::Program(const Launch& launch) : launch_(launch) {
  static int sequence = 0;
  const std::string base = testing::TempDir() + "salamander-" + std::to_string(getpid()) + "-" +
                           std::to_string(sequence++);
  output_path_ = base + ".out";
  errors_path_ = base + ".err";
  temporary_path_ = base + ".tmp";
  fs::create_directory(temporary_path_);
  std::vector<std::string> command = launch.launcher;
  if (command.empty() && launch.ranks > 1) {
    command = {std::string(SALAMANDER_SOURCE_DIR) + "/scripts/mpirun_local", "-n",
               std::to_string(launch.ranks)};
  }
  command.emplace_back(SALAMANDER_PROGRAM);
  command.insert(command.end(), launch.arguments.begin(), launch.arguments.end());
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  process_ = fork();
  SALAMANDER_CHECK(process_ >= 0) << "fork failed";
  if (process_ == 0) Become(launch, command, output_path_, errors_path_, temporary_path_);
}

Program::~Program() {
  Wait();
  std::error_code ignored;
  fs::remove(output_path_, ignored);
  fs::remove(errors_path_, ignored);
  fs::remove_all(temporary_path_, ignored);
}

bool Program::IsRunning() {
  if (has_ended_) return false;
  has_ended_ = waitpid(process_, &wait_status_, WNOHANG) == process_;
  return !has_ended_;
}

void Program::Signal(int signal) const {
  if (!has_ended_) kill(process_, signal);
}

void Program::SignalRank(int signal) const {
  if (launch_.ranks == 1) return Signal(signal);
  const std::vector<pid_t> ranks = RanksBelow(process_);
  if (!ranks.empty()) kill(ranks.front(), signal);
}

pid_t Program::ProcessOf(int rank) const {
  const std::string mark = std::string("\0OMPI_COMM_WORLD_RANK=", 22) + std::to_string(rank) + '\0';
  for (const pid_t process : RanksBelow(process_)) {
    const std::string variables = ReadText("/proc/" + std::to_string(process) + "/environ");
    if (variables.find(mark) != std::string::npos) return process;
  }
  return -1;
}

Outcome Program::Wait() {
  Outcome outcome;
  const auto end =
      Clock::now() + std::chrono::duration<double>(launch_.timeout_seconds * kPatience);
  const auto kill_late = [&] {
    if (Clock::now() < end) return;
    outcome.timed_out = true;
    for (const pid_t process : DescendantsOf(getpid())) kill(process, SIGKILL);
  };
  while (IsRunning()) {
    kill_late();
    std::this_thread::sleep_for(kPause);
  }
  // Ranks that outlived their launcher.
  while (waitpid(-1, nullptr, WNOHANG) >= 0) {
    kill_late();
    std::this_thread::sleep_for(kPause);
  }
  if (WIFEXITED(wait_status_)) outcome.exit_code = WEXITSTATUS(wait_status_);
  outcome.output = ReadText(output_path_);
  outcome.errors = ReadText(errors_path_);
  return outcome;
}

Outcome RunProgram(const Launch& launch) {
  return Program(launch).Wait();
}

std::map<std::string, std::string> Snapshot(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    files[fs::relative(entry.path(), directory).string()] =
        entry.is_regular_file() ? ReadText(entry.path().string()) : "";
  }
  return files;
}

std::string ReadText(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

void WriteText(const std::string& path, const std::string& text) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream << text;
  SALAMANDER_CHECK(stream.flush().good()) << path;
}

TestDirectory::TestDirectory() {
  std::string name = testing::TempDir() + "salamander-system-XXXXXX";
  SALAMANDER_CHECK(mkdtemp(name.data()) != nullptr) << name;
  path_ = name;
}

TestDirectory::~TestDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace salamander
