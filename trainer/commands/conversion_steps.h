// Conversion and selection as functions of structs, for their commands and for recipes that hold
// them as stages. Weights are moved about on the host; what is measured runs on the session's
// device. Collective.
#ifndef TRAINER_COMMANDS_CONVERSION_STEPS_H_
#define TRAINER_COMMANDS_CONVERSION_STEPS_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"

#include "kernels/device.h"
#include "model/conversion/transfer.h"
#include "model/parallel/communicator.h"
#include "trainer/config/small_files.h"

namespace salamander {

struct ConvertRequest {
  std::string from;  // checkpoint or run
  std::string out;
  std::string keep;  // empty: a candidate beside every layer; else a keep.yaml or a list "0,3,11"
  ConversionOptions options;
  std::string data;  // token file of the parity report; empty: pseudo-random tokens
  int64_t report_tokens = 4096;
};
absl::Status ConvertCheckpoint(const ConvertRequest& request, DeviceSession& session,
                               Communicator& world);

// How many of `layers` layers the selection keeps.
int64_t KeptCount(const SelectionConfig& config, int64_t layers);

// Chooses the layers and writes the list to `out`, a keep.yaml, with the score table beside it.
// `where` leads the messages.
absl::Status SelectInto(const SelectionConfig& config, const std::string& where,
                        const std::string& out, DeviceSession& session, Communicator& world);

}  // namespace salamander

#endif  // TRAINER_COMMANDS_CONVERSION_STEPS_H_
