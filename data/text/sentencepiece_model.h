// The SentencePiece library behind plain C++ types. Its headers define absl::string_view
// themselves, so that only sentencepiece_model.cc may see them and neither this header nor that
// file may include Abseil. Errors are sentences in `error`; data/text/tokenizer.h turns them into
// absl::Status.
#ifndef DATA_TEXT_SENTENCEPIECE_MODEL_H_
#define DATA_TEXT_SENTENCEPIECE_MODEL_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace salamander {

class SentencePieceModel {
 public:
  // Learns a BPE model with byte fallback, so that any text round-trips. One thread and no
  // sampling: the same lines give the same bytes. Returns an empty string and sets `error` where
  // the text cannot give the vocabulary.
  static std::string Train(const std::vector<std::string>& lines, int vocab_size,
                           std::string* error);

  // Returns null and sets `error` where the bytes are not a model.
  static std::unique_ptr<SentencePieceModel> FromSerialized(const std::string& bytes,
                                                            std::string* error);
  ~SentencePieceModel();

  // Thread-safe. False and `error` set where the library fails.
  bool Encode(const char* text, size_t size, std::vector<int>* ids, std::string* error) const;
  // Requires: 0 <= ids < vocab_size().
  bool Decode(const std::vector<int>& ids, std::string* text, std::string* error) const;

  int vocab_size() const;
  int bos_id() const;  // -1 where the model has none
  int eos_id() const;  // -1 where the model has none

 private:
  explicit SentencePieceModel(std::unique_ptr<sentencepiece::SentencePieceProcessor> processor);

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
};

}  // namespace salamander

#endif  // DATA_TEXT_SENTENCEPIECE_MODEL_H_
