#include "trainer/ceilings/random_tensors.h"

#include <algorithm>

#include "kernels/base/bfloat16.h"
#include "kernels/base/random.h"
#include "kernels/memory.h"

namespace salamander {
namespace {

// Values are made for so many elements and repeated: making half a billion would take longer than
// what is timed. A prime, so that rows of equal length do not meet equal values.
constexpr int64_t kPatternElements = 1048573;

// Made once: a model has hundreds of tensors, and each begins elsewhere in here.
const std::vector<float>& StandardNormals() {
  static const std::vector<float> values = [] {
    std::vector<float> normals(static_cast<size_t>(kPatternElements));
    for (size_t i = 0; i < normals.size(); ++i) normals[i] = static_cast<float>(NormalAt(0, i));
    return normals;
  }();
  return values;
}

}  // namespace

// `make(key, index)` gives an element of the staged type, which is converted where the tensor has
// another one.
template <typename Make>
void RandomTensors::Fill(const TensorView& tensor, DType staged_type, const Make& make) {
  const uint64_t key = HashCounter(++tensors_made_, 0);
  if (!status_.ok()) return;
  const int64_t count = std::min(tensor.size(), kPatternElements);
  std::vector<decltype(make(key, 0))> pattern(static_cast<size_t>(count));
  for (size_t i = 0; i < pattern.size(); ++i) pattern[i] = make(key, i);
  const ArenaScope scope(*context_.arena);
  const TensorView staged = context_.arena->Tensor(staged_type, {count});
  status_ = CopyFromHost(context_, pattern.data(), staged);
  const TensorView flat = tensor.Reshape({tensor.size()});
  for (int64_t begin = 0; begin < tensor.size() && status_.ok(); begin += count) {
    const int64_t piece = std::min(count, tensor.size() - begin);
    const TensorView from = staged.Rows(0, piece), to = flat.Rows(begin, piece);
    status_ = from.dtype() == to.dtype() ? Copy(context_, from, to) : Convert(context_, from, to);
  }
}

void RandomTensors::FillNormal(const TensorView& tensor, double deviation) {
  const std::vector<float>& normals = StandardNormals();
  Fill(tensor, DType::kBFloat16, [&](uint64_t key, uint64_t index) {
    return Bfloat16OfFloat(static_cast<float>(deviation) * normals[(key + index) % normals.size()]);
  });
}

TensorView RandomTensors::Activation(std::initializer_list<int64_t> dims, double deviation) {
  const TensorView tensor = arena_.Tensor(activations_, dims);
  FillNormal(tensor, deviation);
  return tensor;
}

TensorView RandomTensors::Statistic(std::initializer_list<int64_t> dims, double low, double high) {
  const TensorView tensor = arena_.Tensor(DType::kFloat32, dims);
  Fill(tensor, DType::kFloat32, [=](uint64_t key, uint64_t index) {
    return static_cast<float>(low + (high - low) * UniformAt(key, index));
  });
  return tensor;
}

TensorView RandomTensors::Integers(std::initializer_list<int64_t> dims, int64_t bound) {
  const TensorView tensor = arena_.Tensor(DType::kInt32, dims);
  Fill(tensor, DType::kInt32, [bound](uint64_t key, uint64_t index) {
    return static_cast<int32_t>(HashCounter(key, index) % static_cast<uint64_t>(bound));
  });
  return tensor;
}

TensorView RandomTensors::Of(const std::vector<int32_t>& values,
                             std::initializer_list<int64_t> dims) {
  const TensorView tensor = arena_.Tensor(DType::kInt32, dims);
  if (status_.ok()) status_ = CopyFromHost(context_, values.data(), tensor);
  return tensor;
}

TensorView RandomTensors::Zeros(DType dtype, std::initializer_list<int64_t> dims) {
  const TensorView tensor = arena_.Tensor(dtype, dims);
  if (status_.ok()) status_ = Zero(context_, tensor);
  return tensor;
}

}  // namespace salamander
