#include "tests/support/test_context.h"

#include <utility>

#include <gtest/gtest.h>
#include <omp.h>

#include "absl/status/statusor.h"

#include "kernels/base/logging.h"

namespace salamander {
namespace {

Arena ReserveOrDie(int64_t bytes) {
  absl::StatusOr<Arena> arena = Arena::Reserve(bytes);
  SALAMANDER_CHECK(arena.ok()) << arena.status().ToString();
  return *std::move(arena);
}

}  // namespace

TestContext::TestContext(int64_t arena_bytes) : arena_(ReserveOrDie(arena_bytes)) {
  context_.arena = &arena_;
}

TestContext::~TestContext() {
  EXPECT_EQ(arena_.used_bytes(), 0) << "an op kept scratch memory";
}

ScopedThreadCount::ScopedThreadCount(int threads) : before_(omp_get_max_threads()) {
  omp_set_num_threads(threads);
}

ScopedThreadCount::~ScopedThreadCount() {
  omp_set_num_threads(before_);
}

}  // namespace salamander
