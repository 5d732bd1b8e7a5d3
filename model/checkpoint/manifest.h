// The text of manifest.json: what a checkpoint holds and where. Private to the checkpoint's reader
// and writer.
#ifndef MODEL_CHECKPOINT_MANIFEST_H_
#define MODEL_CHECKPOINT_MANIFEST_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

#include "model/checkpoint/checkpoint.h"

namespace salamander {

// What is written. Version 1 is read as well: its pieces are rows with one checksum each.
inline constexpr int64_t kCheckpointVersion = 2;

struct Manifest {
  std::map<std::string, Checkpoint::Tensor> tensors;
  std::map<std::string, int64_t> shard_bytes;
  std::map<std::string, std::string> metadata;  // name -> checksum

  // Adds what one rank wrote. Fails where two ranks disagree on a tensor.
  absl::Status Merge(const Manifest& other);
};

std::string ManifestText(const Manifest& manifest);

// Fails on text that is not a manifest, has another version or another checksum than its own, or
// describes the impossible: a negative size, pieces that leave gaps, a shard that is not listed.
absl::StatusOr<Manifest> ParseManifest(absl::string_view text);

// One rank's part of a manifest, whose tensors may be incomplete.
absl::StatusOr<Manifest> ParseManifestPart(absl::string_view text);

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_MANIFEST_H_
