#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

#include "kernels/base/status_macros.h"
#include "trainer/config/field_visitor.h"

namespace salamander {
namespace {

// Levenshtein distance, to suggest the key that was meant.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

// "; did you mean X?", where a word is near enough to be meant.
std::string Suggestion(absl::string_view word, const std::vector<std::string>& words) {
  constexpr size_t kLongestWord = 64;
  if (word.size() > kLongestWord) return "";
  const std::string* nearest = nullptr;
  size_t smallest = word.size() / 2 + 2;
  for (const std::string& candidate : words) {
    const size_t distance = EditDistance(word, candidate);
    if (distance < smallest) {
      smallest = distance;
      nearest = &candidate;
    }
  }
  return nearest == nullptr ? "" : absl::StrCat("; did you mean ", *nearest, "?");
}

const char* KindName(ConfigNode::Kind kind) {
  switch (kind) {
    case ConfigNode::Kind::kNull:
      return "nothing";
    case ConfigNode::Kind::kScalar:
      return "a single value";
    case ConfigNode::Kind::kList:
      return "a list";
    case ConfigNode::Kind::kMap:
      return "a section";
  }
  return "something";
}

absl::StatusOr<bool> ParseFlag(absl::string_view text) {
  for (const absl::string_view yes : {"true", "on", "yes"}) {
    if (text == yes) return true;
  }
  for (const absl::string_view no : {"false", "off", "no"}) {
    if (text == no) return false;
  }
  return absl::InvalidArgumentError(absl::StrCat(Shown(text), "; expected true or false"));
}

absl::StatusOr<double> ParseNumber(absl::string_view text) {
  double value = 0.0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
    return absl::InvalidArgumentError(absl::StrCat(Shown(text), "; expected a number"));
  }
  return value;
}

// One section of a document. Keeps the first error.
class FieldReader : public FieldVisitor {
 public:
  FieldReader(const ConfigNode& node, std::string path) : node_(node), path_(std::move(path)) {
    if (node.kind != ConfigNode::Kind::kMap && node.kind != ConfigNode::Kind::kNull) {
      Fail(node, path_, absl::StrCat(KindName(node.kind), "; expected a section of keys"));
    }
  }

  void Text(absl::string_view key, std::string& value, Need need) override {
    ReadScalar(key, need, [&](absl::string_view text) -> absl::Status {
      if (text.empty() && need == Need::kRequired)
        return absl::InvalidArgumentError("is empty; expected a name or a path");
      value = std::string(text);
      return absl::OkStatus();
    });
  }
  void Flag(absl::string_view key, bool& value) override {
    ReadScalar(key, Need::kOptional, [&](absl::string_view text) -> absl::Status {
      ASSIGN_OR_RETURN(value, ParseFlag(text));
      return absl::OkStatus();
    });
  }
  void Number(absl::string_view key, double& value, const NumberRange& range, Need need) override {
    ReadScalar(key, need, [&](absl::string_view text) -> absl::Status {
      ASSIGN_OR_RETURN(const double number, ParseNumber(text));
      if (number < range.low || number > range.high) {
        return absl::InvalidArgumentError(
            absl::StrCat(Shown(text), " is out of range; expected ", RangeText(range)));
      }
      value = number;
      return absl::OkStatus();
    });
  }
  void Integer(absl::string_view key, int64_t& value, Unit unit, int64_t least,
               Need need) override {
    ReadScalar(key, need, [&](absl::string_view text) -> absl::Status {
      ASSIGN_OR_RETURN(const int64_t number, ParseQuantity(text, unit));
      if (number < least)
        return absl::InvalidArgumentError(
            absl::StrCat(Shown(text), " is out of range; expected at least ", least));
      value = number;
      return absl::OkStatus();
    });
  }
  void Duration(absl::string_view key, double& seconds) override {
    ReadScalar(key, Need::kOptional, [&](absl::string_view text) -> absl::Status {
      ASSIGN_OR_RETURN(seconds, ParseDuration(text));
      return absl::OkStatus();
    });
  }
  void Choice(absl::string_view key, int& value, absl::Span<const absl::string_view> names,
              Need need) override {
    ReadScalar(key, need, [&](absl::string_view text) -> absl::Status {
      const auto found = std::find(names.begin(), names.end(), text);
      if (found == names.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat(Shown(text), "; expected ", absl::StrJoin(names, ", "),
                         Suggestion(text, {names.begin(), names.end()})));
      }
      value = static_cast<int>(found - names.begin());
      return absl::OkStatus();
    });
  }
  void Texts(absl::string_view key, std::vector<std::string>& values) override {
    ReadItems(key, values, [](absl::string_view text) -> absl::StatusOr<std::string> {
      return std::string(text);
    });
  }
  void Numbers(absl::string_view key, std::vector<double>& values) override {
    ReadItems(key, values, ParseNumber);
  }
  void Integers(absl::string_view key, std::vector<int64_t>& values, Unit unit) override {
    ReadItems(key, values, [unit](absl::string_view text) { return ParseQuantity(text, unit); });
  }
  void Weights(absl::string_view key, std::map<std::string, double>& values) override;
  void Section(absl::string_view key, const Visit& visit) override {
    if (const ConfigNode* node = Take(key, Need::kOptional)) ReadSection(*node, Path(key), visit);
  }
  void Sections(absl::string_view key, size_t count,
                const std::function<Visit(size_t)>& make) override;
  void NamedSections(absl::string_view key, const std::vector<std::string>& names,
                     const std::function<Visit(const std::string&)>& make) override;

