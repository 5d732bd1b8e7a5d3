#include "data/sequences/document_order.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace salamander {
namespace {

constexpr int64_t kStride = 64;
// A stream moves from one epoch to the next; the two around it are enough.
constexpr size_t kIndicesKept = 2;

enum KeyPurpose : uint64_t { kSplitKey = 1, kEpochKey = 2 };

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentOrder>> DocumentOrder::Create(
    absl::Span<const int64_t> offsets, const DocumentOrderOptions& options) {
  const int64_t documents = static_cast<int64_t>(offsets.size()) - 1;
  const double fraction = options.split.held_out_fraction;
  if (!(fraction >= 0 && fraction < 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("held-out fraction ", fraction, "; expected 0 or more and less than 1"));
  }
  if (documents < 1) return absl::InvalidArgumentError("the file has no documents");
  int64_t held_out = std::llround(fraction * static_cast<double>(documents));
  if (fraction > 0) held_out = std::max<int64_t>(held_out, 1);
  if (options.part == DataSplit::kHeldOut && held_out == 0) {
    return absl::InvalidArgumentError("no document is held out; set a held-out fraction above 0");
  }
  if (options.part == DataSplit::kTraining && held_out >= documents) {
    return absl::InvalidArgumentError(
        absl::StrCat("holding out ", held_out, " of ", documents,
                     " documents leaves none to train on; use a smaller held-out fraction or a "
                     "file with more documents"));
  }
  if (options.part == DataSplit::kTraining && options.lane.count > documents - held_out) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.lane.count, " lanes for ", documents - held_out,
                     " documents; use at most as many lanes as there are documents to train on"));
  }
  return std::unique_ptr<DocumentOrder>(new DocumentOrder(offsets, options, held_out));
}

DocumentOrder::DocumentOrder(absl::Span<const int64_t> offsets, const DocumentOrderOptions& options,
                             int64_t held_out)
    : offsets_(offsets),
      options_(options),
      split_(DeriveKey({options.split.split_seed, kSplitKey}),
             static_cast<int64_t>(offsets.size()) - 1) {
  const int64_t file_documents = static_cast<int64_t>(offsets.size()) - 1;
  int64_t held_out_tokens = 0;
  for (int64_t i = 0; i < held_out; ++i) held_out_tokens += FileLength(split_(i));
  if (options.part == DataSplit::kHeldOut) {
    first_ = 0;
    documents_ = held_out;
    tokens_ = held_out_tokens;
  } else {
    const Lane& lane = options.lane;
    first_ = held_out + lane.index;
    documents_ = (file_documents - first_ + lane.count - 1) / lane.count;
    tokens_ = offsets.back() - held_out_tokens;
    if (lane.count > 1) {
      tokens_ = 0;
      for (int64_t i = 0; i < documents_; ++i)
        tokens_ += FileLength(split_(first_ + i * lane.count));
    }
  }
}

int64_t DocumentOrder::FileLength(int64_t file_document) const {
  return offsets_[file_document + 1] - offsets_[file_document];
}

int64_t DocumentOrder::FileDocument(int64_t epoch, int64_t i) const {
  if (options_.part == DataSplit::kHeldOut) return split_(i);
  const Permutation order(DeriveKey({options_.seed, kEpochKey, static_cast<uint64_t>(epoch)}),
                          documents_);
  return split_(first_ + order(i) * options_.lane.count);
}

int64_t DocumentOrder::FileDocument(int64_t number) const {
  return FileDocument(number / documents_, number % documents_);
}

int64_t DocumentOrder::Length(int64_t number) const {
  return FileLength(FileDocument(number));
}

std::shared_ptr<const DocumentOrder::Index> DocumentOrder::IndexOf(int64_t epoch) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [known, index] : indices_) {
    if (known == epoch) return index;
  }
  auto index = std::make_shared<Index>();
  index->reserve(documents_ / kStride + 1);
  int64_t tokens = 0;
  for (int64_t i = 0; i < documents_; ++i) {
    if (i % kStride == 0) index->push_back(tokens);
    tokens += FileLength(FileDocument(epoch, i));
  }
  if (indices_.size() == kIndicesKept) indices_.pop_front();
  indices_.emplace_back(epoch, index);
  return index;
}

int64_t DocumentOrder::TokensBefore(int64_t number) const {
  const int64_t epoch = number / documents_;
  const int64_t i = number % documents_;
  int64_t tokens = epoch * tokens_;
  if (i == 0) return tokens;
  tokens += (*IndexOf(epoch))[i / kStride];
  for (int64_t j = i / kStride * kStride; j < i; ++j) {
    tokens += FileLength(FileDocument(epoch, j));
  }
  return tokens;
}

DocumentOrder::Place DocumentOrder::Locate(int64_t token) const {
  const int64_t epoch = token / tokens_;
  int64_t offset = token % tokens_;
  const std::shared_ptr<const Index> index = IndexOf(epoch);
  const auto after = std::upper_bound(index->begin(), index->end(), offset);
  const int64_t stride = after - index->begin() - 1;
  offset -= (*index)[stride];
  int64_t i = stride * kStride;
  for (int64_t length = FileLength(FileDocument(epoch, i)); offset >= length;
       length = FileLength(FileDocument(epoch, i))) {
    offset -= length;
    ++i;
  }
  return {.number = epoch * documents_ + i, .offset = offset};
}

}  // namespace salamander
