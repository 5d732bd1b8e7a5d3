#include "tests/support/random_tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace salamander {
namespace {

constexpr uint64_t kSplitMixStep = 0x9e3779b97f4a7c15;
constexpr int kNormalDraws = 12;

constexpr int64_t kBlock = 1 << 14;

// Calls visit(begin, end) for blocks of kBlock elements and the rest, side by side.
template <typename Visit>
void ForEachBlock(int64_t size, const Visit& visit) {
#pragma omp parallel for schedule(dynamic) if (size > kBlock)
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    visit(begin, std::min(begin + kBlock, size));
  }
}

TensorView MakeView(void* data, DType dtype, absl::Span<const int64_t> dims) {
  switch (dims.size()) {
    case 0:
      return TensorView(data, dtype, {});
    case 1:
      return TensorView(data, dtype, {dims[0]});
    case 2:
      return TensorView(data, dtype, {dims[0], dims[1]});
    case 3:
      return TensorView(data, dtype, {dims[0], dims[1], dims[2]});
    default:
      SALAMANDER_CHECK(dims.size() == 4) << "rank " << dims.size();
      return TensorView(data, dtype, {dims[0], dims[1], dims[2], dims[3]});
  }
}

uint16_t RoundToBFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <typename Element>
double Load(const TensorView& view, int64_t index) {
  Element value;
  std::memcpy(&value, static_cast<const Element*>(view.raw()) + index, sizeof(value));
  return static_cast<double>(value);
}

template <typename Element>
void Store(const TensorView& view, int64_t index, double value) {
  static_cast<Element*>(view.raw())[index] = static_cast<Element>(value);
}

}  // namespace

uint64_t SplitMix::Next() {
  uint64_t z = (state_ += kSplitMixStep);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

void SplitMix::Skip(int64_t count) {
  state_ += static_cast<uint64_t>(count) * kSplitMixStep;
}

double SplitMix::Uniform() {
  return static_cast<double>(Next() >> 11) * 0x1p-53;
}

double SplitMix::Normal() {
  // Twelve uniforms have variance 1; unlike Box-Muller this asks nothing of libm.
  double sum = -6.0;
  for (int i = 0; i < kNormalDraws; ++i) sum += Uniform();
  return sum;
}

int64_t SplitMix::Integer(int64_t low, int64_t high) {
  return low + static_cast<int64_t>(Next() % static_cast<uint64_t>(high - low + 1));
}

TestTensor::TestTensor(DType dtype, Dims dims) : dtype_(dtype), dims_(dims) {
  size_t bytes = SizeOf(dtype);
  for (const int64_t dim : dims) bytes *= static_cast<size_t>(dim);
  bytes_.resize(std::max<size_t>(bytes, 1));  // no rows is not the same as not given
}

TestTensor TestTensor::Constant(DType dtype, Dims dims, double value) {
  TestTensor tensor(dtype, dims);
  const TensorView view = tensor.View();
  ForEachBlock(view.size(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SetElement(view, i, value);
  });
  return tensor;
}

TestTensor TestTensor::Poisoned(DType dtype, Dims dims) {
  return Constant(dtype, dims,
                  dtype == DType::kInt32 ? std::numeric_limits<int32_t>::min()
                                         : std::numeric_limits<double>::quiet_NaN());
}

TestTensor TestTensor::Normal(DType dtype, Dims dims, uint64_t seed, double deviation) {
  TestTensor tensor(dtype, dims);
  const TensorView view = tensor.View();
  ForEachBlock(view.size(), [&](int64_t begin, int64_t end) {
    SplitMix random(seed);
    random.Skip(begin * kNormalDraws);
    for (int64_t i = begin; i < end; ++i) SetElement(view, i, deviation * random.Normal());
  });
  return tensor;
}

TestTensor TestTensor::Uniform(DType dtype, Dims dims, uint64_t seed, double low, double high) {
  TestTensor tensor(dtype, dims);
  SplitMix random(seed);
  const TensorView view = tensor.View();
  for (int64_t i = 0; i < view.size(); ++i)
    SetElement(view, i, low + (high - low) * random.Uniform());
  return tensor;
}

TestTensor TestTensor::Integers(Dims dims, uint64_t seed, int64_t low, int64_t high) {
  TestTensor tensor(DType::kInt32, dims);
  SplitMix random(seed);
  for (int32_t& element : tensor.Elements<int32_t>()) {
    element = static_cast<int32_t>(random.Integer(low, high));
  }
  return tensor;
}

TestTensor TestTensor::Of(DType dtype, Dims dims, std::initializer_list<double> values) {
  TestTensor tensor(dtype, dims);
  SALAMANDER_CHECK(tensor.size() == static_cast<int64_t>(values.size()))
      << values.size() << " values for " << tensor.View().ShapeString();
  int64_t index = 0;
  for (const double value : values) tensor.Set(index++, value);
  return tensor;
}

TensorView TestTensor::View() const {
  if (bytes_.empty()) return TensorView();
  return MakeView(const_cast<std::byte*>(bytes_.data()), dtype_, dims_);
}

TestTensor TestTensor::As(DType dtype) const {
  if (bytes_.empty()) return *this;
  TestTensor converted;
  converted.dtype_ = dtype;
  converted.dims_ = dims_;
  converted.bytes_.resize(std::max<size_t>(static_cast<size_t>(size()) * SizeOf(dtype), 1));
  const TensorView from = View(), to = converted.View();
  ForEachBlock(from.size(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) SetElement(to, i, ElementAt(from, i));
  });
  return converted;
}