  absl::Status Finish();

 private:
  static std::string RangeText(const NumberRange& range) {
    if (std::isinf(range.high)) return absl::StrCat("at least ", range.low);
    return absl::StrCat(range.low, " to ", range.high);
  }

  std::string Path(absl::string_view key) const {
    return path_.empty() ? std::string(key) : absl::StrCat(path_, ".", key);
  }

  void Fail(const ConfigNode& node, absl::string_view path, absl::string_view message) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat(node.place, " ", path, path.empty() ? "" : ": ", message));
  }

  const ConfigNode* Take(absl::string_view key, Need need) {
    known_.emplace_back(key);
    if (!status_.ok()) return nullptr;
    const ConfigNode* node = node_.Find(key);
    if (node == nullptr && need == Need::kRequired && missing_.empty()) missing_ = Path(key);
    return node;
  }

  template <typename Parse>
  void ReadScalar(absl::string_view key, Need need, const Parse& parse) {
    const ConfigNode* node = Take(key, need);
    if (node == nullptr) return;
    if (node->kind != ConfigNode::Kind::kScalar) {
      Fail(*node, Path(key), absl::StrCat(KindName(node->kind), "; expected a single value"));
      return;
    }
    const absl::Status status = parse(node->scalar);
    if (!status.ok()) Fail(*node, Path(key), status.message());
  }

  template <typename Value, typename Parse>
  void ReadItems(absl::string_view key, std::vector<Value>& values, const Parse& parse) {
    const ConfigNode* node = Take(key, Need::kOptional);
    if (node == nullptr) return;
    if (node->kind != ConfigNode::Kind::kList) {
      Fail(*node, Path(key), absl::StrCat(KindName(node->kind), "; expected a list"));
      return;
    }
    values.clear();
    for (size_t index = 0; index < node->items.size(); ++index) {
      const ConfigNode& item = node->items[index];
      const std::string path = absl::StrCat(Path(key), "[", index, "]");
      if (item.kind != ConfigNode::Kind::kScalar) {
        Fail(item, path, absl::StrCat(KindName(item.kind), "; expected a single value"));
        return;
      }
      const auto value = parse(absl::string_view(item.scalar));
      if (!value.ok()) {
        Fail(item, path, value.status().message());
        return;
      }
      values.push_back(*value);
    }
  }

  void ReadSection(const ConfigNode& node, const std::string& path, const Visit& visit) {
    FieldReader reader(node, path);
    visit(reader);
    const absl::Status status = reader.Finish();
    if (status_.ok()) status_ = status;
  }

  const ConfigNode& node_;
  std::string path_;
  std::vector<std::string> known_;
  std::string missing_;  // the first; told last, for a misspelt key says more
  absl::Status status_;
};

void FieldReader::Weights(absl::string_view key, std::map<std::string, double>& values) {
  const ConfigNode* node = Take(key, Need::kOptional);
  if (node == nullptr) return;
  if (node->kind != ConfigNode::Kind::kMap)
    return Fail(*node, Path(key), absl::StrCat(KindName(node->kind), "; expected name: number"));
  values.clear();
  for (const auto& [name, entry] : node->entries) {
    const auto number = ParseNumber(entry.scalar);
    if (entry.kind != ConfigNode::Kind::kScalar) {
      return Fail(entry, absl::StrCat(Path(key), ".", name),
                  absl::StrCat(KindName(entry.kind), "; expected a number"));
    }
    if (!number.ok())
      return Fail(entry, absl::StrCat(Path(key), ".", name), number.status().message());
    values[name] = *number;
  }
}

