# salamander_library(name SOURCES ... LINKS ...): one library per folder. PRIVATE links, so that a folder sees
# only what it names itself; static archives still carry their link closure to the program.
function(salamander_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE salamander_flags ${ARG_LINKS})
  # The fuzzer follows coverage through whatever reads a user's bytes; in the kernels it would only cost time.
  if(SALAMANDER_BUILD_FUZZERS AND NOT name MATCHES "kernels")
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer-no-link)
  endif()
endfunction()

# salamander_test(name SOURCES ... LINKS ... [RANKS n]): one GoogleTest program; with RANKS it runs under mpirun.
function(salamander_test name)
  cmake_parse_arguments(ARG "" "RANKS" "SOURCES;LINKS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE salamander_flags ${ARG_LINKS} GTest::gmock GTest::gtest)
  target_compile_definitions(${name} PRIVATE SALAMANDER_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  if(ARG_RANKS)
    target_link_libraries(${name} PRIVATE MPI::MPI_C)
    add_test(NAME ${name} COMMAND ${CMAKE_SOURCE_DIR}/scripts/mpirun_local -n ${ARG_RANKS} $<TARGET_FILE:${name}>)
    set_tests_properties(${name} PROPERTIES PROCESSORS ${ARG_RANKS})
  else()
    target_link_libraries(${name} PRIVATE GTest::gtest_main)
    add_test(NAME ${name} COMMAND ${name})
  endif()
  # Tests run side by side: threads that spin while they wait would starve the ones that are waited for.
  set_tests_properties(${name} PROPERTIES TIMEOUT 600 ENVIRONMENT OMP_WAIT_POLICY=passive)
endfunction()
