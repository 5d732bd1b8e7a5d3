// Rotary tables for a packed stream: for the row t of a segment at position p in its document
//   cosines[t, d] = factor * cos(p * frequency[d])     sines[t, d] = factor * sin(p * frequency[d])
// Angles are taken in fp64: at a million tokens fp32 would be off by a tenth of a radian. Source:
// arXiv 2104.09864; two sets of frequencies as in LongRoPE, arXiv 2402.13753.
#ifndef KERNELS_ROPE_TABLES_H_
#define KERNELS_ROPE_TABLES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/segments.h"
#include "kernels/base/tensor_view.h"

namespace salamander {

struct RopeTablesArgs {
  absl::Span<const double> short_frequencies;  // [D/2] on the host
  absl::Span<const double> long_frequencies;   // [D/2], for documents of more tokens
  int64_t short_length = 0;                    // than this
  double factor = 1.0;
  Segments segments;
  TensorView cosines, sines;  // [T, D/2]; rows that no segment names are left alone
};

absl::Status RopeTables(const ExecutionContext& context, const RopeTablesArgs& args);

}  // namespace salamander

#endif  // KERNELS_ROPE_TABLES_H_
