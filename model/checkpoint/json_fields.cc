#include "model/checkpoint/json_fields.h"

#include <cmath>
#include <limits>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace salamander {
namespace {

const Json kNull;

bool IsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    return value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }
  return value.is_number_integer();
}

bool IsFinite(const Json& value) {
  return value.is_number() && std::isfinite(value.get<double>());
}

// Thrown by the parser's callback and caught where the parser is called.
class RefusedJson : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Watches the parse for what the parser itself lets pass.
class ParseGuard {
 public:
  bool operator()(int depth, Json::parse_event_t event, Json& value) {
    constexpr int kDeepest = 64;
    if (depth > kDeepest) throw RefusedJson("is nested more than 64 deep");
    if (event == Json::parse_event_t::object_start) {
      keys_.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      keys_.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!keys_.back().insert(key).second) {
        throw RefusedJson(absl::StrCat("has the key \"", key.substr(0, 60), "\" twice"));
      }
    }
    return true;
  }

 private:
  std::vector<std::set<std::string>> keys_;
};

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view where, absl::string_view text) {
  try {
    return Json::parse(
        text.begin(), text.end(),
        [guard = ParseGuard()](int depth, Json::parse_event_t event, Json& value) mutable {
          return guard(depth, event, value);
        });
  } catch (const RefusedJson& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", error.what(), "; expected plain JSON"));
  } catch (const nlohmann::json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: ..."
    const std::string message = error.what();
    const size_t start = message.find("] ");
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": is not JSON: ", start == std::string::npos ? message : message.substr(start + 2),
        "; is the file damaged?"));
  }
}

std::string Describe(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_object()) return "an object";
  if (value.is_array()) return absl::StrCat("a list of ", value.size());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  constexpr size_t kLongest = 60;
  if (text.size() > kLongest) text = absl::StrCat(text.substr(0, kLongest), "...");
  return text;
}

JsonFields::JsonFields(const Json& object, absl::string_view where, absl::string_view path)
    : object_(object), where_(where), path_(path) {
  if (!object.is_object()) {
    const absl::string_view place = absl::StripSuffix(path_, ".");
    status_ = absl::InvalidArgumentError(
        absl::StrCat(where_, ": ", place, place.empty() ? "" : ": ", "found ", Describe(object),
                     ", expected a JSON object"));
  }
}

bool JsonFields::Has(const char* key) const {
  if (!object_.is_object()) return false;
  const auto found = object_.find(key);
  return found != object_.end() && !found->is_null();
}

const Json& JsonFields::At(const char* key) {
  named_.insert(key);
  return Has(key) ? *object_.find(key) : kNull;
}

const Json* JsonFields::Find(const char* key) {
  const Json& value = At(key);
  return ok() && !value.is_null() ? &value : nullptr;
}

void JsonFields::Fail(absl::string_view key, absl::string_view found, absl::string_view expected,
                      absl::string_view remedy) {
  if (!ok()) return;
  status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", path_, key, ": found ", found,
                                                    ", expected ", expected,
                                                    remedy.empty() ? "" : "; ", remedy));
}

void JsonFields::Read(const char* key, int64_t* value) {
  const Json* const found = Find(key);
  if (found == nullptr) return;
  if (!IsInteger(*found)) return Fail(key, Describe(*found), "an integer");
  *value = found->get<int64_t>();
}

void JsonFields::Read(const char* key, double* value) {
  const Json* const found = Find(key);
  if (found == nullptr) return;
  if (!IsFinite(*found)) return Fail(key, Describe(*found), "a finite number");
  *value = found->get<double>();
}

void JsonFields::Read(const char* key, bool* value) {
  const Json* const found = Find(key);
  if (found == nullptr) return;
  if (!found->is_boolean()) return Fail(key, Describe(*found), "true or false");
  *value = found->get<bool>();
}

void JsonFields::Read(const char* key, std::string* value) {
  const Json* const found = Find(key);
  if (found == nullptr) return;
  if (!found->is_string()) return Fail(key, Describe(*found), "a string");
  *value = found->get<std::string>();
}

template <typename Value, typename Test>
void JsonFields::ReadArray(const char* key, std::vector<Value>* value, Test is_good,
                           const char* expected) {
  const Json* const found = Find(key);
  if (found == nullptr) return;
  if (!found->is_array()) return Fail(key, Describe(*found), expected);
  std::vector<Value> result;
  for (const Json& entry : *found) {
    if (!is_good(entry)) {
      return Fail(absl::StrCat(key, "[", result.size(), "]"), Describe(entry), expected);
    }
    result.push_back(entry.get<Value>());
  }
  *value = std::move(result);
}

void JsonFields::Read(const char* key, std::vector<double>* value) {
  ReadArray(key, value, IsFinite, "a list of finite numbers");
}

void JsonFields::Read(const char* key, std::vector<int64_t>* value) {
  ReadArray(key, value, IsInteger, "a list of integers");
}

void JsonFields::Read(const char* key, std::vector<std::string>* value) {
  ReadArray(
      key, value, [](const Json& entry) { return entry.is_string(); }, "a list of strings");
}

std::vector<std::string> JsonFields::UnreadKeys() const {
  std::vector<std::string> keys;
  if (!object_.is_object()) return keys;
  for (const auto& [key, value] : object_.items()) {
    if (named_.count(key) == 0) keys.push_back(key);
  }
  return keys;
}

void JsonFields::RefuseUnread() {
  if (!ok()) return;
  const std::vector<std::string> keys = UnreadKeys();
  if (keys.empty()) return;
  Fail(keys.front(), "an unknown key", absl::StrCat("one of ", absl::StrJoin(named_, ", ")));
}

}  // namespace salamander
