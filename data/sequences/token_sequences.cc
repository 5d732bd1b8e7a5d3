#include "data/sequences/token_sequences.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

absl::Status CheckLength(int64_t sequence_length) {
  if (sequence_length >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sequence length ", sequence_length, "; expected 1 or more"));
}

// A position comes from a checkpoint, and the file may have been exchanged since.
absl::Status CheckPosition(const SourcePosition& start, const DocumentOrder& order) {
  if (start.next_document < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the position's next document is ", start.next_document));
  }
  for (const DocumentPiece& piece : start.pending) {
    const int64_t length = piece.number < 0 ? 0 : order.Length(piece.number);
    if (piece.begin < 0 || piece.count < 1 || piece.count > length - piece.begin) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the position holds tokens ", piece.begin, " to ", piece.begin + piece.count,
          " of document ", piece.number, ", which has ", length,
          "; the file, its held-out fraction or the seed is not the one the run began with"));
    }
  }
  return absl::OkStatus();
}

int32_t PaddingToken(const TokenFileReader& file) {
  return std::max(file.info().eos_id, 0);
}

}  // namespace

absl::Status AppendDocumentPiece(const TokenFileReader& file, const DocumentOrder& order,
                                 const DocumentPiece& piece, PackedStream* stream) {
  const int64_t document = order.FileDocument(piece.number);
  const int64_t document_begin = file.document_offsets()[document];
  const int64_t document_end = file.document_offsets()[document + 1];
  const int64_t begin = document_begin + piece.begin;
  const bool ends_document = begin + piece.count == document_end;

  // One token more than the piece, where the document has it.
  std::vector<int32_t> tokens(piece.count + (ends_document ? 0 : 1));
  RETURN_IF_ERROR(file.ReadTokens(begin, absl::MakeSpan(tokens)));
  std::vector<float> weights;
  if (file.info().has_loss_mask) {
    weights.resize(tokens.size());
    RETURN_IF_ERROR(file.ReadLossMask(begin, absl::MakeSpan(weights)));
    weights.erase(weights.begin());  // the weight of a position is that of its target
    weights.resize(piece.count);
  }
  const int32_t following = ends_document ? -1 : tokens.back();
  AppendPiece(absl::MakeConstSpan(tokens).subspan(0, piece.count), following, weights, stream);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TokenSequences>> TokenSequences::Create(
    std::shared_ptr<const TokenFileReader> file, const TokenSequencesOptions& options) {
  RETURN_IF_ERROR(Annotate(CheckLength(options.sequence_length), file->path()));
  const DocumentOrderOptions order_options = {.split = options.split,
                                              .part = DataSplit::kTraining,
                                              .seed = options.seed,
                                              .lane = options.lane};
  auto order = DocumentOrder::Create(file->document_offsets(), order_options);
  RETURN_IF_ERROR(Annotate(order.status(), file->path()));
  RETURN_IF_ERROR(Annotate(CheckPosition(options.start, **order), file->path()));
  auto stream = std::unique_ptr<TokenSequences>(new TokenSequences());
  stream->sequence_length_ = options.sequence_length;
  stream->file_ = std::move(file);
  stream->order_ = *std::move(order);
  stream->packing_ =
      options.keep_documents_whole
          ? MakeWholeDocumentPacking(*stream->order_, options.sequence_length, options.start)
          : MakeConcatenatedPacking(*stream->order_, options.sequence_length, options.start);
  return stream;
}

absl::StatusOr<PackedStream> TokenSequences::Sequence(int64_t n) const {
  SALAMANDER_CHECK(n >= 0) << n;
  PackedStream stream;
  for (const DocumentPiece& piece : packing_->Pieces(n)) {
    RETURN_IF_ERROR(AppendDocumentPiece(*file_, *order_, piece, &stream));
  }
  AppendPadding(sequence_length_ - stream.size(), PaddingToken(*file_), &stream);
  return stream;
}

absl::StatusOr<std::unique_ptr<HeldOutSequences>> HeldOutSequences::Create(
    std::shared_ptr<const TokenFileReader> file, const SplitOptions& split,
    int64_t sequence_length) {
  RETURN_IF_ERROR(Annotate(CheckLength(sequence_length), file->path()));
  auto order = DocumentOrder::Create(file->document_offsets(),
                                     {.split = split, .part = DataSplit::kHeldOut});
  RETURN_IF_ERROR(Annotate(order.status(), file->path()));
  auto sequences = std::unique_ptr<HeldOutSequences>(new HeldOutSequences());
  sequences->sequence_length_ = sequence_length;
  sequences->size_ = ((*order)->tokens_per_epoch() + sequence_length - 1) / sequence_length;
  sequences->file_ = std::move(file);
  sequences->order_ = *std::move(order);
  return sequences;
}

absl::StatusOr<PackedStream> HeldOutSequences::Sequence(int64_t i) const {
  SALAMANDER_CHECK(i >= 0 && i < size_) << i;
  PackedStream stream;
  const auto place = order_->Locate(i * sequence_length_);
  DocumentPiece piece = {.number = place.number, .begin = place.offset};
  while (stream.size() < sequence_length_ && piece.number < order_->documents_per_epoch()) {
    piece.count =
        std::min(order_->Length(piece.number) - piece.begin, sequence_length_ - stream.size());
    RETURN_IF_ERROR(AppendDocumentPiece(*file_, *order_, piece, &stream));
    piece = {.number = piece.number + 1};
  }
  AppendPadding(sequence_length_ - stream.size(), PaddingToken(*file_), &stream);
  return stream;
}

}  // namespace salamander
