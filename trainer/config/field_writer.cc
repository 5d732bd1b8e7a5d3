#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

#include "trainer/config/field_visitor.h"

namespace salamander {
namespace {

// The shortest text that reads back as the same double.
std::string NumberText(double value) {
  for (int digits = 6; digits < 17; ++digits) {
    const std::string text = absl::StrFormat("%.*g", digits, value);
    double read = 0.0;
    if (absl::SimpleAtod(text, &read) && read == value) return text;
  }
  return absl::StrFormat("%.17g", value);
}

// Double quotes with YAML's escapes; text beyond ASCII stands as it is.
std::string Quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7F) {
      absl::StrAppend(&quoted, "\\x", absl::Hex(byte, absl::kZeroPad2));
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// Lists every field as (path, value); a nested section goes on under its path.
class Flattener : public FieldVisitor {
 public:
  using Flat = std::vector<std::pair<std::string, std::string>>;
  Flattener(std::string prefix, Flat& flat) : prefix_(std::move(prefix)), flat_(flat) {}

  void Text(absl::string_view key, std::string& value, Need) override { Add(key, Quoted(value)); }
  void Flag(absl::string_view key, bool& value) override { Add(key, value ? "true" : "false"); }
  void Number(absl::string_view key, double& value, const NumberRange&, Need) override {
    Add(key, NumberText(value));
  }
  void Integer(absl::string_view key, int64_t& value, Unit, int64_t, Need) override {
    Add(key, absl::StrCat(value));
  }
  void Duration(absl::string_view key, double& seconds) override {
    Add(key, absl::StrCat(NumberText(seconds), "s"));
  }
  void Choice(absl::string_view key, int& value, absl::Span<const absl::string_view> names,
              Need) override {
    Add(key, std::string(names[static_cast<size_t>(value)]));
  }
  void Texts(absl::string_view key, std::vector<std::string>& values) override {
    AddList(key, values, [](const std::string& value) { return Quoted(value); });
  }
  void Numbers(absl::string_view key, std::vector<double>& values) override {
    AddList(key, values, NumberText);
  }
  void Integers(absl::string_view key, std::vector<int64_t>& values, Unit) override {
    AddList(key, values, [](int64_t value) { return absl::StrCat(value); });
  }
  void Weights(absl::string_view key, std::map<std::string, double>& values) override {
    std::vector<std::string> texts;
    for (const auto& [name, value] : values)
      texts.push_back(absl::StrCat(Quoted(name), ": ", NumberText(value)));
    Add(key, absl::StrCat("{", absl::StrJoin(texts, ", "), "}"));
  }
  void Section(absl::string_view key, const Visit& visit) override { Nest(key, visit); }
  void Sections(absl::string_view key, size_t count,
                const std::function<Visit(size_t)>& make) override {
    for (size_t index = 0; index < count; ++index)
      Nest(absl::StrCat(key, "[", index, "]"), make(index));
  }
  void NamedSections(absl::string_view key, const std::vector<std::string>& names,
                     const std::function<Visit(const std::string&)>& make) override {
    for (const std::string& name : names) Nest(absl::StrCat(key, ".", name), make(name));
  }

 private:
  void Add(absl::string_view key, std::string value) {
    flat_.emplace_back(absl::StrCat(prefix_, key), std::move(value));
  }

  template <typename Values, typename ToText>
  void AddList(absl::string_view key, const Values& values, const ToText& to_text) {
    std::vector<std::string> texts;
    for (const auto& value : values) texts.push_back(to_text(value));
    Add(key, absl::StrCat("[", absl::StrJoin(texts, ", "), "]"));
  }

  void Nest(absl::string_view key, const Visit& visit) {
    Flattener nested(absl::StrCat(prefix_, key, "."), flat_);
    visit(nested);
  }

  std::string prefix_;
  Flat& flat_;
};

// Writes scalars and lists as the flattener does, sections by indentation.
class FieldWriter : public FieldVisitor {
 public:
  FieldWriter(std::string first_indent, std::string indent, std::string& text)
      : next_indent_(std::move(first_indent)), indent_(std::move(indent)), text_(text) {}

  void Text(absl::string_view key, std::string& value, Need need) override {
    Leaf([&](FieldVisitor& v) { v.Text(key, value, need); });
  }
  void Flag(absl::string_view key, bool& value) override {
    Leaf([&](FieldVisitor& v) { v.Flag(key, value); });
  }
  void Number(absl::string_view key, double& value, const NumberRange& range, Need need) override {
    Leaf([&](FieldVisitor& v) { v.Number(key, value, range, need); });
  }
  void Integer(absl::string_view key, int64_t& value, Unit unit, int64_t least,
               Need need) override {
    Leaf([&](FieldVisitor& v) { v.Integer(key, value, unit, least, need); });
  }
  void Duration(absl::string_view key, double& seconds) override {
    Leaf([&](FieldVisitor& v) { v.Duration(key, seconds); });
  }
  void Choice(absl::string_view key, int& value, absl::Span<const absl::string_view> names,
              Need need) override {
    Leaf([&](FieldVisitor& v) { v.Choice(key, value, names, need); });
  }
  void Texts(absl::string_view key, std::vector<std::string>& values) override {
    Leaf([&](FieldVisitor& v) { v.Texts(key, values); });
  }
  void Numbers(absl::string_view key, std::vector<double>& values) override {
    Leaf([&](FieldVisitor& v) { v.Numbers(key, values); });
  }
  void Integers(absl::string_view key, std::vector<int64_t>& values, Unit unit) override {
    Leaf([&](FieldVisitor& v) { v.Integers(key, values, unit); });
  }
  void Weights(absl::string_view key, std::map<std::string, double>& values) override {
    Leaf([&](FieldVisitor& v) { v.Weights(key, values); });
  }
  void Section(absl::string_view key, const Visit& visit) override {
    Line(absl::StrCat(key, ":"));
    FieldWriter nested(indent_ + "  ", indent_ + "  ", text_);
    visit(nested);
  }
  void Sections(absl::string_view key, size_t count,
                const std::function<Visit(size_t)>& make) override {
    Line(absl::StrCat(key, count == 0 ? ": []" : ":"));
    for (size_t index = 0; index < count; ++index) {
      FieldWriter nested(indent_ + "  - ", indent_ + "    ", text_);
      make(index)(nested);
    }
  }
  void NamedSections(absl::string_view key, const std::vector<std::string>& names,
                     const std::function<Visit(const std::string&)>& make) override {
    Line(absl::StrCat(key, names.empty() ? ": {}" : ":"));
    for (const std::string& name : names) {
      absl::StrAppend(&text_, indent_, "  ", Quoted(name), ":\n");
      FieldWriter nested(indent_ + "    ", indent_ + "    ", text_);
      make(name)(nested);
    }
  }

 private:
  void Line(absl::string_view line) {
    absl::StrAppend(&text_, next_indent_, line, "\n");
    next_indent_ = indent_;
  }

  void Leaf(const Visit& visit) {
    Flattener::Flat flat;
    Flattener flattener("", flat);
    visit(flattener);
    Line(absl::StrCat(flat.front().first, ": ", flat.front().second));
  }

  std::string next_indent_;  // of the next line: the first of a list item carries its dash
  std::string indent_;
  std::string& text_;
};

}  // namespace

std::string WriteFields(const FieldVisitor::Visit& visit) {
  std::string text;
  FieldWriter writer("", "", text);
  visit(writer);
  return text;
}

std::vector<std::pair<std::string, std::string>> FlattenFields(const FieldVisitor::Visit& visit) {
  Flattener::Flat flat;
  Flattener flattener("", flat);
  visit(flattener);
  return flat;
}

}  // namespace salamander
