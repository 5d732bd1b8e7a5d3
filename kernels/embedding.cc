#include "kernels/embedding.h"

#include "kernels/dispatch.h"

namespace salamander {
namespace {

void CheckShapes(const TensorView& tokens, const TensorView& table, const TensorView& rows,
                 const EmbeddingPart& part) {
  SALAMANDER_CHECK(tokens.dtype() == DType::kInt32 && tokens.rank() == 1 && table.rank() == 2 &&
                   rows.dim(0) == tokens.dim(0) && rows.row_size() == table.dim(1))
      << "tokens " << tokens.ShapeString() << ", table " << table.ShapeString() << ", rows "
      << rows.ShapeString();
  SALAMANDER_CHECK(part.first_token >= 0 &&
                   part.first_token + table.dim(0) <= WholeVocabulary(part, table))
      << "table " << table.ShapeString() << " from token " << part.first_token << " on, of "
      << part.vocabulary;
}

}  // namespace

absl::Status EmbeddingForward(const ExecutionContext& context, const EmbeddingForwardArgs& args) {
  CheckShapes(args.tokens, args.table, args.output, args.part);
  DISPATCH_BACKEND(EmbeddingForward, context, args);
}

absl::Status EmbeddingBackward(const ExecutionContext& context, const EmbeddingBackwardArgs& args) {
  CheckShapes(args.tokens, args.d_table, args.d_output, args.part);
  SALAMANDER_CHECK(args.d_table.dtype() == StatisticsType(args.d_output.dtype()))
      << "d_table " << args.d_table.ShapeString() << ", d_output " << args.d_output.ShapeString();
  DISPATCH_BACKEND(EmbeddingBackward, context, args);
}

}  // namespace salamander
