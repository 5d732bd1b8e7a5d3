#include <cmath>

#include "kernels/backend_ops.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

template <typename Real>
void FillRows(absl::Span<const double> frequencies, const Segment& segment,
              const RopeTablesArgs& args) {
  const auto half = static_cast<int64_t>(frequencies.size());
  const double factor = args.factor;
  Real* const cosines = args.cosines.data<Real>() + segment.query_begin * half;
  Real* const sines = args.sines.data<Real>() + segment.query_begin * half;
  ParallelFor(segment.query_count, segment.query_count * half, [=](int64_t row) {
    const auto position = static_cast<double>(segment.first_position + row);
    for (int64_t d = 0; d < half; ++d) {
      const double angle = position * frequencies[static_cast<size_t>(d)];
      cosines[row * half + d] = static_cast<Real>(factor * std::cos(angle));
      sines[row * half + d] = static_cast<Real>(factor * std::sin(angle));
    }
  });
}

}  // namespace

absl::Status RopeTables(const ExecutionContext&, const RopeTablesArgs& args) {
  for (const Segment& segment : args.segments) {
    const absl::Span<const double> frequencies = segment.document_length() > args.short_length
                                                     ? args.long_frequencies
                                                     : args.short_frequencies;
    ForReal(args.cosines.dtype(),
            [&](auto real) { FillRows<decltype(real)>(frequencies, segment, args); });
  }
  return absl::OkStatus();
}

}  // namespace salamander::cpu
