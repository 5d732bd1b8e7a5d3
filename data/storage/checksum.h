// XXH3-64 over bytes: the one checksum of our files. It guards against damage, not against an
// adversary. Written as 16 hexadecimal digits where a file holds it as text.
#ifndef DATA_STORAGE_CHECKSUM_H_
#define DATA_STORAGE_CHECKSUM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace salamander {

// The digest of all the bytes given to Update, in order; independent of how they were cut up.
class Checksum {
 public:
  Checksum();

  void Update(const void* bytes, size_t count);
  uint64_t digest() const;  // of the bytes so far

 private:
  struct Free {
    void operator()(void* state) const;
  };
  std::unique_ptr<void, Free> state_;  // XXH3_state_t
};

uint64_t ChecksumOf(const void* bytes, size_t count);

std::string ChecksumText(uint64_t digest);

}  // namespace salamander

#endif  // DATA_STORAGE_CHECKSUM_H_