void FieldReader::Sections(absl::string_view key, size_t,
                           const std::function<Visit(size_t)>& make) {
  const ConfigNode* node = Take(key, Need::kOptional);
  if (node == nullptr) return;
  if (node->kind != ConfigNode::Kind::kList)
    return Fail(*node, Path(key), absl::StrCat(KindName(node->kind), "; expected a list"));
  for (size_t index = 0; index < node->items.size(); ++index) {
    ReadSection(node->items[index], absl::StrCat(Path(key), "[", index, "]"), make(index));
  }
}

void FieldReader::NamedSections(absl::string_view key, const std::vector<std::string>&,
                                const std::function<Visit(const std::string&)>& make) {
  const ConfigNode* node = Take(key, Need::kOptional);
  if (node == nullptr) return;
  if (node->kind != ConfigNode::Kind::kMap)
    return Fail(*node, Path(key), absl::StrCat(KindName(node->kind), "; expected named sections"));
  for (const auto& [name, entry] : node->entries)
    ReadSection(entry, absl::StrCat(Path(key), ".", name), make(name));
}

absl::Status FieldReader::Finish() {
  for (const auto& [key, value] : node_.entries) {
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) {
      Fail(value, Path(key),
           absl::StrCat("there is no such key; expected ", absl::StrJoin(known_, ", "),
                        Suggestion(key, known_)));
    }
  }
  if (!missing_.empty()) Fail(node_, missing_, "is missing; it has no default");
  return status_;
}

struct UnitTraits {
  int64_t thousand = 1;             // 1: takes no suffix
  absl::string_view suffixes = {};  // each a thousand times the one before
  int64_t most = std::numeric_limits<int64_t>::max();
  absl::string_view expected = {};
};

// The limits leave room for sums and products of two quantities.
UnitTraits TraitsOf(Unit unit) {
  switch (unit) {
    case Unit::kCount:
      return {.expected = "a whole number"};
    case Unit::kLength:
      return {.thousand = 1024,
              .suffixes = "KM",
              .most = int64_t{1} << 40,
              .expected = "a whole number of tokens, as 4096 or 4K (K = 1024)"};
    case Unit::kBudget:
      return {.thousand = 1000,
              .suffixes = "KMBT",
              .most = 1'000'000'000'000'000'000,
              .expected = "a whole number of tokens, as 300M or 1.5B (M = 10^6, B = 10^9)"};
  }
  return {};
}

}  // namespace

absl::StatusOr<int64_t> ParseQuantity(absl::string_view text, Unit unit) {
  const UnitTraits traits = TraitsOf(unit);
  const auto refused = [&] {
    return absl::InvalidArgumentError(absl::StrCat(Shown(text), "; expected ", traits.expected));
  };
  absl::string_view digits = text;
  int64_t factor = 1;
  if (const size_t suffix =
          text.empty() ? absl::string_view::npos : traits.suffixes.find(text.back());
      suffix != absl::string_view::npos) {
    for (size_t power = 0; power <= suffix; ++power) factor *= traits.thousand;
    digits.remove_suffix(1);
  }
  int64_t whole = 0;
  if (!absl::SimpleAtoi(digits, &whole)) {
    double number = 0.0;
    if (!absl::SimpleAtod(digits, &number) || !(std::abs(number) <= 9e18)) return refused();
    const double value = number * static_cast<double>(factor);
    const double nearest = std::round(value);
    // A decimal fraction such as 1006.6 has no exact double: allow for its rounding.
    if (std::abs(value - nearest) > std::abs(value) * 1e-15 || std::abs(value) > 9e18)
      return refused();
    whole = static_cast<int64_t>(nearest);
    factor = 1;
  }
  if (whole > traits.most / factor || whole < -(traits.most / factor)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(text), " is out of range; expected at most ", traits.most));
  }
  return whole * factor;
}

absl::StatusOr<double> ParseDuration(absl::string_view text) {
  constexpr double kLongest = 3.2e9;  // a century
  absl::string_view digits = text;
  const double factor = absl::ConsumeSuffix(&digits, "min") ? 60.0
                        : absl::ConsumeSuffix(&digits, "s") ? 1.0
                        : absl::ConsumeSuffix(&digits, "h") ? 3600.0
                                                            : 0.0;
  double number = 0.0;
  const bool is_number = absl::SimpleAtod(digits, &number) && number >= 0;
  if (!is_number || number * factor > kLongest || (factor == 0.0 && number != 0.0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(Shown(text), "; expected a duration, as 90s, 30min or 2h"));
  }
  return number * factor;
}

absl::Status ReadFields(const ConfigNode& node, const FieldVisitor::Visit& visit) {
  FieldReader reader(node, "");
  visit(reader);
  return reader.Finish();
}

}  // namespace salamander
