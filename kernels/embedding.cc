#include "kernels/embedding.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

void CheckShapes(const TensorView& tokens, const TensorView& table, const TensorView& rows) {
  SALAMANDER_CHECK(tokens.dtype() == DType::kInt32 && tokens.rank() == 1 && table.rank() == 2 &&
                   rows.dim(0) == tokens.dim(0) && rows.row_size() == table.dim(1))
      << "tokens " << tokens.ShapeString() << ", table " << table.ShapeString() << ", rows "
      << rows.ShapeString();
}

}  // namespace

absl::Status EmbeddingForward(const ExecutionContext& context, const EmbeddingForwardArgs& args) {
  CheckShapes(args.tokens, args.table, args.output);
  DISPATCH_BACKEND(EmbeddingForward, context, args);
}

absl::Status EmbeddingBackward(const ExecutionContext& context, const EmbeddingBackwardArgs& args) {
  CheckShapes(args.tokens, args.d_table, args.d_output);
  SALAMANDER_CHECK(args.d_table.dtype() == StatisticsType(args.d_output.dtype()))
      << "d_table " << args.d_table.ShapeString() << ", d_output " << args.d_output.ShapeString();
  DISPATCH_BACKEND(EmbeddingBackward, context, args);
}

}  // namespace salamander
