// Selections of key blocks as a trained model's are judged by, without a model.
#ifndef TRAINER_BENCH_CASES_BLOCK_LISTS_H_
#define TRAINER_BENCH_CASES_BLOCK_LISTS_H_

#include <cstdint>
#include <vector>

#include "kernels/base/segments.h"
#include "model/config.h"

namespace salamander {

// [T, Hkv, selected_blocks], for segments that are whole documents end to end: the leading blocks,
// the local ones, and as many older ones, of which a token shares `shared` with the token before
// it.
std::vector<int32_t> MadeUpBlockLists(const SparseConfig& sparse, Segments segments,
                                      int64_t kv_heads, double shared);

}  // namespace salamander

#endif  // TRAINER_BENCH_CASES_BLOCK_LISTS_H_
