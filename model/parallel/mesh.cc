#include "model/parallel/mesh.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace salamander {
namespace {

std::string Divisors(int number) {
  std::vector<int> divisors;
  for (int divisor = 1; divisor <= number; ++divisor) {
    if (number % divisor == 0) divisors.push_back(divisor);
  }
  return absl::StrJoin(divisors, ", ");
}

}  // namespace

MeshCoordinate CoordinateOf(const MeshShape& shape, int rank) {
  return {.data = rank / (shape.context * shape.tensor),
          .context = rank / shape.tensor % shape.context,
          .tensor = rank % shape.tensor};
}

int RankOf(const MeshShape& shape, const MeshCoordinate& coordinate) {
  return (coordinate.data * shape.context + coordinate.context) * shape.tensor + coordinate.tensor;
}

absl::StatusOr<MeshShape> FitMesh(int ranks, int context, int tensor) {
  const int64_t product = int64_t{context} * tensor;
  if (context < 1 || tensor < 1 || ranks % product != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "context_parallel ", context, " x tensor_parallel ", tensor, " does not divide the ", ranks,
        " ranks; use a product among ", Divisors(ranks)));
  }
  return MeshShape{.data = static_cast<int>(ranks / product), .context = context, .tensor = tensor};
}

}  // namespace salamander
