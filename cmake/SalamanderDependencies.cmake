# Every package the program stands on, named once. scripts/install_packages installs the same list.

find_package(OpenMP REQUIRED COMPONENTS CXX)
find_package(absl REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
target_compile_definitions(MPI::MPI_C INTERFACE OMPI_SKIP_MPICXX)  # else mpi.h wants the deprecated libmpi_cxx
find_package(PkgConfig REQUIRED)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)

# Not by pkg-config: Ubuntu 24.04's sentencepiece.pc requires a protobuf-lite.pc that its package does not bring.
find_library(SENTENCEPIECE_LIBRARY NAMES sentencepiece REQUIRED)
find_library(SENTENCEPIECE_TRAIN_LIBRARY NAMES sentencepiece_train REQUIRED)
find_path(SENTENCEPIECE_INCLUDE_DIR NAMES sentencepiece_processor.h REQUIRED)
add_library(salamander_sentencepiece INTERFACE)
target_link_libraries(salamander_sentencepiece INTERFACE ${SENTENCEPIECE_TRAIN_LIBRARY} ${SENTENCEPIECE_LIBRARY})
target_include_directories(salamander_sentencepiece SYSTEM INTERFACE ${SENTENCEPIECE_INCLUDE_DIR})

# Both HDF5 flavours can be installed at once: the serial C library is the one that is meant.
set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)

# OpenBLAS threads with OpenMP, so that it shares one pool with the kernels; other flavours bring a second pool.
find_library(OPENBLAS_LIBRARY NAMES openblas REQUIRED
  PATH_SUFFIXES openblas-openmp x86_64-linux-gnu/openblas-openmp aarch64-linux-gnu/openblas-openmp)
find_path(OPENBLAS_INCLUDE_DIR NAMES cblas.h REQUIRED
  PATH_SUFFIXES openblas-openmp x86_64-linux-gnu/openblas-openmp aarch64-linux-gnu/openblas-openmp
                x86_64-linux-gnu aarch64-linux-gnu openblas)
add_library(salamander_openblas INTERFACE)
target_link_libraries(salamander_openblas INTERFACE ${OPENBLAS_LIBRARY})
target_include_directories(salamander_openblas SYSTEM INTERFACE ${OPENBLAS_INCLUDE_DIR})

if(SALAMANDER_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(SALAMANDER_BUILD_BENCHMARKS)
  find_package(benchmark REQUIRED)
endif()
