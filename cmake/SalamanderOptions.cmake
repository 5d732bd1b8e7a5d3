# What a user may choose at configure time, and the compile flags that follow from it.

option(SALAMANDER_BUILD_TESTS "Build the unit tests" ON)
option(SALAMANDER_BUILD_BENCHMARKS "Build the Google Benchmark programs" OFF)
option(SALAMANDER_BUILD_FUZZERS "Build the libFuzzer targets (needs clang)" OFF)
set(SALAMANDER_ARCH "native" CACHE STRING "Value of -march: native, or x86-64-v3 for a binary that travels")
set(SALAMANDER_SANITIZER "" CACHE STRING "Empty, 'address,undefined' or 'thread'")

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

# Every target of ours links this; third-party headers come in as SYSTEM, so the warnings are ours alone.
add_library(salamander_flags INTERFACE)
target_include_directories(salamander_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(salamander_flags INTERFACE
  -Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -march=${SALAMANDER_ARCH})
if(SALAMANDER_SANITIZER)
  target_compile_options(salamander_flags INTERFACE
    -fsanitize=${SALAMANDER_SANITIZER} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(salamander_flags INTERFACE -fsanitize=${SALAMANDER_SANITIZER})
endif()
