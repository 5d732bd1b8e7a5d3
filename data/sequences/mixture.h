// Sequences drawn from several sources by weight. Which source sequence n comes from depends on n
// and the weights alone, and needs no history: sources are the leaves of a balanced binary tree,
// and a node that has given m sequences has taken floor(m p + 1/2) of them from its left half,
// p the left half's share. After any n, a source of share w has given w n sequences to within the
// depth of the tree, so that proportions are exact over time, and close over any short run.
#ifndef DATA_SEQUENCES_MIXTURE_H_
#define DATA_SEQUENCES_MIXTURE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

#include "data/sequences/sequence_stream.h"

namespace salamander {

// The arithmetic of the mixture, in fixed point, the same on every machine.
class MixtureSchedule {
 public:
  // Weights are finite and at least 0, and one is above 0; they need not sum to 1. A source of
  // weight 0 is never drawn.
  static absl::StatusOr<MixtureSchedule> Create(absl::Span<const double> weights);

  // The source of sequence n, and how many sequences before n came from it.
  struct Draw {
    int source = 0;
    int64_t index = 0;
  };
  Draw At(int64_t n) const;

  // How many of sequences 0, ..., n - 1 came from each source.
  std::vector<int64_t> Counts(int64_t n) const;

 private:
  void AddCounts(int begin, int end, int64_t n, std::vector<int64_t>* counts) const;
  // Of the first n sequences of sources [begin, end), those of the left half.
  int64_t LeftCount(int begin, int end, int64_t n) const;

  std::vector<uint64_t> weights_before_;  // [sources + 1], in units of 2^-32 of the sum
};

struct MixtureComponent {
  std::string name;  // for messages
  double weight = 1;
  std::unique_ptr<SequenceStream> stream;
};

class SequenceMixture {
 public:
  // All streams have the same sequence length.
  static absl::StatusOr<std::unique_ptr<SequenceMixture>> Create(
      std::vector<MixtureComponent> components);

  int64_t sequence_length() const { return components_[0].stream->sequence_length(); }

  // Thread-safe. Requires: n >= 0.
  absl::StatusOr<PackedStream> Sequence(int64_t n) const;

  // Which component sequence n comes from.
  int SourceOf(int64_t n) const { return schedule_.At(n).source; }

  // Each source's position once sequences 0, ..., n - 1 are given away: the start of a stage that
  // goes on from here.
  std::vector<SourcePosition> PositionsAt(int64_t n) const;

 private:
  SequenceMixture(std::vector<MixtureComponent> components, MixtureSchedule schedule);

  std::vector<MixtureComponent> components_;
  MixtureSchedule schedule_;
};

}  // namespace salamander

#endif  // DATA_SEQUENCES_MIXTURE_H_
