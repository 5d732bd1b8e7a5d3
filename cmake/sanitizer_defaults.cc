// What the sanitizers' run times assume in every program of a sanitized build, however it is
// started: under ctest, under mpirun or by hand. The usual environment variables still add to it.

extern "C" {

const char* __asan_default_options();
const char* __lsan_default_options();
const char* __lsan_default_suppressions();
const char* __tsan_default_options();
const char* __ubsan_default_options();
int dlclose(void* library);

// alloc_dealloc_mismatch: an uninstrumented library may free with its own operator delete.
const char* __asan_default_options() {
  return "detect_stack_use_after_return=1:strict_string_checks=1:alloc_dealloc_mismatch=0";
}

const char* __lsan_default_options() {
  return "print_suppressions=0";
}

// Open MPI and the OpenMP run time keep some of what they allocate until the process ends; HDF5
// keeps what belongs to a file whose close failed.
const char* __lsan_default_suppressions() {
  return "leak:libmpi.so\n"
         "leak:libopen-pal.so\n"
         "leak:libopen-rte.so\n"
         "leak:libpmix.so\n"
         "leak:libhwloc.so\n"
         "leak:mca_*.so\n"
         "leak:vasprintf\n"
         "leak:libevent\n"
         "leak:libomp.so\n"
         "leak:libhdf5_serial.so\n";
}

// The OpenMP run time and OpenBLAS are not instrumented; Archer tells ThreadSanitizer what the
// run time orders, and races inside uninstrumented libraries are theirs.
const char* __tsan_default_options() {
  return "ignore_noninstrumented_modules=1:halt_on_error=1:second_deadlock_stack=1";
}

const char* __ubsan_default_options() {
  return "print_stacktrace=1";
}

// Open MPI unloads its components before the leak check, which then cannot say whose a leak is.
int dlclose(void* /*library*/) {
  return 0;
}

}  // extern "C"
