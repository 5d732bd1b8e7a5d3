// Text to token ids and back. Three kinds:
//   sentencepiece  a .model file, given or trained here
//   bytes          id = byte; 256 begins and 257 ends a document; 264 ids in all
//   ids            ids tokenised elsewhere (Qwen3, Llama 3): the text is decimal ids and spaces
// A tokenizer is immutable and thread-safe. Its serialized form travels inside token files and
// checkpoints, so that neither needs the file it came from.
#ifndef DATA_TEXT_TOKENIZER_H_
#define DATA_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace salamander {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids without a document's beginning or end.
  virtual absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const = 0;
  // Ids that stand for no text, such as the end of a document, give none. An id outside the
  // vocabulary is an error.
  virtual absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const = 0;

  virtual int64_t vocab_size() const = 0;
  virtual int32_t bos_id() const = 0;  // begins a document; -1 where there is none
  virtual int32_t eos_id() const = 0;  // ends a document; -1 where there is none

  // A line of text that names the kind, then the kind's own bytes. See DeserializeTokenizer.
  virtual std::string Serialized() const = 0;

  // 16 hexadecimal digits of the hash of Serialized(): equal for equal tokenizers.
  std::string Fingerprint() const;
};

std::unique_ptr<Tokenizer> MakeByteTokenizer();

// For ids that were made by another program. bos and eos may be -1.
absl::StatusOr<std::unique_ptr<Tokenizer>> MakeIdTokenizer(int64_t vocab_size, int32_t bos_id,
                                                           int32_t eos_id);

// Reads a SentencePiece .model file.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& path);

// Learns a SentencePiece BPE model with byte fallback from texts; the same texts give the same
// tokenizer on every machine. Pieces do not cross lines.
absl::StatusOr<std::unique_ptr<Tokenizer>> TrainSentencePieceTokenizer(
    absl::Span<const std::string> texts, int64_t vocab_size);

// The inverse of Serialized().
absl::StatusOr<std::unique_ptr<Tokenizer>> DeserializeTokenizer(absl::string_view bytes);

// The .model file inside the serialized form of a SentencePiece tokenizer; empty for other kinds.
std::string SentencePieceModelOf(absl::string_view serialized);

// Whether the serialized form is that of ids made elsewhere, which says nothing of their text.
bool IsIdTokenizer(absl::string_view serialized);

// Encodes texts on all OpenMP threads; result i belongs to text i.
absl::StatusOr<std::vector<std::vector<int32_t>>> EncodeAll(const Tokenizer& tokenizer,
                                                            absl::Span<const std::string> texts);

}  // namespace salamander

#endif  // DATA_TEXT_TOKENIZER_H_
