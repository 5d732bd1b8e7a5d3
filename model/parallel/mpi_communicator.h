// The MPI side of Communicator, and the life of MPI in the process.
#ifndef MODEL_PARALLEL_MPI_COMMUNICATOR_H_
#define MODEL_PARALLEL_MPI_COMMUNICATOR_H_

#include <memory>

#include "absl/status/statusor.h"

#include "model/parallel/communicator.h"

namespace salamander {

// Starts MPI where the process was launched by mpirun (or srun) and ends it on destruction. A
// process started by hand is a group of one and never touches MPI.
class MpiEnvironment {
 public:
  static absl::StatusOr<std::unique_ptr<MpiEnvironment>> Start();
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  Communicator& world() { return *world_; }

  // Whether every rank of the job calls this within so many seconds. For ranks on their way out:
  // the one collective that does not wait for ever.
  bool AllArriveWithin(double seconds);

  // Ends every rank of the job with this exit code.
  [[noreturn]] void Abort(int exit_code);

 private:
  MpiEnvironment(bool has_mpi, std::unique_ptr<Communicator> world)
      : has_mpi_(has_mpi), world_(std::move(world)) {}

  bool has_mpi_;
  std::unique_ptr<Communicator> world_;
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_MPI_COMMUNICATOR_H_
