// A token file's bytes, read to the last block.

#include "data/tokens/token_file.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::Status status = salamander::CheckTokenFileBytes({data, size});
  if (!status.ok()) salamander::CheckRefusal(status);
  return 0;
}
