#include "model/conversion/layer_scores.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/types/optional.h"

#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

using Fields = std::vector<absl::string_view>;

Fields SplitLine(absl::string_view line) {
  Fields fields = absl::StrSplit(line, ',');
  for (absl::string_view& field : fields) field = absl::StripAsciiWhitespace(field);
  return fields;
}

absl::StatusOr<std::vector<size_t>> FindColumns(const Fields& header,
                                                const std::vector<std::string>& names) {
  std::vector<size_t> columns;
  for (const std::string& name : names) {
    const auto found = std::find(header.begin(), header.end(), name);
    if (found == header.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line 1: there is no column '", name, "'; the table has ", absl::StrJoin(header, ", ")));
    }
    columns.push_back(static_cast<size_t>(found - header.begin()));
  }
  if (columns.empty())
    return absl::InvalidArgumentError("name at least one recall and one common-sense column");
  return columns;
}

absl::StatusOr<double> Mean(const Fields& fields, const std::vector<size_t>& columns, size_t line) {
  double sum = 0.0;
  for (const size_t column : columns) {
    double value = 0.0;
    if (!absl::SimpleAtod(fields[column], &value) || !std::isfinite(value)) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line, ": column ", column + 1,
                                                     " holds '", fields[column],
                                                     "'; expected a finite number"));
    }
    sum += value;
  }
  return sum / static_cast<double>(columns.size());
}

struct Row {
  int64_t layer;
  LayerAbility ability;
};

absl::StatusOr<ScoreTable> Assemble(const std::vector<Row>& rows, int64_t expected_layers) {
  const auto layers = expected_layers > 0 ? expected_layers : static_cast<int64_t>(rows.size());
  std::vector<absl::optional<LayerAbility>> found(static_cast<size_t>(layers));
  for (const Row& row : rows) {
    if (row.layer < 0 || row.layer >= layers) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", row.layer, " is outside 0..", layers - 1,
                       "; a layer is missing or the table is another model's"));
    }
    auto& slot = found[static_cast<size_t>(row.layer)];
    if (slot.has_value())
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", row.layer, " stands in the table twice; keep one row a layer"));
    slot = row.ability;
  }
  ScoreTable table;
  for (size_t layer = 0; layer < found.size(); ++layer) {
    if (!found[layer].has_value())
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " is missing; score all ", layers, " layers"));
    table.push_back(*found[layer]);
  }
  return table;
}

LayerAbility Best(const ScoreTable& table) {
  LayerAbility best = table.front();
  for (const LayerAbility& row : table) {
    best.recall = std::max(best.recall, row.recall);
    best.common = std::max(best.common, row.common);
  }
  return best;
}

class HaloRatio : public LayerScorer {
 public:
  explicit HaloRatio(const HaloRatioOptions& options) : options_(options) {}
  std::string name() const override { return "halo_ratio"; }
  absl::StatusOr<std::vector<double>> Score(const ScoreTable& table) const override {
    RETURN_IF_ERROR(ValidateScoreTable(table));
    const LayerAbility best = Best(table);
    std::vector<double> scores;
    for (const LayerAbility& row : table) {
      const double ratio =
          (best.recall - row.recall) / (best.common - row.common + options_.epsilon);
      scores.push_back(std::min(options_.cap, ratio));
    }
    return scores;
  }

 private:
  HaloRatioOptions options_;
};

class RecallDrop : public LayerScorer {
 public:
  std::string name() const override { return "recall_drop"; }
  absl::StatusOr<std::vector<double>> Score(const ScoreTable& table) const override {
    RETURN_IF_ERROR(ValidateScoreTable(table));
    const LayerAbility best = Best(table);
    std::vector<double> scores;
    for (const LayerAbility& row : table) scores.push_back(best.recall - row.recall);
    return scores;
  }
};

absl::StatusOr<std::set<int64_t>> ForcedLayers(int64_t layers, const SelectionOptions& options) {
  std::set<int64_t> forced;
  if (options.force_first) forced.insert(0);
  if (options.force_last) forced.insert(layers - 1);
  const auto fewest = std::max<int64_t>(1, static_cast<int64_t>(forced.size()));
  if (options.keep_count < fewest || options.keep_count > layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot keep ", options.keep_count, " of ", layers, " layers with ",
                     forced.size(), " forced; keep between ", fewest, " and ", layers));
  }
  return forced;
}

}  // namespace

