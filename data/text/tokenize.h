// From documents to a token file, in one pass and with bounded memory: texts are encoded in
// batches on all OpenMP threads and written in reading order.
#ifndef DATA_TEXT_TOKENIZE_H_
#define DATA_TEXT_TOKENIZE_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"

#include "data/text/text_reader.h"
#include "data/text/tokenizer.h"
#include "data/tokens/token_file.h"

namespace salamander {

struct TokenizeOptions {
  bool add_bos = false;  // before each text; where the tokenizer has one
  bool add_eos = true;   // after each text; where the tokenizer has one
  int64_t batch_bytes = 16 << 20;
};

struct TokenizeReport {
  int64_t documents = 0;
  int64_t empty_documents = 0;  // left out
  int64_t tokens = 0;
  int64_t text_bytes = 0;
};

// Adds every document to `writer`, which the caller finishes. Ready-made ids are taken as they
// are. An error names the document.
absl::StatusOr<TokenizeReport> TokenizeDocuments(DocumentReader* reader, const Tokenizer& tokenizer,
                                                 const TokenizeOptions& options,
                                                 TokenFileWriter* writer);

struct TokenizerTrainingOptions {
  int64_t vocab_size = 0;
  int64_t sample_bytes = 8 << 20;  // of text that the tokenizer learns from
  uint64_t seed = 0;
};

// Learns a SentencePiece tokenizer from a random sample of whole documents, of at most
// sample_bytes unless one document is longer. Reads all documents once.
absl::StatusOr<std::unique_ptr<Tokenizer>> TrainTokenizer(DocumentReader* reader,
                                                          const TokenizerTrainingOptions& options);

}  // namespace salamander

#endif  // DATA_TEXT_TOKENIZE_H_
