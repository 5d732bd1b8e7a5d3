# The CUDA backend: built where a toolkit is found, unless SALAMANDER_CUDA is OFF. Sets SALAMANDER_HAS_CUDA.

option(SALAMANDER_CUDA "Build the CUDA backend where a CUDA toolkit is found" ON)
set(SALAMANDER_CUDA_ARCHITECTURES "80-real;90a-real;80-virtual" CACHE STRING
  "GPU architectures to build for; the PTX of compute_80 serves newer ones")

set(SALAMANDER_HAS_CUDA OFF)
if(SALAMANDER_CUDA AND NOT SALAMANDER_SANITIZER)
  include(CheckLanguage)
  find_program(SALAMANDER_NVCC nvcc PATHS /usr/local/cuda/bin)
  mark_as_advanced(SALAMANDER_NVCC)
  if(SALAMANDER_NVCC AND NOT CMAKE_CUDA_COMPILER)
    set(CMAKE_CUDA_COMPILER ${SALAMANDER_NVCC})
  endif()
  set(CMAKE_CUDA_ARCHITECTURES ${SALAMANDER_CUDA_ARCHITECTURES})
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc 12 has it
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit 12.4 REQUIRED)
    set(SALAMANDER_HAS_CUDA ON)
  endif()
endif()

if(SALAMANDER_HAS_CUDA)
  message(STATUS "CUDA backend: ${CMAKE_CUDA_COMPILER_VERSION}, for ${CMAKE_CUDA_ARCHITECTURES}")
  target_compile_definitions(salamander_flags INTERFACE SALAMANDER_HAS_CUDA)
else()
  message(STATUS "CUDA backend: not built, the program is complete for CPUs")
endif()

# salamander_cuda_library(name SOURCES ... LINKS ...): like salamander_library, for a folder with kernels.
function(salamander_cuda_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE salamander_flags ${ARG_LINKS})
  target_include_directories(${name} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_compile_options(${name} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr --threads=0 -lineinfo>)
endfunction()
