#include "tests/model/model_part.h"

#include <cmath>
#include <utility>

#include "tests/support/random_tensor.h"

namespace salamander {

ModelWeights PartOfWeights(const ModelWeights& whole, const TensorShard& shard) {
  const ParameterLayout layout(whole.config, shard);
  auto buffer = ParameterBuffer::Create(layout, whole.buffer.Flat().dtype());
  SALAMANDER_CHECK(buffer.ok()) << buffer.status().ToString();
  for (const ParameterSpec& spec : layout.specs()) {
    const TensorView to = buffer->View(spec), from = whole.View(spec.name);
    for (int64_t index = 0; index < to.size(); ++index)
      SetElement(to, index, ElementAt(from, spec.WholeIndex(index)));
  }
  return {whole.config, layout, *std::move(buffer)};
}

double RelativeError(const TensorView& part, const ParameterSpec& spec, const TensorView& whole) {
  double error = 0.0;
  for (int64_t index = 0; index < part.size(); ++index) {
    const double difference = ElementAt(part, index) - ElementAt(whole, spec.WholeIndex(index));
    error += difference * difference / static_cast<double>(part.size());
  }
  if (error == 0.0) return 0.0;
  return std::sqrt(error / (Dot(whole, whole) / static_cast<double>(whole.size())));
}

}  // namespace salamander
