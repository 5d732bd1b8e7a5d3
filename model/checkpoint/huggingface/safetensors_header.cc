#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

#include "kernels/base/status_macros.h"
#include "model/checkpoint/huggingface/safetensors.h"
#include "model/checkpoint/json_fields.h"

namespace salamander {
namespace {

// The limit of the format's reference implementation.
constexpr uint64_t kLargestHeader = 100'000'000;

int64_t BytesOf(const std::string& dtype) {
  static const auto* const kBytes = new std::map<std::string, int64_t>{
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
      {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},
      {"I32", 4},  {"F32", 4}, {"U64", 8}, {"I64", 8},     {"F64", 8}};
  const auto found = kBytes->find(dtype);
  return found == kBytes->end() ? 0 : found->second;
}

// shape x dtype in bytes, or -1 where it does not fit into 63 bits.
int64_t ClaimedBytes(const std::vector<int64_t>& shape, int64_t element_bytes) {
  int64_t bytes = element_bytes;
  for (const int64_t dim : shape) {
    if (dim < 0 || __builtin_mul_overflow(bytes, dim, &bytes)) return -1;
  }
  return bytes;
}

absl::StatusOr<SafetensorsEntry> ParseEntry(absl::string_view where, const std::string& name,
                                            const Json& value, int64_t data_bytes) {
  const std::string path = absl::StrCat("tensor \"", name, "\".");
  JsonFields fields(value, where, path);
  SafetensorsEntry entry;
  entry.name = name;
  std::vector<int64_t> offsets;
  fields.Require("dtype", &entry.dtype);
  fields.Require("shape", &entry.shape);
  fields.Require("data_offsets", &offsets);
  fields.RefuseUnread();
  const int64_t element_bytes = BytesOf(entry.dtype);
  if (element_bytes == 0) {
    fields.Fail("dtype", absl::StrCat("\"", entry.dtype.substr(0, 20), "\""),
                "one of the format's, such as F32, BF16 or F16");
  }
  if (offsets.size() != 2 || offsets[0] < 0 || offsets[0] > offsets[1]) {
    fields.Fail("data_offsets", absl::StrCat("[", absl::StrJoin(offsets, ", "), "]"),
                "[begin, end] with 0 <= begin <= end");
  } else if (offsets[1] > data_bytes) {
    fields.Fail("data_offsets", absl::StrCat("an end at byte ", offsets[1]),
                absl::StrCat("at most ", data_bytes, ", the bytes after the header"),
                "the file is truncated or damaged: download it again");
  } else if (const int64_t claimed = ClaimedBytes(entry.shape, element_bytes);
             claimed != offsets[1] - offsets[0]) {
    fields.Fail(
        "data_offsets", absl::StrCat(offsets[1] - offsets[0], " bytes"),
        absl::StrCat(claimed < 0 ? "a size that can exist" : absl::StrCat(claimed, " bytes"),
                     " for shape [", absl::StrJoin(entry.shape, ", "), "] of ", entry.dtype));
  }
  RETURN_IF_ERROR(fields.status());
  entry.begin = offsets[0];
  entry.end = offsets[1];
  return entry;
}

// The data is covered once, from its first byte to its last.
absl::Status CheckCoverage(absl::string_view where, const std::vector<SafetensorsEntry>& entries,
                           int64_t data_bytes) {
  int64_t covered = 0;
  const std::string* previous = nullptr;
  for (const SafetensorsEntry& entry : entries) {
    if (entry.begin != covered) {
      return absl::InvalidArgumentError(absl::StrCat(
          where, ": tensor \"", entry.name, "\": data begins at byte ", entry.begin, ", expected ",
          covered, " where ",
          previous == nullptr ? "the data begins" : absl::StrCat("\"", *previous, "\" ends"),
          entry.begin < covered ? "; two tensors overlap" : "; there is a gap"));
    }
    covered = entry.end;
    previous = &entry.name;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": the tensors end at byte ", covered, " of ", data_bytes,
                     " after the header, expected the last one to end the file; is it damaged?"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string SafetensorsEntry::ShapeString() const {
  return absl::StrCat(dtype, "[", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view where,
                                                         absl::string_view prefix,
                                                         int64_t file_size) {
  constexpr int64_t kLengthBytes = 8;
  if (file_size < kLengthBytes || static_cast<int64_t>(prefix.size()) < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": has ", file_size,
                     " bytes, expected a safetensors file of at least 8; download it again"));
  }
  uint64_t length = 0;
  for (int byte = 0; byte < kLengthBytes; ++byte) {
    length |= static_cast<uint64_t>(static_cast<unsigned char>(prefix[static_cast<size_t>(byte)]))
              << (8 * byte);
  }
  const uint64_t available = static_cast<uint64_t>(
      std::min(static_cast<int64_t>(prefix.size()), file_size) - kLengthBytes);
  if (length > kLargestHeader || length > available) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": the header claims ", length, " bytes, expected at most ",
                     std::min(available, kLargestHeader),
                     "; the file is truncated, damaged or not safetensors: download it again"));
  }
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + static_cast<int64_t>(length);
  const int64_t data_bytes = file_size - header.data_begin;
  ASSIGN_OR_RETURN(const Json json,
                   ParseJson(absl::StrCat(where, ": header"), prefix.substr(kLengthBytes, length)));
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": the header is ", Describe(json),
                                                   ", expected a JSON object of tensors"));
  }
  for (const auto& [name, value] : json.items()) {
    if (name != "__metadata__") {
      ASSIGN_OR_RETURN(SafetensorsEntry entry, ParseEntry(where, name, value, data_bytes));
      header.entries.push_back(std::move(entry));
      continue;
    }
    if (!value.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ": __metadata__ is ", Describe(value), ", expected an object"));
    }
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) {
        return absl::InvalidArgumentError(absl::StrCat(where, ": __metadata__.", key, " is ",
                                                       Describe(text), ", expected a string"));
      }
      header.metadata[key] = text.get<std::string>();
    }
  }
  std::sort(header.entries.begin(), header.entries.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
            });
  RETURN_IF_ERROR(CheckCoverage(where, header.entries, data_bytes));
  return header;
}

absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(absl::string_view where,
                                                                         absl::string_view text) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(where, text));
  JsonFields fields(json, where);
  const Json& map = fields.At("weight_map");
  if (!map.is_object() || map.empty()) {
    fields.Fail("weight_map", Describe(map), "an object of tensor name to file name");
  }
  RETURN_IF_ERROR(fields.status());
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : map.items()) {
    const bool is_plain = file.is_string() && !file.get_ref<const std::string&>().empty() &&
                          file.get_ref<const std::string&>().find('/') == std::string::npos &&
                          file.get_ref<const std::string&>().find('\0') == std::string::npos;
    if (!is_plain) {
      fields.Fail(absl::StrCat("weight_map[\"", name, "\"]"), Describe(file),
                  "the name of a file in the same folder");
      return fields.status();
    }
    files[name] = file.get<std::string>();
  }
  return files;
}

}  // namespace salamander
