// Where an op under test runs: a CPU context with an arena of its own, and a thread count that
// lasts for a scope.
#ifndef TESTS_SUPPORT_TEST_CONTEXT_H_
#define TESTS_SUPPORT_TEST_CONTEXT_H_

#include <cstdint>

#include "kernels/base/arena.h"
#include "kernels/base/execution_context.h"

namespace salamander {

// Converts to the `const ExecutionContext&` that ops take. On destruction it fails the test if an
// op kept scratch memory.
class TestContext {
 public:
  explicit TestContext(int64_t arena_bytes = int64_t{1} << 34);
  ~TestContext();
  TestContext(const TestContext&) = delete;
  TestContext& operator=(const TestContext&) = delete;

  operator const ExecutionContext&() const { return context_; }  // NOLINT: that is its purpose
  Arena& arena() { return arena_; }

 private:
  Arena arena_;
  ExecutionContext context_;
};

// Sets the number of OpenMP threads (and with it OpenBLAS's) until the end of the scope.
class ScopedThreadCount {
 public:
  explicit ScopedThreadCount(int threads);
  ~ScopedThreadCount();
  ScopedThreadCount(const ScopedThreadCount&) = delete;
  ScopedThreadCount& operator=(const ScopedThreadCount&) = delete;

 private:
  int before_;
};

}  // namespace salamander

#endif  // TESTS_SUPPORT_TEST_CONTEXT_H_
