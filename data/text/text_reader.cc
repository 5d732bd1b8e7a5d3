#include "data/text/text_reader.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <limits>
#include <set>
#include <system_error>
#include <utility>

#include <fnmatch.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"

#include "data/storage/file_bytes.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

using Json = nlohmann::json;

// The parser quotes what it read so far, which may be all of a very long string.
constexpr size_t kLongestReason = 300;

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using OwnedFile = std::unique_ptr<std::FILE, CloseFile>;

absl::StatusOr<OwnedFile> OpenForReading(const std::string& path) {
  OwnedFile file(std::fopen(path.c_str(), "rbe"));
  if (file == nullptr) return ErrnoStatus(errno, "open", path);
  return file;
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path) {
  ASSIGN_OR_RETURN(const OwnedFile file, OpenForReading(path));
  std::string text;
  char buffer[65536];
  size_t count = 0;
  while ((count = std::fread(buffer, 1, sizeof(buffer), file.get())) > 0) {
    text.append(buffer, count);
  }
  if (std::ferror(file.get()) != 0) return ErrnoStatus(errno, "read", path);
  return text;
}

absl::Status MissingField(const Json& json, const TextReaderOptions& options) {
  std::vector<std::string> keys;
  for (const auto& item : json.items()) keys.push_back(item.key());
  if (keys.size() > 8) keys.resize(8);
  return absl::InvalidArgumentError(
      absl::StrCat("no field \"", options.text_field, "\" and no \"", options.ids_field,
                   "\"; the object has: ", keys.empty() ? "nothing" : absl::StrJoin(keys, ", "),
                   "; name the field that holds the text"));
}

template <typename Integer>
absl::Status ReadIntegers(const Json& array, const std::string& field, int64_t largest,
                          std::vector<Integer>* out) {
  if (!array.is_array()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", field, "\" is a ", array.type_name(), "; expected an array"));
  }
  out->reserve(array.size());
  for (const Json& entry : array) {
    const bool is_integer = entry.is_number_integer() || entry.is_boolean();
    int64_t value = -1;
    if (entry.is_boolean()) value = entry.get<bool>() ? 1 : 0;
    if (entry.is_number_integer()) value = entry.get<int64_t>();
    if (value < 0 || value > largest) {
      return absl::InvalidArgumentError(absl::StrCat("\"", field, "\"[", out->size(), "] is ",
                                                     is_integer ? entry.dump() : entry.type_name(),
                                                     "; expected an integer from 0 to ", largest));
    }
    out->push_back(static_cast<Integer>(value));
  }
  return absl::OkStatus();
}

absl::Status ParseIds(const Json& json, const Json& ids, const TextReaderOptions& options,
                      Document* document) {
  document->is_tokenized = true;
  RETURN_IF_ERROR(
      ReadIntegers(ids, options.ids_field, std::numeric_limits<int32_t>::max(), &document->ids));
  const auto mask = json.find(options.loss_mask_field);
  if (mask == json.end()) return absl::OkStatus();
  RETURN_IF_ERROR(ReadIntegers(*mask, options.loss_mask_field, 1, &document->loss_mask));
  if (document->loss_mask.size() != document->ids.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", options.loss_mask_field, "\" has ", document->loss_mask.size(), " entries and \"",
        options.ids_field, "\" has ", document->ids.size(), "; expected as many"));
  }
  return absl::OkStatus();
}

// One open JSONL file.
class JsonLines {
 public:
  JsonLines(std::string path, OwnedFile file, const TextReaderOptions& options)
      : path_(std::move(path)), file_(std::move(file)), options_(options) {}
  ~JsonLines() { std::free(line_); }
  JsonLines(const JsonLines&) = delete;
  JsonLines& operator=(const JsonLines&) = delete;

  absl::StatusOr<bool> Next(Document* document) {
    while (true) {
      errno = 0;
      const ssize_t size = getline(&line_, &capacity_, file_.get());
      if (size < 0) {
        if (errno != 0) return ErrnoStatus(errno, "read", path_);
        return false;
      }
      ++number_;
      const absl::string_view line(line_, static_cast<size_t>(size));
      if (line.find_first_not_of(" \t\r\n") == absl::string_view::npos) continue;
      *document = Document();
      document->origin = absl::StrCat(path_, ":", number_);
      const absl::Status status = ParseJsonDocument(line, options_, document);
      if (!status.ok()) return Annotate(status, document->origin);
      return true;
    }
  }

