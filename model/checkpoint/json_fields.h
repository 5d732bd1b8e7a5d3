// JSON texts from outside: one parser that turns every fault into a status, and a reader of an
// object's fields that names key, found and expected. nlohmann's exceptions end here.
#ifndef MODEL_CHECKPOINT_JSON_FIELDS_H_
#define MODEL_CHECKPOINT_JSON_FIELDS_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace salamander {

using Json = nlohmann::json;

// Refuses, with line and column where there is one: text that is not JSON, a key given twice in one
// object (readers disagree on which counts), and nesting deeper than 64.
absl::StatusOr<Json> ParseJson(absl::string_view where, absl::string_view text);

// "an object", "the string "x"", "12": a value as an error message shows it, cut at 60 characters.
std::string Describe(const Json& value);

// Reads fields of one object. The first fault is kept and every later call does nothing, so that a
// caller reads all its fields and asks once. A null counts as absent.
class JsonFields {
 public:
  // `where` leads every message: "dir/config.json". `path` is the object's place: "" or
  // "rope_scaling.".
  JsonFields(const Json& object, absl::string_view where, absl::string_view path = "");

  // Leave *value as it is where the key is absent.
  void Read(const char* key, int64_t* value);
  void Read(const char* key, double* value);
  void Read(const char* key, bool* value);
  void Read(const char* key, std::string* value);
  void Read(const char* key, std::vector<double>* value);
  void Read(const char* key, std::vector<int64_t>* value);
  void Read(const char* key, std::vector<std::string>* value);

  // The same, with absence a fault.
  template <typename Value>
  void Require(const char* key, Value* value) {
    if (Has(key)) {
      Read(key, value);
    } else {
      Fail(key, "nothing", "a value");
    }
  }

  bool Has(const char* key) const;  // present and not null
  // The value as it stands, marked as read; null where absent.
  const Json& At(const char* key);

  // Records "where: key: found X, expected Y", keeping an earlier fault. `remedy` may be empty.
  void Fail(absl::string_view key, absl::string_view found, absl::string_view expected,
            absl::string_view remedy = "");

  // Takes over the fault of a nested object's fields, keeping an earlier one.
  void Adopt(const absl::Status& status) { status_.Update(status); }

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

  // Keys that no call has named.
  std::vector<std::string> UnreadKeys() const;
  // A fault for the first key that no call has named, listing those that were.
  void RefuseUnread();

 private:
  const Json* Find(const char* key);
  template <typename Value, typename Test>
  void ReadArray(const char* key, std::vector<Value>* value, Test is_good, const char* expected);

  const Json& object_;
  std::string where_;
  std::string path_;
  std::set<std::string> named_;
  absl::Status status_;
};

}  // namespace salamander

#endif  // MODEL_CHECKPOINT_JSON_FIELDS_H_
