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
    find_package(CUDAToolkit 12.4 QUIET)
    if(CUDAToolkit_FOUND)
      set(SALAMANDER_HAS_CUDA ON)
    else()
      message(WARNING "CUDA backend: found CUDA ${CMAKE_CUDA_COMPILER_VERSION}, 12.4 or newer is needed; install a newer "
        "toolkit (developer.nvidia.com/cuda-downloads), or go on with a program for CPUs")
    endif()
  endif()
endif()

# cuDNN and its header-only frontend, for dense attention; without them our own kernels do all of it.
set(SALAMANDER_HAS_CUDNN OFF)
if(SALAMANDER_HAS_CUDA)
  find_path(CUDNN_INCLUDE_DIR NAMES cudnn_version.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(CUDNN_LIBRARY NAMES cudnn libcudnn.so.9 HINTS ${CUDAToolkit_LIBRARY_DIR})
  find_path(CUDNN_FRONTEND_INCLUDE_DIR NAMES cudnn_frontend.h
    HINTS ${PROJECT_SOURCE_DIR}/build-deps/cudnn_frontend/include)  # where scripts/install_packages puts it
  mark_as_advanced(CUDNN_INCLUDE_DIR CUDNN_LIBRARY CUDNN_FRONTEND_INCLUDE_DIR)
  if(CUDNN_INCLUDE_DIR AND CUDNN_LIBRARY AND CUDNN_FRONTEND_INCLUDE_DIR)
    file(STRINGS ${CUDNN_INCLUDE_DIR}/cudnn_version.h CUDNN_MAJOR_LINE REGEX "define CUDNN_MAJOR +9")
    if(CUDNN_MAJOR_LINE)
      set(SALAMANDER_HAS_CUDNN ON)
      add_library(salamander_cudnn INTERFACE)
      target_link_libraries(salamander_cudnn INTERFACE ${CUDNN_LIBRARY} CUDA::nvrtc)  # the frontend names nvrtc
      target_include_directories(salamander_cudnn SYSTEM INTERFACE ${CUDNN_FRONTEND_INCLUDE_DIR} ${CUDNN_INCLUDE_DIR})
    endif()
  endif()
  if(SALAMANDER_HAS_CUDNN)
    message(STATUS "Dense attention: cuDNN of ${CUDNN_LIBRARY}, frontend of ${CUDNN_FRONTEND_INCLUDE_DIR}")
  else()
    message(STATUS "Dense attention: our own kernels, for want of cuDNN 9 or of its frontend's headers "
      "(scripts/install_packages fetches these)")
  endif()
endif()

# NCCL, for ranks with a GPU of their own; without it tensors travel by way of the host.
set(SALAMANDER_HAS_NCCL OFF)
if(SALAMANDER_HAS_CUDA)
  find_path(NCCL_INCLUDE_DIR NAMES nccl.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2 HINTS ${CUDAToolkit_LIBRARY_DIR})
  mark_as_advanced(NCCL_INCLUDE_DIR NCCL_LIBRARY)
  if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
    set(SALAMANDER_HAS_NCCL ON)
    message(STATUS "Collectives between GPUs: ${NCCL_LIBRARY}")
    add_library(salamander_nccl INTERFACE)
    target_link_libraries(salamander_nccl INTERFACE ${NCCL_LIBRARY})
    target_include_directories(salamander_nccl SYSTEM INTERFACE ${NCCL_INCLUDE_DIR} ${CUDAToolkit_INCLUDE_DIRS})
    target_compile_definitions(salamander_nccl INTERFACE SALAMANDER_HAS_NCCL)
  else()
    message(STATUS "Collectives between GPUs: by way of the host, for want of NCCL")
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
