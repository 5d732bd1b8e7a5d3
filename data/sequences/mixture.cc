#include "data/sequences/mixture.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"

namespace salamander {

absl::StatusOr<MixtureSchedule> MixtureSchedule::Create(absl::Span<const double> weights) {
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] >= 0) || !std::isfinite(weights[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("weight ", i, " of the mixture is ", weights[i], "; expected 0 or more"));
    }
    sum += weights[i];
  }
  if (!(sum > 0) || !std::isfinite(sum)) {
    return absl::InvalidArgumentError(absl::StrCat("the mixture's ", weights.size(),
                                                   " weights sum to ", sum,
                                                   "; give at least one source weight above 0"));
  }
  MixtureSchedule schedule;
  schedule.weights_before_.push_back(0);
  for (const double weight : weights) {
    const uint64_t share = static_cast<uint64_t>(std::llround(weight / sum * 0x1.0p32));
    schedule.weights_before_.push_back(schedule.weights_before_.back() + share);
  }
  return schedule;
}

int64_t MixtureSchedule::LeftCount(int begin, int end, int64_t n) const {
  const int middle = begin + (end - begin) / 2;
  const uint64_t left = weights_before_[middle] - weights_before_[begin];
  const uint64_t both = weights_before_[end] - weights_before_[begin];
  if (both == 0) return 0;
  if (left == both) return n;
  const auto doubled = static_cast<unsigned __int128>(n) * left * 2 + both;
  return static_cast<int64_t>(doubled / (static_cast<unsigned __int128>(both) * 2));
}

MixtureSchedule::Draw MixtureSchedule::At(int64_t n) const {
  int begin = 0;
  int end = static_cast<int>(weights_before_.size()) - 1;
  while (end - begin > 1) {
    const int middle = begin + (end - begin) / 2;
    const int64_t left = LeftCount(begin, end, n);
    if (LeftCount(begin, end, n + 1) > left) {
      end = middle;
      n = left;
    } else {
      begin = middle;
      n -= left;
    }
  }
  return {.source = begin, .index = n};
}

std::vector<int64_t> MixtureSchedule::Counts(int64_t n) const {
  const int sources = static_cast<int>(weights_before_.size()) - 1;
  std::vector<int64_t> counts(sources);
  AddCounts(0, sources, n, &counts);
  return counts;
}

void MixtureSchedule::AddCounts(int begin, int end, int64_t n, std::vector<int64_t>* counts) const {
  if (end - begin == 1) {
    (*counts)[begin] += n;
    return;
  }
  const int middle = begin + (end - begin) / 2;
  const int64_t left = LeftCount(begin, end, n);
  AddCounts(begin, middle, left, counts);
  AddCounts(middle, end, n - left, counts);
}

absl::StatusOr<std::unique_ptr<SequenceMixture>> SequenceMixture::Create(
    std::vector<MixtureComponent> components) {
  std::vector<double> weights;
  for (const MixtureComponent& component : components) {
    weights.push_back(component.weight);
    const int64_t length = component.stream->sequence_length();
    const int64_t expected = components[0].stream->sequence_length();
    if (length != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat("source ", component.name, " of the mixture gives sequences of ", length,
                       " tokens, ", components[0].name, " of ", expected, "; expected one length"));
    }
  }
  ASSIGN_OR_RETURN(MixtureSchedule schedule, MixtureSchedule::Create(weights));
  return std::unique_ptr<SequenceMixture>(
      new SequenceMixture(std::move(components), std::move(schedule)));
}

SequenceMixture::SequenceMixture(std::vector<MixtureComponent> components, MixtureSchedule schedule)
    : components_(std::move(components)), schedule_(std::move(schedule)) {}

absl::StatusOr<PackedStream> SequenceMixture::Sequence(int64_t n) const {
  SALAMANDER_CHECK(n >= 0) << n;
  const MixtureSchedule::Draw draw = schedule_.At(n);
  const MixtureComponent& component = components_[draw.source];
  auto sequence = component.stream->Sequence(draw.index);
  if (sequence.ok()) return sequence;
  return Annotate(sequence.status(), absl::StrCat("source ", component.name));
}

std::vector<SourcePosition> SequenceMixture::PositionsAt(int64_t n) const {
  const std::vector<int64_t> counts = schedule_.Counts(n);
  std::vector<SourcePosition> positions;
  for (size_t i = 0; i < components_.size(); ++i) {
    positions.push_back(components_[i].stream->PositionAt(counts[i]));
  }
  return positions;
}

}  // namespace salamander
