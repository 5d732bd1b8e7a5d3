#include "data/text/tokenize.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

#include "data/random.h"
#include "kernels/base/status_macros.h"

namespace salamander {
namespace {

constexpr uint64_t kSampleKey = 0x73616d70;

struct Batch {
  std::vector<Document> documents;
  int64_t bytes = 0;
};

// Reads documents that hold something until the batch is full; an empty batch is the end.
absl::StatusOr<Batch> ReadBatch(DocumentReader* reader, int64_t batch_bytes,
                                TokenizeReport* report) {
  Batch batch;
  while (batch.bytes < batch_bytes) {
    Document document;
    ASSIGN_OR_RETURN(const bool found, reader->Next(&document));
    if (!found) break;
    if (document.text.empty() && document.ids.empty()) {
      ++report->empty_documents;
      continue;
    }
    report->text_bytes += static_cast<int64_t>(document.text.size());
    batch.bytes += static_cast<int64_t>(document.text.size() + 4 * document.ids.size());
    batch.documents.push_back(std::move(document));
  }
  return batch;
}

absl::Status EncodeBatch(const Tokenizer& tokenizer, const TokenizeOptions& options, Batch* batch) {
  std::vector<std::string> texts;
  for (Document& document : batch->documents) texts.push_back(std::move(document.text));
  ASSIGN_OR_RETURN(std::vector<std::vector<int32_t>> encoded, EncodeAll(tokenizer, texts));
  for (size_t i = 0; i < batch->documents.size(); ++i) {
    Document& document = batch->documents[i];
    if (document.is_tokenized) continue;
    if (options.add_bos && tokenizer.bos_id() >= 0) document.ids.push_back(tokenizer.bos_id());
    document.ids.insert(document.ids.end(), encoded[i].begin(), encoded[i].end());
    if (options.add_eos && tokenizer.eos_id() >= 0) document.ids.push_back(tokenizer.eos_id());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizeReport> TokenizeDocuments(DocumentReader* reader, const Tokenizer& tokenizer,
                                                 const TokenizeOptions& options,
                                                 TokenFileWriter* writer) {
  TokenizeReport report;
  while (true) {
    ASSIGN_OR_RETURN(Batch batch, ReadBatch(reader, options.batch_bytes, &report));
    if (batch.documents.empty()) return report;
    RETURN_IF_ERROR(EncodeBatch(tokenizer, options, &batch));
    for (const Document& document : batch.documents) {
      const absl::Status added = writer->AddDocument(document.ids, document.loss_mask);
      RETURN_IF_ERROR(Annotate(added, document.origin));
      ++report.documents;
      report.tokens += static_cast<int64_t>(document.ids.size());
    }
  }
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TrainTokenizer(DocumentReader* reader,
                                                          const TokenizerTrainingOptions& options) {
  // Each document has a random priority; those of the highest priorities that fit are kept.
  std::multimap<uint64_t, std::string> kept;
  int64_t kept_bytes = 0;
  CounterRandom random(DeriveKey({options.seed, kSampleKey}));
  while (true) {
    Document document;
    ASSIGN_OR_RETURN(const bool found, reader->Next(&document));
    if (!found) break;
    const uint64_t priority = random.Next();
    if (document.text.empty()) continue;
    kept_bytes += static_cast<int64_t>(document.text.size());
    kept.emplace(priority, std::move(document.text));
    while (kept_bytes > options.sample_bytes && kept.size() > 1) {
      kept_bytes -= static_cast<int64_t>(kept.begin()->second.size());
      kept.erase(kept.begin());
    }
  }
  std::vector<std::string> texts;
  for (auto& [priority, text] : kept) texts.push_back(std::move(text));
  return TrainSentencePieceTokenizer(texts, options.vocab_size);
}

}  // namespace salamander
