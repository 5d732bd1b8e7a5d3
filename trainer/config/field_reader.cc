#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

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

std::string Nearest(absl::string_view word, const std::vector<std::string>& words) {
  const auto nearest =
      std::min_element(words.begin(), words.end(), [&](const std::string& a, const std::string& b) {
        return EditDistance(word, a) < EditDistance(word, b);
      });
  return nearest == words.end() ? "" : *nearest;
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
  return absl::InvalidArgumentError(absl::StrCat("'", text, "'; expected true or false"));
}

absl::StatusOr<double> ParseNumber(absl::string_view text) {
  double value = 0.0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "'; expected a number"));
  }
  return value;
}

// One section of a document. Keeps the first error.
class FieldReader : public FieldVisitor {
 public:
  FieldReader(const ConfigNode& node, std::string file, std::string path)
      : node_(node), file_(std::move(file)), path_(std::move(path)) {
    if (node.kind != ConfigNode::Kind::kMap && node.kind != ConfigNode::Kind::kNull) {
      Fail(node, path_, absl::StrCat(KindName(node.kind), "; expected a section of keys"));
    }
  }

  void Text(absl::string_view key, std::string& value, Need need) override {
    ReadScalar(key, need, [&](absl::string_view text) {
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
            absl::StrCat(text, " is out of range; expected ", RangeText(range)));
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
            absl::StrCat(text, " is out of range; expected at least ", least));
      value = number;
      return absl::OkStatus();
    });
  }
  void Choice(absl::string_view key, int& value, absl::Span<const absl::string_view> names,
              Need need) override {
    ReadScalar(key, need, [&](absl::string_view text) -> absl::Status {
      const auto found = std::find(names.begin(), names.end(), text);
      if (found == names.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("'", text, "'; expected ", absl::StrJoin(names, ", "), "; did you mean ",
                         Nearest(text, {names.begin(), names.end()}), "?"));
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
        absl::StrCat(file_, ":", node.line, " ", path, path.empty() ? "" : ": ", message));
  }

  const ConfigNode* Take(absl::string_view key, Need need) {
    known_.emplace_back(key);
    if (!status_.ok()) return nullptr;
    const ConfigNode* node = node_.Find(key);
    if (node == nullptr && need == Need::kRequired)
      Fail(node_, Path(key), "is missing; it has no default");
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
    for (const ConfigNode& item : node->items) {
      const auto value = parse(absl::string_view(item.scalar));
      if (item.kind != ConfigNode::Kind::kScalar || !value.ok()) {
        Fail(item, Path(key),
             value.ok() ? "a list item is not a single value" : value.status().message());
        return;
      }
      values.push_back(*value);
    }
  }

  void ReadSection(const ConfigNode& node, const std::string& path, const Visit& visit) {
    FieldReader reader(node, file_, path);
    visit(reader);
    const absl::Status status = reader.Finish();
    if (status_.ok()) status_ = status;
  }

  const ConfigNode& node_;
  std::string file_;
  std::string path_;
  std::vector<std::string> known_;
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
           absl::StrCat("there is no such key; did you mean ", Nearest(key, known_), "?"));
    }
  }
  return status_;
}

double UnitFactor(char suffix, Unit unit) {
  const double thousand = unit == Unit::kBudget ? 1000.0 : 1024.0;
  switch (suffix) {
    case 'K':
      return thousand;
    case 'M':
      return thousand * thousand;
    case 'B':
      return unit == Unit::kBudget ? 1e9 : 0.0;
    case 'T':
      return unit == Unit::kBudget ? 1e12 : 0.0;
    default:
      return 0.0;
  }
}

}  // namespace

absl::StatusOr<int64_t> ParseQuantity(absl::string_view text, Unit unit) {
  const char* const expected = unit == Unit::kCount ? "a whole number"
                               : unit == Unit::kLength
                                   ? "a whole number of tokens, as 4096 or 4K (1024 each)"
                                   : "a whole number of tokens, as 300M or 1.5B (10^6, 10^9)";
  absl::string_view digits = text;
  double factor = 1.0;
  if (unit != Unit::kCount && !text.empty() && UnitFactor(text.back(), unit) > 0) {
    factor = UnitFactor(text.back(), unit);
    digits.remove_suffix(1);
  }
  double number = 0.0;
  const bool is_number = absl::SimpleAtod(digits, &number) && std::isfinite(number);
  const double value = number * factor;
  if (!is_number || std::abs(value) > 9e18 || value != std::floor(value)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "'; expected ", expected));
  }
  return static_cast<int64_t>(value);
}

absl::Status ReadFields(const ConfigNode& node, const std::string& file,
                        const FieldVisitor::Visit& visit) {
  FieldReader reader(node, file, "");
  visit(reader);
  return reader.Finish();
}

}  // namespace salamander
