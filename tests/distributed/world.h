// The ranks a test runs on. The main beside it starts MPI once; a program started by hand is a
// group of one.
#ifndef TESTS_DISTRIBUTED_WORLD_H_
#define TESTS_DISTRIBUTED_WORLD_H_

#include <string>

#include "model/parallel/communicator.h"

namespace salamander {

Communicator& World();

// A directory that all ranks share, fresh for each object and removed with it. Collective.
class SharedDirectory {
 public:
  SharedDirectory();
  ~SharedDirectory();
  SharedDirectory(const SharedDirectory&) = delete;
  SharedDirectory& operator=(const SharedDirectory&) = delete;

  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace salamander

#endif  // TESTS_DISTRIBUTED_WORLD_H_
