// The order in which the documents of one token file are read: a held-out part set aside, and the
// rest shuffled anew for each epoch, for ever.
//
//   split      documents S(0), ..., S(H-1) are held out and S(H), ..., S(D-1) are for training,
//              S a permutation keyed by split_seed: the two parts never share a document
//   training   document number c = e * N + i (epoch e, N = D - H) is S(H + P_e(i)), P_e a
//              permutation keyed by (seed, e); lane l of L: S(H + l + L * P_e(i)), N its documents
//   held out   document number i is S(i); there is one epoch
//
// Permutations are computed, not stored. What is stored is the number of tokens before every
// 64th document of the epochs in use: 1/8 byte for each document.
#ifndef DATA_SEQUENCES_DOCUMENT_ORDER_H_
#define DATA_SEQUENCES_DOCUMENT_ORDER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "data/random.h"

namespace salamander {

enum class DataSplit { kTraining, kHeldOut };

struct SplitOptions {
  double held_out_fraction = 0;  // of the documents; [0, 1)
  uint64_t split_seed = 0;       // the same for training and evaluation, whatever the run's seed
};

// One of `count` disjoint parts of the training documents, every count-th of which is its own. Long
// documents read in several lanes at once do not fill a whole batch each.
struct Lane {
  int64_t index = 0;
  int64_t count = 1;
};

struct DocumentOrderOptions {
  SplitOptions split = {};
  DataSplit part = DataSplit::kTraining;
  uint64_t seed = 0;  // of the training order
  Lane lane = {};     // of the training part
};

class DocumentOrder {
 public:
  // `offsets` [documents + 1] must outlive the order. An error where the part has no document.
  static absl::StatusOr<std::unique_ptr<DocumentOrder>> Create(absl::Span<const int64_t> offsets,
                                                               const DocumentOrderOptions& options);

  int64_t documents_per_epoch() const { return documents_; }
  int64_t tokens_per_epoch() const { return tokens_; }

  // Which document of the file has this number in the order.
  int64_t FileDocument(int64_t number) const;
  int64_t Length(int64_t number) const;

  // Tokens of documents 0, ..., number - 1.
  int64_t TokensBefore(int64_t number) const;

  // The document that holds a token of the endless stream, and where in it.
  struct Place {
    int64_t number = 0;
    int64_t offset = 0;
  };
  Place Locate(int64_t token) const;

 private:
  // Tokens before each kStride-th document of one epoch.
  using Index = std::vector<int64_t>;

  DocumentOrder(absl::Span<const int64_t> offsets, const DocumentOrderOptions& options,
                int64_t held_out);
  int64_t FileDocument(int64_t epoch, int64_t i) const;
  int64_t FileLength(int64_t file_document) const;
  std::shared_ptr<const Index> IndexOf(int64_t epoch) const;

  absl::Span<const int64_t> offsets_;
  DocumentOrderOptions options_;
  Permutation split_;
  int64_t first_;      // of the part, in the split's permutation
  int64_t documents_;  // of the part
  int64_t tokens_ = 0;

  mutable std::mutex mutex_;
  mutable std::deque<std::pair<int64_t, std::shared_ptr<const Index>>> indices_;  // newest last
};

}  // namespace salamander

#endif  // DATA_SEQUENCES_DOCUMENT_ORDER_H_
