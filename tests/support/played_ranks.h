// The ranks of a split vocabulary played one after another by one process: what each would send is
// listened to in a first round of runs, and given to all in a second one.
#ifndef TESTS_SUPPORT_PLAYED_RANKS_H_
#define TESTS_SUPPORT_PLAYED_RANKS_H_

#include <cstddef>
#include <functional>
#include <vector>

#include "kernels/base/execution_context.h"
#include "kernels/head_loss.h"
#include "kernels/memory.h"

namespace salamander {

// Calls run(split) for each rank, twice; the second results are those of `ranks` ranks.
inline void PlayRanks(const ExecutionContext& context, int ranks,
                      const std::function<void(const VocabularySplit& split)>& run) {
  using Bytes = std::vector<char>;
  std::vector<std::vector<Bytes>> sent(static_cast<size_t>(ranks));  // by rank and chunk
  for (const bool is_listening : {true, false}) {
    for (int rank = 0; rank < ranks; ++rank) {
      size_t chunk = 0;
      const auto gather = [&](const TensorView& mine, const TensorView& all) -> absl::Status {
        if (is_listening) {
          Bytes& bytes = sent[static_cast<size_t>(rank)].emplace_back(mine.bytes());
          const absl::Status heard = CopyToHost(context, mine, bytes.data());
          if (!heard.ok()) return heard;
        }
        for (int other = 0; other < ranks; ++other) {
          const Bytes& bytes = sent[static_cast<size_t>(is_listening ? rank : other)][chunk];
          const absl::Status given =
              CopyFromHost(context, bytes.data(), all.Rows(other * mine.dim(0), mine.dim(0)));
          if (!given.ok()) return given;
        }
        ++chunk;
        return absl::OkStatus();
      };
      run({.rank = rank, .ranks = ranks, .gather = gather});
    }
  }
}

}  // namespace salamander

#endif  // TESTS_SUPPORT_PLAYED_RANKS_H_
