// A checkpoint's manifest.json, whole and as one rank's part. One that is accepted can be written
// and read back.

#include "model/checkpoint/manifest.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text = salamander::TextOf(data, size);
  const auto manifest = salamander::ParseManifest(text);
  if (manifest.ok()) {
    const auto again = salamander::ParseManifest(salamander::ManifestText(*manifest));
    SALAMANDER_CHECK(again.ok()) << again.status().ToString();
  } else {
    salamander::CheckRefusal(manifest.status());
  }
  const auto part = salamander::ParseManifestPart(text);
  if (!part.ok()) salamander::CheckRefusal(part.status());
  return 0;
}
