// How a small attention problem becomes a long stream on the device: behind rows that belong to
// nobody, or with its first document over and over.
#ifndef TESTS_GPU_ATTENTION_STREAM_H_
#define TESTS_GPU_ATTENTION_STREAM_H_

#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "tests/gpu/long_stream.h"
#include "tests/kernels/attention_problem.h"

// Begins a test of a problem at such a place.
#define SKIP_WITHOUT_GPU_MEMORY_FOR(problem, place)                               \
  SKIP_WITHOUT_GPU_MEMORY(::salamander::AttentionStream(problem, place).bytes() + \
                          (place).scratch_bytes)

namespace salamander {

// Where a problem lies in the stream that the device sees, and what the device has beside.
struct StreamPlace {
  int64_t before = 0;  // rows of NaN in front of it
  int64_t copies = 1;  // of its first document, which begins its rows: all in one document
  int64_t shown = 0;   // the copy whose rows a result holds
  int64_t scratch_bytes = int64_t{256} << 20;
  DeviceOptions options = {};
};

class AttentionStream {
 public:
  // Both outlive it.
  AttentionStream(const AttentionProblem& problem, const StreamPlace& place)
      : problem_(problem),
        place_(place),
        repeated_(place.copies > 1 ? problem.segments[0].query_count : problem.rows()) {}

  int64_t rows() const { return place_.before + (place_.copies - 1) * repeated_ + problem_.rows(); }

  // Of the device's memory: all tensors, and the copies by which they come and go.
  int64_t bytes() const {
    const int64_t bf16_row = 4 * (problem_.q.View().row_size() + problem_.k.View().row_size());
    const int64_t lists = problem_.blocks.View().empty() ? 0 : problem_.blocks.View().row_size();
    const int64_t row_bytes = 2 * bf16_row + 4 * (problem_.q.View().dim(1) + lists);
    return (rows() + 2 * problem_.rows()) * row_bytes + (int64_t{1} << 20);
  }

  std::vector<Segment> segments() const {
    std::vector<Segment> segments = Behind(place_.before, problem_.segments);
    if (place_.copies == 1) return segments;
    const int64_t more = (place_.copies - 1) * repeated_;
    segments[0].query_count += more;
    for (size_t i = 1; i < segments.size(); ++i) {
      segments[i].query_begin += more;
      segments[i].key_begin += more;
    }
    return segments;
  }

  // Rows of the problem, or of the whole stream where they are given.
  TensorView Upload(GpuContext& gpu, const TestTensor& given) const {
    const TensorView source = gpu.Upload(given);
    if (source.dim(0) == rows()) return source;
    const TensorView stream = Poisoned(gpu, given, source.dtype());
    for (int64_t copy = 0; copy < place_.copies; ++copy) {
      ForEachPart(source, stream, copy, [&](const TensorView& from, const TensorView& to) {
        EXPECT_TRUE(Copy(gpu, from, to).ok());
      });
    }
    return stream;
  }

  TensorView Poisoned(GpuContext& gpu, const TestTensor& like,
                      DType dtype = DType::kBFloat16) const {
    return InRowsLike(gpu.Poisoned(dtype, {rows() * like.View().row_size()}), like.View());
  }

  TestTensor Download(GpuContext& gpu, const TensorView& stream) const {
    const TensorView shown =
        InRowsLike(gpu.Poisoned(stream.dtype(), {problem_.rows() * stream.row_size()}), stream);
    ForEachPart(shown, stream, place_.shown, [&](const TensorView& to, const TensorView& from) {
      EXPECT_TRUE(Copy(gpu, from, to).ok());
    });
    return gpu.Download(shown);
  }

 private:
  // Calls visit(rows of the problem, their place in the stream) for a copy and for what follows the
  // last one.
  template <typename Visit>
  void ForEachPart(const TensorView& rows, const TensorView& stream, int64_t copy,
                   const Visit& visit) const {
    const int64_t rest = rows.dim(0) - repeated_;
    visit(rows.Rows(0, repeated_), stream.Rows(place_.before + copy * repeated_, repeated_));
    visit(rows.Rows(repeated_, rest), stream.Rows(stream.dim(0) - rest, rest));
  }

  const AttentionProblem& problem_;
  const StreamPlace& place_;
  int64_t repeated_;  // rows
};

}  // namespace salamander

#endif  // TESTS_GPU_ATTENTION_STREAM_H_
