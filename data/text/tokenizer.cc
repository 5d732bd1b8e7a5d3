#include "data/text/tokenizer.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

#include "data/storage/checksum.h"
#include "data/storage/file_bytes.h"
#include "data/text/sentencepiece_model.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr absl::string_view kHeader = "salamander-tokenizer 1 ";
constexpr absl::string_view kBytes = "bytes";
constexpr absl::string_view kIds = "ids";
constexpr absl::string_view kSentencePiece = "sentencepiece";

// A training line longer than this is cut: the library would leave it out.
constexpr size_t kMaxLineBytes = 4096;
// Byte fallback takes 256 ids, and unknown, begin and end of a document three.
constexpr int64_t kSmallestSentencePieceVocabulary = 260;

absl::Status CheckIds(absl::Span<const int32_t> ids, int64_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", i, " is id ", ids[i], "; the vocabulary has ids 0 to ", vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

class ByteTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    std::vector<int32_t> ids(text.size());
    for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]);
    return ids;
  }

  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const override {
    RETURN_IF_ERROR(CheckIds(ids, vocab_size()));
    std::string text;
    for (const int32_t id : ids) {
      if (id < 256) text.push_back(static_cast<char>(id));
    }
    return text;
  }

  // 256 bytes, two marks, and unused ids up to a multiple of eight.
  int64_t vocab_size() const override { return 264; }
  int32_t bos_id() const override { return 256; }
  int32_t eos_id() const override { return 257; }
  std::string Serialized() const override { return absl::StrCat(kHeader, kBytes, "\n"); }
};

class IdTokenizer : public Tokenizer {
 public:
  IdTokenizer(int64_t vocab_size, int32_t bos_id, int32_t eos_id)
      : vocab_size_(vocab_size), bos_id_(bos_id), eos_id_(eos_id) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    std::vector<int32_t> ids;
    for (const absl::string_view word :
         absl::StrSplit(text, absl::ByAnyChar(" ,\t\r\n"), absl::SkipEmpty())) {
      int32_t id = 0;
      if (!absl::SimpleAtoi(word, &id)) {
        return absl::InvalidArgumentError(
            absl::StrCat("word ", ids.size(), " of the text is \"", word.substr(0, 40),
                         "\"; this model's tokenizer is ids made elsewhere: give decimal token ids"
                         " with spaces between them"));
      }
      ids.push_back(id);
    }
    RETURN_IF_ERROR(CheckIds(ids, vocab_size_));
    return ids;
  }

  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const override {
    RETURN_IF_ERROR(CheckIds(ids, vocab_size_));
    std::string text;
    for (const int32_t id : ids) absl::StrAppend(&text, text.empty() ? "" : " ", id);
    return text;
  }

  int64_t vocab_size() const override { return vocab_size_; }
  int32_t bos_id() const override { return bos_id_; }
  int32_t eos_id() const override { return eos_id_; }
  std::string Serialized() const override {
    return absl::StrCat(kHeader, kIds, "\n", vocab_size_, " ", bos_id_, " ", eos_id_, "\n");
  }

 private:
  int64_t vocab_size_;
  int32_t bos_id_;
  int32_t eos_id_;
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string bytes, std::unique_ptr<SentencePieceModel> model)
      : bytes_(std::move(bytes)), model_(std::move(model)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text) const override {
    std::vector<int> ids;
    std::string error;
    if (!model_->Encode(text.data(), text.size(), &ids, &error)) {
      return absl::InternalError(absl::StrCat("SentencePiece could not encode: ", error));
    }
    return std::vector<int32_t>(ids.begin(), ids.end());
  }

  absl::StatusOr<std::string> Decode(absl::Span<const int32_t> ids) const override {
    RETURN_IF_ERROR(CheckIds(ids, vocab_size()));
    std::string text;
    std::string error;
    if (!model_->Decode(std::vector<int>(ids.begin(), ids.end()), &text, &error)) {
      return absl::InternalError(absl::StrCat("SentencePiece could not decode: ", error));
    }
    return text;
  }

  int64_t vocab_size() const override { return model_->vocab_size(); }
  int32_t bos_id() const override { return model_->bos_id(); }
  int32_t eos_id() const override { return model_->eos_id(); }
  std::string Serialized() const override {
    return absl::StrCat(kHeader, kSentencePiece, "\n", bytes_);
  }

 private:
  std::string bytes_;
  std::unique_ptr<SentencePieceModel> model_;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> FromSentencePieceBytes(std::string bytes) {
  std::string error;
  auto model = SentencePieceModel::FromSerialized(bytes, &error);
  if (model == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a SentencePiece model (", bytes.size(), " bytes): ", error));
  }
  return std::make_unique<SentencePieceTokenizer>(std::move(bytes), std::move(model));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> IdTokenizerFromText(absl::string_view text) {
  const std::vector<absl::string_view> words = absl::StrSplit(absl::StripSuffix(text, "\n"), ' ');
  int64_t vocab_size = 0;
  int32_t bos_id = 0;
  int32_t eos_id = 0;
  if (words.size() != 3 || !absl::SimpleAtoi(words[0], &vocab_size) ||
      !absl::SimpleAtoi(words[1], &bos_id) || !absl::SimpleAtoi(words[2], &eos_id)) {
    return absl::InvalidArgumentError(
        "an ids tokenizer is \"vocabulary bos eos\"; the stored bytes are not");
  }
  return MakeIdTokenizer(vocab_size, bos_id, eos_id);
}

// Cuts at line ends and at kMaxLineBytes, there between UTF-8 characters.
void AppendLines(absl::string_view text, std::vector<std::string>* lines) {
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    if (line.find('\0') != absl::string_view::npos) continue;
    while (!line.empty()) {
      size_t cut = std::min(line.size(), kMaxLineBytes);
      while (cut < line.size() && cut > kMaxLineBytes - 4 && (line[cut] & 0xc0) == 0x80) --cut;
      lines->emplace_back(line.substr(0, cut));
      line.remove_prefix(cut);
    }
  }
}

}  // namespace

