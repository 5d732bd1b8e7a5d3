#include "tests/distributed/world.h"

#include <cstdlib>
#include <filesystem>
#include <iostream>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"
#include "model/parallel/mpi_communicator.h"

namespace salamander {
namespace {

MpiEnvironment* environment = nullptr;  // main's

}  // namespace

Communicator& World() {
  return environment->world();
}

SharedDirectory::SharedDirectory() {
  std::string pattern = absl::StrCat(testing::TempDir(), "salamander_ranks_XXXXXX");
  const bool is_made = World().rank() != 0 || mkdtemp(pattern.data()) != nullptr;
  SALAMANDER_CHECK(is_made) << pattern;
  path_ = World().AllGather(pattern)->front();
}

SharedDirectory::~SharedDirectory() {
  EXPECT_TRUE(World().Barrier().ok());
  if (World().rank() == 0) std::filesystem::remove_all(path_);
}

}  // namespace salamander

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  auto environment = salamander::MpiEnvironment::Start();
  if (!environment.ok()) {
    std::cerr << environment.status() << "\n";
    return 2;
  }
  salamander::environment = environment->get();
  return RUN_ALL_TESTS();
}
