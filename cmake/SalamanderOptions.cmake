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
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -march=${SALAMANDER_ARCH}>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-Wno-missing-field-initializers -Werror=all-warnings>)

if(SALAMANDER_SANITIZER OR SALAMANDER_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    # GCC's OpenMP run time looks like one large race to ThreadSanitizer, and libFuzzer is clang's.
    message(FATAL_ERROR "sanitizers and fuzz targets need clang, found ${CMAKE_CXX_COMPILER_ID}; "
                        "configure with `cmake --preset asan`, `tsan` or `fuzz`")
  endif()
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
  # GCC 13 takes an element of a span returned by value for part of a temporary.
  target_compile_options(salamander_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-dangling-reference>)
elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # A loop that a sanitizer's checks keep from being vectorised is no fault of the loop.
  target_compile_options(salamander_flags INTERFACE -Wno-pass-failed)
endif()
if(SALAMANDER_SANITIZER)
  target_compile_options(salamander_flags INTERFACE
    -fsanitize=${SALAMANDER_SANITIZER} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_compile_definitions(salamander_flags INTERFACE _GLIBCXX_ASSERTIONS)
  add_library(salamander_sanitizer_defaults STATIC cmake/sanitizer_defaults.cc)
  target_link_libraries(salamander_flags INTERFACE salamander_sanitizer_defaults)
  # Nothing calls the defaults but the sanitizer's own weak reference, which does not pull an archive member in.
  target_link_options(salamander_flags INTERFACE
    -fsanitize=${SALAMANDER_SANITIZER} -Wl,--undefined=__lsan_default_suppressions)
endif()

find_program(SALAMANDER_CCACHE ccache)
mark_as_advanced(SALAMANDER_CCACHE)
if(SALAMANDER_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SALAMANDER_CCACHE})
endif()
