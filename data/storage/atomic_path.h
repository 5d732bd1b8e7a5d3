// Files and directories that are complete or absent. What is written goes to a temporary name in
// the same directory, is synced, and is renamed to its final name by Commit; a writer that fails
// or dies before that leaves whatever stood under the final name as it was.
//
// The temporary name is ".NAME.partial-HOST-PID-START-SEQUENCE" (START: the writer's start in clock
// ticks since boot), so that a later process on the same machine can tell that the writer is dead.
#ifndef DATA_STORAGE_ATOMIC_PATH_H_
#define DATA_STORAGE_ATOMIC_PATH_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace salamander {

// One file, replacing one of the same name. The destructor removes what was not committed.
class AtomicFile {
 public:
  // Checks that the file can be created, so that a long writer hears of a bad path at once.
  static absl::StatusOr<AtomicFile> Begin(const std::string& final_path);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  const std::string& temporary_path() const { return temporary_path_; }  // exists, empty at first
  // Requires: the writer has closed the file.
  absl::Status Commit();

 private:
  AtomicFile(std::string final_path, std::string temporary_path);

  std::string final_path_;
  std::string temporary_path_;  // empty once committed
};

// One directory. Never replaces: an existing final path is an AlreadyExists error, at Begin and,
// without a race, at Commit.
class AtomicDirectory {
 public:
  static absl::StatusOr<AtomicDirectory> Begin(const std::string& final_path);

  AtomicDirectory(AtomicDirectory&& other) noexcept;
  AtomicDirectory& operator=(AtomicDirectory&&) = delete;
  ~AtomicDirectory();

  const std::string& temporary_path() const { return temporary_path_; }
  // Syncs every file and directory below, then renames.
  absl::Status Commit();

 private:
  AtomicDirectory(std::string final_path, std::string temporary_path);

  std::string final_path_;
  std::string temporary_path_;  // empty once committed
};

// The status with the final name in place of the temporary one, which a user never chose and which
// is gone by the time the message is read.
absl::Status WithFinalName(const absl::Status& status, const std::string& temporary_path,
                           const std::string& final_path);

absl::Status WriteFileAtomically(const std::string& path, absl::string_view bytes);

// Which temporary names to take for leftovers: those whose writer was on this machine and is gone,
// or all of them (for a directory that the caller knows it alone writes to, such as a run's own
// after a restart on another machine).
enum class Leftovers { kOfDeadWriters, kAll };

// Removes temporary files and directories of AtomicFile and AtomicDirectory inside `directory`.
// Returns how many; a directory that does not exist has none.
absl::StatusOr<int> RemoveLeftovers(const std::string& directory, Leftovers which);

// Creates the directory and its missing parents.
absl::Status CreateDirectories(const std::string& path);

// Removes a directory and all below it. It is renamed to a temporary name first, so that a process
// that dies half-way leaves a recognisable leftover, not half a directory under a final name.
absl::Status RemoveDirectoryAtomically(const std::string& path);

}  // namespace salamander

#endif  // DATA_STORAGE_ATOMIC_PATH_H_
