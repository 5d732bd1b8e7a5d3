#include "trainer/ceilings/ceilings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/status_macros.h"
#include "kernels/linear.h"
#include "kernels/memory.h"
#include "trainer/ceilings/random_tensors.h"

namespace salamander {
namespace {

constexpr int kRepetitions = 10;

// A product and a copy that fill a GPU, and ones that a few CPU cores finish in a second.
struct Sizes {
  int64_t product;     // of a square product
  int64_t copy_bytes;  // copied
};

Sizes SizesFor(const Device& device) {
  return device.kind == DeviceKind::kCuda ? Sizes{8192, int64_t{2} << 30}
                                          : Sizes{1024, int64_t{256} << 20};
}

// Below it a product measures the latency of its launch and its memory.
constexpr int64_t kSmallestProduct = 512;

// The largest square product, up to one that fills the device, whose three matrices the arena holds
// and what is staged to fill one of them.
absl::StatusOr<int64_t> ProductFor(const DeviceSession& session, const Arena& arena) {
  const int64_t left = arena.capacity_bytes() - arena.used_bytes();
  const auto element = static_cast<int64_t>(SizeOf(session.activation_dtype()));
  for (int64_t size = SizesFor(session.device()).product; size >= kSmallestProduct; size /= 2) {
    if (4 * size * size * element <= left) return size;
  }
  return absl::ResourceExhaustedError(
      absl::StrCat("the rate of matrix products on ", session.name(), " cannot be measured in ",
                   left, " bytes; use a smaller model or a device with more memory"));
}

}  // namespace

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

absl::StatusOr<double> MeasureProductRate(DeviceSession& session, const ExecutionContext& context) {
  const ArenaScope scope(*context.arena);
  ASSIGN_OR_RETURN(const int64_t size, ProductFor(session, *context.arena));
  RandomTensors made(context, *context.arena, session.activation_dtype());
  const LinearForwardArgs product{.input = made.Activation({size, size}),
                                  .weight = made.Activation({size, size}),
                                  .output = made.Activation({size, size})};
  RETURN_IF_ERROR(made.status());
  ASSIGN_OR_RETURN(auto seconds,
                   session.Time([&] { return LinearForward(context, product); }, kRepetitions));
  const auto n = static_cast<double>(size);
  return 2 * n * n * n / Median(std::move(seconds));
}

absl::StatusOr<Ceilings> MeasureCeilings(DeviceSession& session, Arena& tensors, Arena& scratch) {
  const ExecutionContext context = session.Context(scratch);
  Ceilings ceilings;
  ASSIGN_OR_RETURN(ceilings.flops_per_second, MeasureProductRate(session, context));
  const int64_t bytes = SizesFor(session.device()).copy_bytes;
  const ArenaScope scope(tensors);
  RandomTensors made(context, tensors, session.activation_dtype());
  const TensorView source = made.Zeros(DType::kFloat32, {bytes / 4});
  const TensorView destination = made.Zeros(DType::kFloat32, {bytes / 4});
  RETURN_IF_ERROR(made.status());
  ASSIGN_OR_RETURN(auto seconds,
                   session.Time([&] { return Copy(context, source, destination); }, kRepetitions));
  ceilings.bytes_per_second = 2 * static_cast<double>(bytes) / Median(std::move(seconds));
  return ceilings;
}

}  // namespace salamander
