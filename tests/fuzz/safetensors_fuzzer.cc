// A safetensors file's beginning, and the same bytes as an index file.

#include <cstdint>

#include "model/checkpoint/huggingface/safetensors.h"
#include "tests/fuzz/fuzz_target.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using salamander::CheckRefusal;
  const absl::string_view text = salamander::TextOf(data, size);
  const auto file_size = static_cast<int64_t>(size);

  const auto header = salamander::ParseSafetensorsHeader("fuzz.safetensors", text, file_size);
  if (header.ok()) {
    for (const salamander::SafetensorsEntry& entry : header->entries) {
      SALAMANDER_CHECK(entry.begin >= 0 && entry.begin <= entry.end &&
                       header->data_begin + entry.end <= file_size)
          << entry.name << " lies outside the file";
      for (const int64_t dim : entry.shape) {
        SALAMANDER_CHECK(dim >= 0) << entry.ShapeString();
      }
    }
  } else {
    CheckRefusal(header.status());
  }

  const auto index = salamander::ParseSafetensorsIndex("fuzz.index.json", text);
  if (index.ok()) {
    for (const auto& [tensor, file] : *index) {
      SALAMANDER_CHECK(file.find('/') == std::string::npos) << tensor << " leaves the folder";
    }
  } else {
    CheckRefusal(index.status());
  }
  return 0;
}
