// The MPI side of Communicator, and the life of MPI in the process.
#ifndef MODEL_PARALLEL_MPI_COMMUNICATOR_H_
#define MODEL_PARALLEL_MPI_COMMUNICATOR_H_

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/parallel/communicator.h"
#include "model/parallel/watch/collective_log.h"
#include "model/parallel/watch/rank_watch.h"

namespace salamander {

// Starts MPI where the process was launched by mpirun (or srun) and ends it on destruction. A
// process started by hand is a group of one and never touches MPI. The ranks of a job watch each
// other (watch/rank_watch.h) from here on: one that is lost ends all.
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

  // Ends every rank of the job with this exit code, because of what this rank met.
  [[noreturn]] void Abort(int exit_code, absl::string_view why);

 private:
  MpiEnvironment() = default;

  bool has_mpi_ = false;
  std::unique_ptr<CollectiveLog> log_;  // the next two refer to it
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<RankWatch> watch_;  // none where ranks cannot reach each other
};

}  // namespace salamander

#endif  // MODEL_PARALLEL_MPI_COMMUNICATOR_H_
