#include <array>
#include <cmath>
#include <numeric>

#include "kernels/backend_ops.h"
#include "kernels/base/bfloat16.h"
#include "kernels/cpu/parallel.h"

namespace salamander::cpu {
namespace {

// The formula of the header, arranged so that fp32 rounds well: moments move by their distance to
// the new value (beta and 1 - beta need not add up to one in fp32), and the decay is added to the
// step (1 - lr * decay would lose most of a small decay's digits).
template <typename Real>
struct Coefficients {
  Coefficients(const AdamWArgs& args, const AdamWTensor& tensor, double clip) {
    const auto step = static_cast<double>(args.step);
    gradient_scale = static_cast<Real>(clip);
    first_rate = static_cast<Real>(1.0 - args.beta1);
    second_rate = static_cast<Real>(1.0 - args.beta2);
    step_size = static_cast<Real>(tensor.learning_rate / (1.0 - std::pow(args.beta1, step)));
    root_scale = static_cast<Real>(1.0 / std::sqrt(1.0 - std::pow(args.beta2, step)));
    epsilon = static_cast<Real>(args.epsilon);
    decay = static_cast<Real>(tensor.learning_rate * tensor.weight_decay);
  }

  Real gradient_scale, first_rate, second_rate, step_size, root_scale, epsilon, decay;
};

template <typename Real>
void Update(const Coefficients<Real>& k, const AdamWTensor& tensor) {
  Real* const weight = tensor.weight.data<Real>();
  const Real* const gradient = tensor.gradient.data<Real>();
  Real* const first_moment = tensor.first_moment.data<Real>();
  Real* const second_moment = tensor.second_moment.data<Real>();
  auto* const rounded = static_cast<uint16_t*>(tensor.rounded.raw());
  ParallelPieces(tensor.weight.size(), [=](int64_t begin, int64_t end) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) {
      const Real g = k.gradient_scale * gradient[i];
      const Real m = first_moment[i] + k.first_rate * (g - first_moment[i]);
      const Real v = second_moment[i] + k.second_rate * (g * g - second_moment[i]);
      const Real w = weight[i];
      first_moment[i] = m;
      second_moment[i] = v;
      weight[i] = w - (k.step_size * m / (std::sqrt(v) * k.root_scale + k.epsilon) + k.decay * w);
    }
    if (rounded == nullptr) return;
    for (int64_t i = begin; i < end; ++i) {
      rounded[i] = Bfloat16OfFloat(static_cast<float>(weight[i]));
    }
  });
}

// Many lanes, so that additions do not wait for each other.
template <typename Real>
double SquaresOfPiece(const Real* x, int64_t size) {
  constexpr int64_t kLanes = 32;
  std::array<double, kLanes> sums = {};
  int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
#pragma omp simd
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const auto element = static_cast<double>(x[i + lane]);
      sums[lane] += element * element;
    }
  }
  for (; i < size; ++i) sums[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

template <typename Real>
double Squares(Arena& arena, const TensorView& tensor) {
  const ArenaScope scope(arena);
  const Real* const x = tensor.data<Real>();
  const int64_t pieces = CeilDivide(tensor.size(), kElementsPerPiece);
  auto* const sums = arena.Array<double>(pieces);
  ParallelPieces(tensor.size(), [=](int64_t begin, int64_t end) {
    sums[begin / kElementsPerPiece] = SquaresOfPiece(x + begin, end - begin);
  });
  return std::accumulate(sums, sums + pieces, 0.0);
}

}  // namespace

absl::Status AdamWUpdate(const ExecutionContext&, const AdamWArgs& args) {
  const double squares = *args.gradient_squares.data<double>();
  if (!std::isfinite(squares)) return absl::OkStatus();
  const double norm = std::sqrt(squares);
  const double clip = args.clip_norm > 0 && norm > args.clip_norm ? args.clip_norm / norm : 1.0;
  for (const AdamWTensor& tensor : args.tensors) {
    ForReal(tensor.weight.dtype(), [&](auto real) {
      using Real = decltype(real);
      Update<Real>(Coefficients<Real>(args, tensor, clip), tensor);
    });
  }
  return absl::OkStatus();
}

absl::Status SumOfSquares(const ExecutionContext& context, absl::Span<const TensorView> tensors,
                          const TensorView& sum) {
  double total = 0;
  for (const TensorView& tensor : tensors) {
    ForReal(tensor.dtype(),
            [&](auto real) { total += Squares<decltype(real)>(*context.arena, tensor); });
  }
  *sum.data<double>() = total;
  return absl::OkStatus();
}

}  // namespace salamander::cpu