 private:
  std::string path_;
  OwnedFile file_;
  const TextReaderOptions& options_;
  char* line_ = nullptr;
  size_t capacity_ = 0;
  int64_t number_ = 0;
};

class FileListReader : public DocumentReader {
 public:
  FileListReader(TextReaderOptions options, std::vector<std::string> files)
      : options_(std::move(options)), files_(std::move(files)) {}

  absl::StatusOr<bool> Next(Document* document) override {
    while (true) {
      if (lines_ != nullptr) {
        ASSIGN_OR_RETURN(const bool found, lines_->Next(document));
        if (found) return true;
        lines_.reset();
      }
      if (next_file_ >= files_.size()) return false;
      const std::string& path = files_[next_file_++];
      if (absl::EndsWith(path, ".jsonl")) {
        ASSIGN_OR_RETURN(OwnedFile file, OpenForReading(path));
        lines_ = std::make_unique<JsonLines>(path, std::move(file), options_);
        continue;
      }
      *document = Document();
      document->origin = path;
      ASSIGN_OR_RETURN(document->text, ReadWholeFile(path));
      return true;
    }
  }

 private:
  const TextReaderOptions options_;
  const std::vector<std::string> files_;
  size_t next_file_ = 0;
  std::unique_ptr<JsonLines> lines_;
};

bool MatchesAny(const std::string& name, const std::vector<std::string>& patterns) {
  for (const std::string& pattern : patterns) {
    if (fnmatch(pattern.c_str(), name.c_str(), 0) == 0) return true;
  }
  return false;
}

absl::Status AddDirectory(const std::string& path, const TextReaderOptions& options,
                          std::vector<std::string>* files) {
  namespace fs = std::filesystem;
  std::set<std::string> found;
  std::error_code error;
  fs::recursive_directory_iterator entry(path, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    std::error_code type_error;  // a dangling link is not a file, and no reason to stop
    if (entry->is_regular_file(type_error) &&
        MatchesAny(entry->path().filename().string(), options.patterns)) {
      found.insert(entry->path().string());
    }
  }
  if (error) return ErrnoStatus(error.value(), "walk the directory", path);
  files->insert(files->end(), found.begin(), found.end());
  return absl::OkStatus();
}

}  // namespace

absl::Status ParseJsonDocument(absl::string_view line, const TextReaderOptions& options,
                               Document* document) {
  try {
    const Json json = Json::parse(line.begin(), line.end());
    if (!json.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the line is a JSON ", json.type_name(), "; expected an object"));
    }
    const auto text = json.find(options.text_field);
    const auto ids = json.find(options.ids_field);
    if (ids != json.end()) return ParseIds(json, *ids, options, document);
    if (text == json.end()) return MissingField(json, options);
    if (!text->is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("\"", options.text_field, "\" is a ",
                                                     text->type_name(), "; expected a string"));
    }
    document->text = text->get<std::string>();
    return absl::OkStatus();
  } catch (const std::exception& exception) {
    return absl::InvalidArgumentError(absl::StrCat(
        "not valid JSON: ", absl::string_view(exception.what()).substr(0, kLongestReason),
        "; expected one object on each line"));
  }
}

absl::StatusOr<std::vector<std::string>> ListFiles(const TextReaderOptions& options) {
  std::vector<std::string> files;
  for (const std::string& path : options.paths) {
    std::error_code error;
    const auto status = std::filesystem::status(path, error);
    if (error) return ErrnoStatus(error.value(), "find", path);
    if (std::filesystem::is_directory(status)) {
      RETURN_IF_ERROR(AddDirectory(path, options, &files));
    } else {
      files.push_back(path);
    }
  }
  if (files.empty()) {
    return absl::NotFoundError(
        absl::StrCat(options.paths.empty() ? "no path given" : absl::StrJoin(options.paths, ", "),
                     ": no file matches ", absl::StrJoin(options.patterns, ", "),
                     "; name files, or directories that hold some"));
  }
  return files;
}

absl::StatusOr<std::unique_ptr<DocumentReader>> OpenDocuments(const TextReaderOptions& options) {
  ASSIGN_OR_RETURN(std::vector<std::string> files, ListFiles(options));
  return std::make_unique<FileListReader>(options, std::move(files));
}

}  // namespace salamander
