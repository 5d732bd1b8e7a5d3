#include "trainer/report/table.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace salamander {
namespace {

bool IsNumber(const std::string& text) {
  double value = 0.0;
  return absl::SimpleAtod(text, &value);
}

void AppendRow(const std::vector<std::string>& row, const std::vector<size_t>& widths,
               std::string& text) {
  std::string line;
  for (size_t column = 0; column < row.size(); ++column) {
    const std::string padding(widths[column] - row[column].size(), ' ');
    absl::StrAppend(&line, column == 0 ? "" : "  ", IsNumber(row[column]) ? padding : "",
                    row[column], IsNumber(row[column]) ? "" : padding);
  }
  absl::StrAppend(&text, absl::StripTrailingAsciiWhitespace(line), "\n");
}

}  // namespace

std::string Table::Text() const {
  std::vector<size_t> widths(header_.size());
  for (size_t column = 0; column < header_.size(); ++column) {
    widths[column] = header_[column].size();
    for (const auto& row : rows_) widths[column] = std::max(widths[column], row[column].size());
  }
  std::string text;
  AppendRow(header_, widths, text);
  for (const auto& row : rows_) AppendRow(row, widths, text);
  return text;
}

std::string Short(double value) {
  return absl::StrFormat("%.4g", value);
}

}  // namespace salamander
