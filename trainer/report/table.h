// A text table with aligned columns: words to the left, numbers to the right.
#ifndef TRAINER_REPORT_TABLE_H_
#define TRAINER_REPORT_TABLE_H_

#include <string>
#include <vector>

namespace salamander {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : header_(std::move(header)) {}
  void AddRow(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string Text() const;  // one line a row, the header first

 private:
  std::vector<std::string> header_;
  std::vector<std::vector<std::string>> rows_;
};

// Four significant digits.
std::string Short(double value);

}  // namespace salamander

#endif  // TRAINER_REPORT_TABLE_H_