std::string Tokenizer::Fingerprint() const {
  const std::string bytes = Serialized();
  return ChecksumText(ChecksumOf(bytes.data(), bytes.size()));
}

std::unique_ptr<Tokenizer> MakeByteTokenizer() {
  return std::make_unique<ByteTokenizer>();
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeIdTokenizer(int64_t vocab_size, int32_t bos_id,
                                                           int32_t eos_id) {
  if (vocab_size < 1 || vocab_size > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("vocabulary size ", vocab_size, "; expected 1 to 2147483647"));
  }
  for (const int32_t id : {bos_id, eos_id}) {
    if (id < -1 || id >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("special id ", id,
                                                     " is outside the vocabulary of ", vocab_size,
                                                     "; use -1 where there is none"));
    }
  }
  return std::make_unique<IdTokenizer>(vocab_size, bos_id, eos_id);
}

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePieceTokenizer(const std::string& path) {
  constexpr int64_t kLargestModel = 1 << 30;
  ASSIGN_OR_RETURN(std::string bytes, ReadFileBytes(path, kLargestModel));
  auto tokenizer = FromSentencePieceBytes(std::move(bytes));
  if (!tokenizer.ok()) return Annotate(tokenizer.status(), path);
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TrainSentencePieceTokenizer(
    absl::Span<const std::string> texts, int64_t vocab_size) {
  if (vocab_size < kSmallestSentencePieceVocabulary || vocab_size > (1 << 24)) {
    return absl::InvalidArgumentError(absl::StrCat("vocabulary size ", vocab_size, "; expected ",
                                                   kSmallestSentencePieceVocabulary, " to ",
                                                   1 << 24));
  }
  std::vector<std::string> lines;
  for (const std::string& text : texts) AppendLines(text, &lines);
  if (lines.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no text to learn a tokenizer from in ", texts.size(), " documents"));
  }
  std::string error;
  std::string bytes = SentencePieceModel::Train(lines, static_cast<int>(vocab_size), &error);
  if (bytes.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("no SentencePiece model with ", vocab_size, " pieces from ", lines.size(),
                     " lines of text: ", error, "; give more text or a smaller vocabulary"));
  }
  return FromSentencePieceBytes(std::move(bytes));
}

absl::StatusOr<std::unique_ptr<Tokenizer>> DeserializeTokenizer(absl::string_view bytes) {
  const size_t line_end = bytes.find('\n');
  absl::string_view line = bytes.substr(0, line_end);
  if (line_end == absl::string_view::npos || !absl::ConsumePrefix(&line, kHeader)) {
    return absl::InvalidArgumentError(absl::StrCat("stored tokenizer does not begin with \"",
                                                   kHeader, "\": written by another version?"));
  }
  const absl::string_view rest = bytes.substr(line_end + 1);
  if (line == kBytes) return MakeByteTokenizer();
  if (line == kIds) return IdTokenizerFromText(rest);
  if (line == kSentencePiece) return FromSentencePieceBytes(std::string(rest));
  return absl::InvalidArgumentError(absl::StrCat("stored tokenizer is of kind \"",
                                                 line.substr(0, 40),
                                                 "\"; known are sentencepiece, bytes and ids"));
}

std::string SentencePieceModelOf(absl::string_view serialized) {
  absl::string_view rest = serialized;
  const bool is_sentencepiece = absl::ConsumePrefix(&rest, kHeader) &&
                                absl::ConsumePrefix(&rest, kSentencePiece) &&
                                absl::ConsumePrefix(&rest, "\n");
  return is_sentencepiece ? std::string(rest) : "";
}

bool IsIdTokenizer(absl::string_view serialized) {
  return absl::StartsWith(serialized, absl::StrCat(kHeader, kIds, "\n"));
}

absl::StatusOr<std::vector<std::vector<int32_t>>> EncodeAll(const Tokenizer& tokenizer,
                                                            absl::Span<const std::string> texts) {
  const int64_t count = static_cast<int64_t>(texts.size());
  std::vector<absl::StatusOr<std::vector<int32_t>>> encoded(
      count, absl::StatusOr<std::vector<int32_t>>(std::vector<int32_t>()));
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < count; ++i) encoded[i] = tokenizer.Encode(texts[i]);
  std::vector<std::vector<int32_t>> ids(count);
  for (int64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(ids[i], std::move(encoded[i]));
  }
  return ids;
}

}  // namespace salamander
