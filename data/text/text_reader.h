// Documents from files, one after another, in an order that does not depend on the machine.
//   a text file   one document
//   *.jsonl       one document on each line, an object with either
//                   "text": "..."                          (field name configurable), or
//                   "input_ids": [1, 2, ...]               ids made by another program, with an
//                   "loss_mask": [0, 1, ...]               optional mask of the same length
// A directory stands for the files under it, at any depth, whose names match a pattern, in
// bytewise order of their paths; symbolic links to directories are not followed.
#ifndef DATA_TEXT_TEXT_READER_H_
#define DATA_TEXT_TEXT_READER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace salamander {

struct Document {
  std::string origin;  // file, or file:line
  std::string text;
  bool is_tokenized = false;       // then `ids` hold it, else `text`
  std::vector<int32_t> ids;        // [T]
  std::vector<uint8_t> loss_mask;  // [T] of 0 and 1, or empty: every token is learnt
};

struct TextReaderOptions {
  std::vector<std::string> paths = {};        // files and directories
  std::vector<std::string> patterns = {"*"};  // for names inside directories: "*.h", "*.txt"
  std::string text_field = "text";            // JSONL
  std::string ids_field = "input_ids";        // JSONL
  std::string loss_mask_field = "loss_mask";  // JSONL
};

class DocumentReader {
 public:
  virtual ~DocumentReader() = default;

  // Reads the next document; false at the end. A bad line of JSON is an error at file:line.
  virtual absl::StatusOr<bool> Next(Document* document) = 0;
};

// Reads one line of JSONL into `document`, all but its origin. Any bytes give a document or an
// error: this is what the fuzzer drives.
absl::Status ParseJsonDocument(absl::string_view line, const TextReaderOptions& options,
                               Document* document);

// Every file the options name, in reading order. A path that does not exist, or a set without
// any file, is an error.
absl::StatusOr<std::vector<std::string>> ListFiles(const TextReaderOptions& options);

absl::StatusOr<std::unique_ptr<DocumentReader>> OpenDocuments(const TextReaderOptions& options);

}  // namespace salamander

#endif  // DATA_TEXT_TEXT_READER_H_