double TestTensor::At(int64_t index) const {
  return ElementAt(View(), index);
}

void TestTensor::Set(int64_t index, double value) {
  SetElement(View(), index, value);
}

void TestTensor::PoisonRows(int64_t begin, int64_t count) {
  const TensorView rows = View().Rows(begin, count);
  const double poison = dtype_ == DType::kInt32 ? std::numeric_limits<int32_t>::min()
                                                : std::numeric_limits<double>::quiet_NaN();
  for (int64_t i = 0; i < rows.size(); ++i) SetElement(rows, i, poison);
}

double ElementAt(const TensorView& view, int64_t index) {
  SALAMANDER_CHECK(index >= 0 && index < view.size()) << index << " of " << view.ShapeString();
  switch (view.dtype()) {
    case DType::kFloat32:
      return Load<float>(view, index);
    case DType::kFloat64:
      return Load<double>(view, index);
    case DType::kInt32:
      return Load<int32_t>(view, index);
    case DType::kBFloat16:
      break;
  }
  const uint32_t bits = static_cast<const uint16_t*>(view.raw())[index];
  return static_cast<double>(std::bit_cast<float>(bits << 16));
}

void SetElement(const TensorView& view, int64_t index, double value) {
  SALAMANDER_CHECK(index >= 0 && index < view.size()) << index << " of " << view.ShapeString();
  switch (view.dtype()) {
    case DType::kFloat32:
      return Store<float>(view, index, value);
    case DType::kFloat64:
      return Store<double>(view, index, value);
    case DType::kInt32:
      return Store<int32_t>(view, index, value);
    case DType::kBFloat16:
      static_cast<uint16_t*>(view.raw())[index] = RoundToBFloat16(static_cast<float>(value));
  }
}

testing::AssertionResult BitwiseEqual(const TensorView& actual, const TensorView& expected) {
  if (actual.dtype() != expected.dtype() || !actual.SameShape(expected)) {
    return testing::AssertionFailure()
           << "actual is " << actual.ShapeString() << ", expected is " << expected.ShapeString();
  }
  if (actual.empty() && expected.empty()) return testing::AssertionSuccess();
  if (actual.empty() || expected.empty()) {
    return testing::AssertionFailure()
           << (actual.empty() ? "actual" : "expected") << " is not given";
  }
  const size_t element = SizeOf(actual.dtype());
  const auto* a = static_cast<const char*>(actual.raw());
  const auto* b = static_cast<const char*>(expected.raw());
  if (std::memcmp(a, b, static_cast<size_t>(actual.bytes())) == 0) {
    return testing::AssertionSuccess();
  }
  int64_t different = 0, first = -1;
  for (int64_t i = 0; i < actual.size(); ++i) {
    if (std::memcmp(a + i * element, b + i * element, element) == 0) continue;
    if (different++ == 0) first = i;
  }
  return testing::AssertionFailure()
         << different << " of " << actual.size() << " elements of " << actual.ShapeString()
         << " differ, first element " << first << " (row "
         << first / std::max<int64_t>(actual.row_size(), 1) << "): actual "
         << ElementAt(actual, first) << ", expected " << ElementAt(expected, first);
}

double MaxAbsDifference(const TensorView& actual, const TensorView& expected) {
  SALAMANDER_CHECK(actual.SameShape(expected))
      << actual.ShapeString() << " against " << expected.ShapeString();
  double largest = 0;
  for (int64_t i = 0; i < actual.size(); ++i) {
    const double difference = std::abs(ElementAt(actual, i) - ElementAt(expected, i));
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest;
}

double RelativeRmse(const TensorView& actual, const TensorView& expected) {
  SALAMANDER_CHECK(actual.SameShape(expected))
      << actual.ShapeString() << " against " << expected.ShapeString();
  struct Squares {
    double error = 0, norm = 0;
  };
  std::vector<Squares> blocks(static_cast<size_t>(expected.size() / kBlock + 1));
  ForEachBlock(expected.size(), [&](int64_t begin, int64_t end) {
    Squares sums;
    for (int64_t i = begin; i < end; ++i) {
      const double reference = ElementAt(expected, i);
      const double difference = ElementAt(actual, i) - reference;
      sums.error += difference * difference;
      sums.norm += reference * reference;
    }
    blocks[static_cast<size_t>(begin / kBlock)] = sums;
  });
  double error = 0, norm = 0;
  for (const Squares& block : blocks) error += block.error, norm += block.norm;
  return error == 0 ? 0.0 : std::sqrt(error / norm);
}

double Dot(const TensorView& a, const TensorView& b) {
  SALAMANDER_CHECK(a.SameShape(b)) << a.ShapeString() << " against " << b.ShapeString();
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += ElementAt(a, i) * ElementAt(b, i);
  return sum;
}

}  // namespace salamander
