#include "data/text/sentencepiece_model.h"

#include <exception>
#include <unordered_map>
#include <utility>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

namespace salamander {
namespace {

// The library skips longer lines; ours are cut before they reach it.
constexpr int kMaxSentenceBytes = 16384;

class LineIterator : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const std::vector<std::string>& lines) : lines_(lines) {}
  bool done() const override { return next_ >= lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>& lines_;
  size_t next_ = 0;
};

}  // namespace

std::string SentencePieceModel::Train(const std::vector<std::string>& lines, int vocab_size,
                                      std::string* error) {
  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(vocab_size)},
      {"byte_fallback", "true"},
      {"character_coverage", "0.9995"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"add_dummy_prefix", "false"},
      {"split_digits", "true"},
      {"max_sentence_length", std::to_string(kMaxSentenceBytes)},
      {"shuffle_input_sentence", "false"},
      {"num_threads", "1"},
      {"minloglevel", "3"},
  };
  try {
    LineIterator iterator(lines);
    std::string bytes;
    const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &bytes);
    if (status.ok()) return bytes;
    *error = status.ToString();
  } catch (const std::exception& exception) {
    *error = exception.what();
  }
  return "";
}

SentencePieceModel::SentencePieceModel(
    std::unique_ptr<sentencepiece::SentencePieceProcessor> processor)
    : processor_(std::move(processor)) {}

SentencePieceModel::~SentencePieceModel() = default;

std::unique_ptr<SentencePieceModel> SentencePieceModel::FromSerialized(const std::string& bytes,
                                                                       std::string* error) {
  try {
    auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
    const auto status = processor->LoadFromSerializedProto(bytes);
    if (status.ok() && processor->GetPieceSize() > 0) {
      return std::unique_ptr<SentencePieceModel>(new SentencePieceModel(std::move(processor)));
    }
    *error = status.ok() ? "the model has no pieces" : status.ToString();
  } catch (const std::exception& exception) {
    *error = exception.what();
  }
  return nullptr;
}

bool SentencePieceModel::Encode(const char* text, size_t size, std::vector<int>* ids,
                                std::string* error) const {
  try {
    const auto status = processor_->Encode({text, size}, ids);
    if (status.ok()) return true;
    *error = status.ToString();
  } catch (const std::exception& exception) {
    *error = exception.what();
  }
  return false;
}

bool SentencePieceModel::Decode(const std::vector<int>& ids, std::string* text,
                                std::string* error) const {
  try {
    const auto status = processor_->Decode(ids, text);
    if (status.ok()) return true;
    *error = status.ToString();
  } catch (const std::exception& exception) {
    *error = exception.what();
  }
  return false;
}

int SentencePieceModel::vocab_size() const {
  return processor_->GetPieceSize();
}
int SentencePieceModel::bos_id() const {
  return processor_->bos_id();
}
int SentencePieceModel::eos_id() const {
  return processor_->eos_id();
}

}  // namespace salamander
