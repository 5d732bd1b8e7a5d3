#include "data/text/tokenize.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

#include "data/storage/atomic_path.h"
#include "data/tokens/token_file.h"
#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "trainer/commands/commands.h"

namespace salamander {
namespace {

// Stops after so many bytes of text; the document that reaches them is the last, and whole.
class LimitedReader : public DocumentReader {
 public:
  LimitedReader(std::unique_ptr<DocumentReader> reader, int64_t max_bytes)
      : reader_(std::move(reader)), left_(max_bytes) {}

  absl::StatusOr<bool> Next(Document* document) override {
    if (left_ <= 0) return false;
    ASSIGN_OR_RETURN(const bool found, reader_->Next(document));
    left_ -= found ? static_cast<int64_t>(document->text.size()) : 0;
    return found;
  }

 private:
  std::unique_ptr<DocumentReader> reader_;
  int64_t left_;
};

absl::StatusOr<std::unique_ptr<DocumentReader>> OpenInputs(const TokenizeCommand& command) {
  ASSIGN_OR_RETURN(std::unique_ptr<DocumentReader> reader,
                   OpenDocuments({.paths = command.inputs,
                                  .patterns = command.patterns,
                                  .text_field = command.text_field}));
  if (command.max_bytes > 0)
    reader = std::make_unique<LimitedReader>(std::move(reader), command.max_bytes);
  return reader;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerFor(const TokenizeCommand& command) {
  if (command.train_vocabulary > 0) {
    ASSIGN_OR_RETURN(const auto sample, OpenInputs(command));
    ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> learnt,
                     TrainTokenizer(sample.get(), {.vocab_size = command.train_vocabulary,
                                                   .sample_bytes = command.train_bytes}));
    if (!command.tokenizer_out.empty()) {
      RETURN_IF_ERROR(
          WriteFileAtomically(command.tokenizer_out, SentencePieceModelOf(learnt->Serialized())));
    }
    return learnt;
  }
  if (command.tokenizer == "bytes") return MakeByteTokenizer();
  if (command.tokenizer == "ids") return MakeIdTokenizer(command.vocabulary, -1, command.eos_id);
  return LoadSentencePieceTokenizer(command.tokenizer);
}

absl::Status Tokenize(const TokenizeCommand& command) {
  // Learning a tokenizer takes long: a file that cannot be written is told of before.
  RETURN_IF_ERROR(AtomicFile::Begin(command.out).status());
  ASSIGN_OR_RETURN(const auto tokenizer, TokenizerFor(command));
  ASSIGN_OR_RETURN(const auto reader, OpenInputs(command));
  ASSIGN_OR_RETURN(const auto writer,
                   TokenFileWriter::Create(command.out, *tokenizer, command.tokenizer == "ids"));
  ASSIGN_OR_RETURN(
      const TokenizeReport report,
      TokenizeDocuments(reader.get(), *tokenizer, {.add_bos = command.add_bos}, writer.get()));
  RETURN_IF_ERROR(writer->Finish());
  LogInfo(absl::StrCat(command.out, ": ", report.tokens, " tokens of ", tokenizer->vocab_size(),
                       " kinds in ", report.documents, " documents, from ", report.text_bytes,
                       " bytes of text"));
  return absl::OkStatus();
}

}  // namespace

absl::Status RunTokenize(const TokenizeCommand& command, Communicator& world) {
  return AgreeOnStatus(world, world.rank() == 0 ? Tokenize(command) : absl::OkStatus());
}

}  // namespace salamander
