#include "model/checkpoint/parameter_runs.h"

#include <algorithm>

#include "kernels/base/status_macros.h"

namespace salamander {

std::vector<Rectangle> RectanglesOf(const ParameterSpec& spec, int64_t begin, int64_t count) {
  const int64_t width = spec.shape.size() == 1 ? 1 : spec.shape[1];
  const int64_t row_begin = spec.split_axis == 0 ? spec.split_begin : 0;
  const int64_t column_begin = spec.split_axis == 1 ? spec.split_begin : 0;
  std::vector<Rectangle> rectangles;
  while (count > 0) {
    const int64_t column = begin % width;
    const bool is_whole_rows = column == 0 && count >= width;
    const Rectangle next{.row_begin = row_begin + begin / width,
                         .rows = is_whole_rows ? count / width : 1,
                         .column_begin = column_begin + column,
                         .columns = is_whole_rows ? width : std::min(count, width - column)};
    begin += next.rows * next.columns;
    count -= next.rows * next.columns;
    rectangles.push_back(next);
  }
  return rectangles;
}

std::vector<TensorPiece> PiecesOfRun(const std::string& name, const ParameterSpec& spec,
                                     int64_t begin, const TensorView& values) {
  std::vector<TensorPiece> pieces;
  int64_t taken = 0;
  for (const Rectangle& place : RectanglesOf(spec, begin, values.size())) {
    const int64_t size = place.rows * place.columns;
    pieces.push_back({.name = name,
                      .shape = spec.whole_shape,
                      .row_begin = place.row_begin,
                      .rows = values.Rows(taken, size).Reshape({place.rows, place.columns}),
                      .column_begin = place.column_begin});
    taken += size;
  }
  return pieces;
}

absl::Status ReadRun(const Checkpoint& checkpoint, const std::string& name,
                     const ParameterSpec& spec, int64_t begin, const TensorView& values) {
  int64_t taken = 0;
  for (const Rectangle& place : RectanglesOf(spec, begin, values.size())) {
    const int64_t size = place.rows * place.columns;
    RETURN_IF_ERROR(checkpoint.ReadPart(name, spec.whole_shape, place, values.Rows(taken, size)));
    taken += size;
  }
  return absl::OkStatus();
}

}  // namespace salamander
