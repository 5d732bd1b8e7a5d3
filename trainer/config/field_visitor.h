// One description of each section serves reading, writing and comparing: a function walks the
// section's fields in order and hands each to a visitor. Readers fill it strictly, the writer
// prints it, the flattener lists it as path = value.
#ifndef TRAINER_CONFIG_FIELD_VISITOR_H_
#define TRAINER_CONFIG_FIELD_VISITOR_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

#include "trainer/config/config_node.h"

namespace salamander {

// What a number counts: lengths and batches in tokens take K = 1024, M = 1024^2; budgets take K, M,
// B, T = 10^3, 10^6, 10^9, 10^12.
enum class Unit { kCount, kLength, kBudget };

enum class Need { kOptional, kRequired };

struct NumberRange {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
};

class FieldVisitor {
 public:
  using Visit = std::function<void(FieldVisitor&)>;

  virtual ~FieldVisitor() = default;

  virtual void Text(absl::string_view key, std::string& value, Need need) = 0;
  virtual void Flag(absl::string_view key, bool& value) = 0;
  virtual void Number(absl::string_view key, double& value, const NumberRange& range,
                      Need need) = 0;
  virtual void Integer(absl::string_view key, int64_t& value, Unit unit, int64_t least,
                       Need need) = 0;
  // Seconds, written with their unit: 90s, 30min, 2h.
  virtual void Duration(absl::string_view key, double& seconds) = 0;
  virtual void Choice(absl::string_view key, int& value, absl::Span<const absl::string_view> names,
                      Need need) = 0;
  virtual void Texts(absl::string_view key, std::vector<std::string>& values) = 0;
  virtual void Numbers(absl::string_view key, std::vector<double>& values) = 0;
  virtual void Integers(absl::string_view key, std::vector<int64_t>& values, Unit unit) = 0;
  virtual void Weights(absl::string_view key, std::map<std::string, double>& values) = 0;
  virtual void Section(absl::string_view key, const Visit& visit) = 0;
  // `make(i)` is called for item i of a list in order and returns how to visit it; `count` is how
  // many there are now.
  virtual void Sections(absl::string_view key, size_t count,
                        const std::function<Visit(size_t)>& make) = 0;
  virtual void NamedSections(absl::string_view key, const std::vector<std::string>& names,
                             const std::function<Visit(const std::string&)>& make) = 0;

  // Sections that are structs with a `Visit(FieldVisitor&, T&)` of their own.
  template <typename Struct>
  void List(absl::string_view key, std::vector<Struct>& items,
            void (*visit)(FieldVisitor&, Struct&)) {
    Sections(key, items.size(), [&items, visit](size_t index) {
      if (index >= items.size()) items.resize(index + 1);
      return [&items, visit, index](FieldVisitor& visitor) { visit(visitor, items[index]); };
    });
  }
  template <typename Struct>
  void Map(absl::string_view key, std::map<std::string, Struct>& items,
           void (*visit)(FieldVisitor&, Struct&)) {
    std::vector<std::string> names;
    for (const auto& [name, item] : items) names.push_back(name);
    NamedSections(key, names, [&items, visit](const std::string& name) {
      return [&items, visit, name](FieldVisitor& visitor) { visit(visitor, items[name]); };
    });
  }
  template <typename Enum>
  void Choice(absl::string_view key, Enum& value, absl::Span<const absl::string_view> names,
              Need need = Need::kOptional) {
    int index = static_cast<int>(value);
    Choice(key, index, names, need);
    value = static_cast<Enum>(index);
  }
};

// Fills a section from YAML. Unknown key, wrong type, impossible number, missing required key: each
// an error of the form "file:line path: found; expected". Fields that the document leaves out keep
// their defaults.
absl::Status ReadFields(const ConfigNode& node, const FieldVisitor::Visit& visit);

// The section as YAML, every field, in the order of the description. Reading it gives the same
// values.
std::string WriteFields(const FieldVisitor::Visit& visit);

// Every field as (path, value), in order: "stages[1].peak_lr", "0.0001".
std::vector<std::pair<std::string, std::string>> FlattenFields(const FieldVisitor::Visit& visit);

// A count with an optional unit, "4K", "1.5B". Fails on what is not one, is not whole, or is beyond
// 2^40 (lengths) or 10^18 (budgets).
absl::StatusOr<int64_t> ParseQuantity(absl::string_view text, Unit unit);

// "90s", "1.5min", "2h" or "0" as seconds.
absl::StatusOr<double> ParseDuration(absl::string_view text);

}  // namespace salamander

#endif  // TRAINER_CONFIG_FIELD_VISITOR_H_
