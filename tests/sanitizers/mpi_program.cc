// What LeakSanitizer must see and must not see in a program under mpirun: `clean` starts MPI,
// reduces, and ends; Open MPI's own leaks stay quiet. `leak` also loses 77 bytes of ours.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <mpi.h>

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  std::vector<float> values(100000, 1.0F);
  MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_FLOAT, MPI_SUM,
                MPI_COMM_WORLD);
  if (argc > 1 && std::strcmp(argv[1], "leak") == 0) {
    static void* volatile lost = std::malloc(77);
    lost = nullptr;
    std::printf("lost %s\n", lost == nullptr ? "77 bytes" : "nothing");
  }
  std::printf("sum %f\n", static_cast<double>(values.back()));
  return MPI_Finalize();
}