absl::StatusOr<ScoreTable> ParseScoreTable(absl::string_view csv, const ScoreColumns& columns,
                                           int64_t expected_layers) {
  const std::vector<absl::string_view> lines = absl::StrSplit(csv, '\n');
  const Fields header = SplitLine(lines.front());
  ASSIGN_OR_RETURN(const std::vector<size_t> layer_column, FindColumns(header, {"layer"}));
  ASSIGN_OR_RETURN(const std::vector<size_t> recall, FindColumns(header, columns.recall));
  ASSIGN_OR_RETURN(const std::vector<size_t> common, FindColumns(header, columns.common));
  std::vector<Row> rows;
  for (size_t line = 1; line < lines.size(); ++line) {
    if (absl::StripAsciiWhitespace(lines[line]).empty()) continue;
    const Fields fields = SplitLine(lines[line]);
    if (fields.size() != header.size()) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line + 1, ": ", fields.size(),
                                                     " fields; the header has ", header.size()));
    }
    Row row{};
    if (!absl::SimpleAtoi(fields[layer_column.front()], &row.layer)) {
      return absl::InvalidArgumentError(absl::StrCat("line ", line + 1, ": layer is '",
                                                     fields[layer_column.front()],
                                                     "'; expected a layer index"));
    }
    ASSIGN_OR_RETURN(row.ability.recall, Mean(fields, recall, line + 1));
    ASSIGN_OR_RETURN(row.ability.common, Mean(fields, common, line + 1));
    rows.push_back(row);
  }
  if (rows.empty())
    return absl::InvalidArgumentError("the score table has no rows; expected one a layer");
  return Assemble(rows, expected_layers);
}

absl::Status ValidateScoreTable(const ScoreTable& table) {
  if (table.empty())
    return absl::InvalidArgumentError("the score table is empty; expected a row for each layer");
  for (size_t layer = 0; layer < table.size(); ++layer) {
    if (!std::isfinite(table[layer].recall) || !std::isfinite(table[layer].common)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the score of layer ", layer, " is not finite; measure it again"));
    }
  }
  return absl::OkStatus();
}

std::unique_ptr<LayerScorer> HaloRatioScorer(const HaloRatioOptions& options) {
  return std::make_unique<HaloRatio>(options);
}

std::unique_ptr<LayerScorer> RecallDropScorer() {
  return std::make_unique<RecallDrop>();
}

absl::StatusOr<std::vector<int64_t>> SelectLayers(absl::Span<const double> scores,
                                                  const SelectionOptions& options) {
  const auto layers = static_cast<int64_t>(scores.size());
  ASSIGN_OR_RETURN(std::set<int64_t> kept, ForcedLayers(layers, options));
  std::vector<int64_t> ranked(scores.size());
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](int64_t a, int64_t b) {
    return scores[static_cast<size_t>(a)] > scores[static_cast<size_t>(b)];
  });
  for (const int64_t layer : ranked) {
    if (static_cast<int64_t>(kept.size()) < options.keep_count) kept.insert(layer);
  }
  return std::vector<int64_t>(kept.begin(), kept.end());
}

absl::StatusOr<std::vector<int64_t>> UniformLayers(int64_t layers,
                                                   const SelectionOptions& options) {
  RETURN_IF_ERROR(ForcedLayers(layers, options).status());
  if (options.keep_count == 1 && options.force_last) return std::vector<int64_t>{layers - 1};
  std::vector<int64_t> kept;
  const auto count = static_cast<double>(options.keep_count);
  for (int64_t index = 0; index < options.keep_count; ++index) {
    const double spacing = options.force_last ? static_cast<double>(layers - 1) / (count - 1.0)
                                              : static_cast<double>(layers) / count;
    kept.push_back(std::llround(std::floor(static_cast<double>(index) * spacing + 1e-9)));
  }
  return kept;
}

}  // namespace salamander
