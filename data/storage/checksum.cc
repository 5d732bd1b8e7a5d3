#include "data/storage/checksum.h"

#include <xxhash.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"

namespace salamander {

Checksum::Checksum() : state_(XXH3_createState()) {
  SALAMANDER_CHECK(state_ != nullptr) << "out of memory for a checksum state";
  XXH3_64bits_reset(static_cast<XXH3_state_t*>(state_.get()));
}

void Checksum::Update(const void* bytes, size_t count) {
  if (count > 0) XXH3_64bits_update(static_cast<XXH3_state_t*>(state_.get()), bytes, count);
}

uint64_t Checksum::digest() const {
  return XXH3_64bits_digest(static_cast<const XXH3_state_t*>(state_.get()));
}

void Checksum::Free::operator()(void* state) const {
  XXH3_freeState(static_cast<XXH3_state_t*>(state));
}

uint64_t ChecksumOf(const void* bytes, size_t count) {
  return XXH3_64bits(bytes, count);
}

std::string ChecksumText(uint64_t digest) {
  return absl::StrCat(absl::Hex(digest, absl::kZeroPad16));
}

}  // namespace salamander
