// Graphs of cuDNN's frontend, of one SDPA node each, built once and kept. A document that is the
// whole stream has a graph for its length, the fastest form. All else is packed: ragged offsets and
// lengths lie on the device, so that a graph serves every packing of its bucket.
// Statistics of packed documents are token-major, [T, H] like ours: head-major ones with a bounded
// total length give zero gradients in some versions (cudnn-frontend issue 462). Those of a whole
// stream are read head-major alone before cuDNN 9.26, and are copied for that.
#include "kernels/cuda/attention/cudnn_attention.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include "absl/strings/str_cat.h"

#include "kernels/base/logging.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/attention/head_major.h"
#include "kernels/cuda/queue/status.h"
#include "kernels/cuda/runtime.h"

namespace salamander::cuda {
namespace {

namespace fe = cudnn_frontend;
using Tensor = std::shared_ptr<fe::graph::Tensor_attributes>;

// 9.6 brought ragged gradients of grouped queries, 9.18 the end of NaN from workspace that nothing
// wrote; so it need not be cleared here.
constexpr size_t kLeastVersion = 91800;
constexpr int64_t kLeastLength = 128;  // of a bucket: the kernels' tile

enum Uid : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kStatistics,
  kDOut,
  kDq,
  kDk,
  kDv,
  kQueryLengths,
  kKeyLengths,
  kQueryOffsets,
  kKeyOffsets,
  kStatisticsOffsets
};

std::string VersionString(size_t version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

// What a graph is built for.
struct Bucket {
  bool is_backward;
  bool is_whole;               // one document of `longest` rows, which are all there are
  int64_t documents, longest;  // at most
  int64_t rows, key_rows;      // of the tensors, which bound the backward's scratch; else 0
  int64_t heads, key_heads, head_dim;
  float scale;

  auto operator<=>(const Bucket&) const = default;
};

std::string Text(const Bucket& bucket) {
  return absl::StrCat(bucket.is_backward ? "SDPA backward" : "SDPA forward", " of ",
                      bucket.is_whole ? "" : absl::StrCat("up to ", bucket.documents, " x "),
                      bucket.longest, " tokens, ", bucket.heads, " heads over ", bucket.key_heads,
                      " key heads of ", bucket.head_dim);
}

absl::Status FrontendFailure(fe::error_t error, const char* step, const Bucket& bucket, int line) {
  return absl::InternalError(
      absl::StrCat(FailedCall(absl::StrCat(step, " ", Text(bucket)), __FILE__, line), ": cuDNN ",
                   VersionString(cudnnGetVersion()), ": ", error.get_message()));
}

#define RETURN_IF_FRONTEND_ERROR(call, step, bucket)                          \
  do {                                                                        \
    if (const fe::error_t frontend_error = (call); frontend_error.is_bad()) { \
      return FrontendFailure(frontend_error, step, bucket, __LINE__);         \
    }                                                                         \
  } while (false)

struct Plan {
  fe::graph::Graph graph;
  int64_t workspace_bytes = 0;
};

using Pointers = std::unordered_map<int64_t, void*>;

// Adds the tensors that both directions share to a graph.
class GraphInputs {
 public:
  GraphInputs(fe::graph::Graph& graph, const Bucket& bucket) : graph_(graph), bucket_(bucket) {
    if (bucket.is_whole) return;
    query_lengths_ = PerDocument(kQueryLengths, bucket.documents, fe::DataType_t::INT32);
    key_lengths_ = PerDocument(kKeyLengths, bucket.documents, fe::DataType_t::INT32);
    query_offsets_ = PerDocument(kQueryOffsets, bucket.documents + 1, fe::DataType_t::INT64);
    key_offsets_ = PerDocument(kKeyOffsets, bucket.documents + 1, fe::DataType_t::INT64);
    statistics_offsets_ =
        PerDocument(kStatisticsOffsets, bucket.documents + 1, fe::DataType_t::INT64);
  }

  Tensor Queries(Uid uid) { return graph_.tensor(AsQueries(uid, {})); }
  Tensor Keys(Uid uid) { return graph_.tensor(AsKeys(uid, {})); }
  Tensor Statistics() { return graph_.tensor(AsStatistics({})); }

  // The same for a tensor that a node made.
  void SetQueries(Uid uid, const Tensor& made) { *made = AsQueries(uid, *made).set_output(true); }
  void SetKeys(Uid uid, const Tensor& made) { *made = AsKeys(uid, *made).set_output(true); }
  void SetStatistics(const Tensor& made) { *made = AsStatistics(*made).set_output(true); }

  // What is masked: keys behind the query and, where documents are packed, behind their length.
  template <typename Node>
  Node Masked(Node node) const {
    node.set_attn_scale(bucket_.scale)
        .set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
        .set_diagonal_band_right_bound(0);
    if (!bucket_.is_whole) {
      node.set_padding_mask(true).set_seq_len_q(query_lengths_).set_seq_len_kv(key_lengths_);
    }
    return node;
  }

 private:
  using Attributes = fe::graph::Tensor_attributes;

  Tensor PerDocument(Uid uid, int64_t count, fe::DataType_t type) {
    return graph_.tensor(Attributes()
                             .set_uid(uid)
                             .set_dim({count, 1, 1, 1})
                             .set_stride({1, 1, 1, 1})
                             .set_data_type(type));
  }
  // Token-major rows of `heads` times `width`.
  Attributes Packed(Uid uid, Attributes attributes, int64_t heads, int64_t width,
                    const Tensor& offsets) const {
    return attributes.set_uid(uid)
        .set_dim({bucket_.documents, heads, bucket_.longest, width})
        .set_stride({bucket_.longest * heads * width, width, heads * width, 1})
        .set_ragged_offset(offsets);
  }
  Attributes AsQueries(Uid uid, const Attributes& attributes) const {
    return Packed(uid, attributes, bucket_.heads, bucket_.head_dim, query_offsets_);
  }
  Attributes AsKeys(Uid uid, const Attributes& attributes) const {
    return Packed(uid, attributes, bucket_.key_heads, bucket_.head_dim, key_offsets_);
  }
  Attributes AsStatistics(const Attributes& attributes) const {
    Attributes statistics = Packed(kStatistics, attributes, bucket_.heads, 1, statistics_offsets_)
                                .set_data_type(fe::DataType_t::FLOAT);
    if (bucket_.is_whole && bucket_.is_backward) {
      statistics.set_stride({bucket_.heads * bucket_.longest, bucket_.longest, 1, 1});
    }
    return statistics;
  }

  fe::graph::Graph& graph_;
  const Bucket& bucket_;
  Tensor query_lengths_, key_lengths_;
  Tensor query_offsets_, key_offsets_, statistics_offsets_;  // null for a whole stream
};

void AddForward(fe::graph::Graph& graph, const Bucket& bucket) {
  GraphInputs inputs(graph, bucket);
  const auto attributes = inputs.Masked(fe::graph::SDPA_attributes().set_generate_stats(true));
  const auto [out, statistics] =
      graph.sdpa(inputs.Queries(kQ), inputs.Keys(kK), inputs.Keys(kV), attributes);
  inputs.SetQueries(kOut, out);
  inputs.SetStatistics(statistics);
}

void AddBackward(fe::graph::Graph& graph, const Bucket& bucket) {
  GraphInputs inputs(graph, bucket);
  auto attributes = inputs.Masked(fe::graph::SDPA_backward_attributes());
  if (!bucket.is_whole) {
    attributes.set_max_total_seq_len_q(bucket.rows).set_max_total_seq_len_kv(bucket.key_rows);
  }
  const auto [dq, dk, dv] = graph.sdpa_backward(
      inputs.Queries(kQ), inputs.Keys(kK), inputs.Keys(kV), inputs.Queries(kOut),
      inputs.Queries(kDOut), inputs.Statistics(), attributes);
  inputs.SetQueries(kDq, dq);
  inputs.SetKeys(kDk, dk);
  inputs.SetKeys(kDv, dv);
}

// The segments' lengths and, in elements, where they begin, on their way to the device. Documents
// that only fill the bucket have no length and lie behind the last.
absl::Status AddTables(const ExecutionContext& context, const Bucket& bucket, Segments segments,
                       Pointers& pointers) {
  const auto count = static_cast<size_t>(bucket.documents);
  std::vector<int32_t> lengths(count, 0);
  std::vector<int64_t> query_offsets(count + 1), key_offsets(count + 1),
      statistics_offsets(count + 1);
  for (size_t i = 0; i <= count; ++i) {
    const bool is_filler = i >= segments.size();
    const Segment& segment = is_filler ? segments.back() : segments[i];
    if (!is_filler) lengths[i] = static_cast<int32_t>(segment.query_count);
    const int64_t behind = is_filler ? segment.query_count : 0;
    statistics_offsets[i] = (segment.query_begin + behind) * bucket.heads;
    query_offsets[i] = statistics_offsets[i] * bucket.head_dim;
    key_offsets[i] = (segment.key_begin + behind) * bucket.key_heads * bucket.head_dim;
  }
  const auto add = [&](Uid uid, const auto& table) -> absl::Status {
    ASSIGN_OR_RETURN(const auto* copy, UploadArray(context, absl::MakeConstSpan(table)));
    pointers[uid] = const_cast<void*>(static_cast<const void*>(copy));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(add(kQueryLengths, lengths));
  pointers[kKeyLengths] = pointers[kQueryLengths];
  RETURN_IF_ERROR(add(kQueryOffsets, query_offsets));
  RETURN_IF_ERROR(add(kKeyOffsets, key_offsets));
  return add(kStatisticsOffsets, statistics_offsets);
}

// Lengths that recipes ask for. Others have a graph only by their bucket, lest every document of a
// data set that is evaluated one by one gets its own.
constexpr int64_t kWholeLengths = 512;

template <typename Args>
bool IsWhole(const Args& args) {
  const int64_t rows = args.q.dim(0);
  return args.segments.size() == 1 && args.segments[0].query_count == rows &&
         args.k.dim(0) == rows && rows % kWholeLengths == 0;
}

template <typename Args>
Bucket BucketOf(const Args& args, bool is_backward) {
  const bool is_whole = IsWhole(args);
  int64_t longest = kLeastLength;
  for (const Segment& segment : args.segments) longest = std::max(longest, segment.query_count);
  const auto ceil = [](int64_t count) {
    return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
  };
  return {.is_backward = is_backward,
          .is_whole = is_whole,
          .documents = ceil(static_cast<int64_t>(args.segments.size())),
          .longest = is_whole ? longest : ceil(longest),
          .rows = is_backward && !is_whole ? args.q.dim(0) : 0,
          .key_rows = is_backward && !is_whole ? args.k.dim(0) : 0,
          .heads = args.q.dim(1),
          .key_heads = args.k.dim(1),
          .head_dim = args.q.dim(2),
          .scale = static_cast<float>(args.scale)};
}

class Graphs : public CudnnAttention {
 public:
  explicit Graphs(cudnnHandle_t handle) : handle_(handle) {}
  ~Graphs() override {
    plans_.clear();
    cudnnDestroy(handle_);
  }

  bool Serves(int64_t head_dim) const override { return head_dim == 64 || head_dim == 128; }

  absl::Status Forward(const ExecutionContext& context,
                       const DenseAttentionForwardArgs& args) override {
    const ArenaScope scope(*context.arena);
    TensorView logsumexp = args.logsumexp;
    if (logsumexp.empty()) {
      logsumexp = context.arena->Tensor(DType::kFloat32, {args.q.dim(0), args.q.dim(1)});
    }
    return Run(context, BucketOf(args, false), args.segments,
               {{kQ, args.q.raw()},
                {kK, args.k.raw()},
                {kV, args.v.raw()},
                {kOut, args.out.raw()},
                {kStatistics, logsumexp.raw()}});
  }

  absl::Status Backward(const ExecutionContext& context,
                        const DenseAttentionBackwardArgs& args) override {
    const ArenaScope scope(*context.arena);
    const Bucket bucket = BucketOf(args, true);
    TensorView logsumexp = args.logsumexp;
    if (bucket.is_whole) {
      logsumexp = context.arena->Tensor(DType::kFloat32, {bucket.heads, bucket.longest});
      RETURN_IF_ERROR(CopyHeadMajor(context, args.logsumexp, logsumexp));
    }
    return Run(context, bucket, args.segments,
               {{kQ, args.q.raw()},
                {kK, args.k.raw()},
                {kV, args.v.raw()},
                {kOut, args.out.raw()},
                {kStatistics, logsumexp.raw()},
                {kDOut, args.d_out.raw()},
                {kDq, args.dq.raw()},
                {kDk, args.dk.raw()},
                {kDv, args.dv.raw()}});
  }

 private:
  absl::StatusOr<Plan*> PlanFor(const Bucket& bucket) {
    std::unique_ptr<Plan>& plan = plans_[bucket];
    if (plan != nullptr) return plan.get();
    auto fresh = std::make_unique<Plan>();
    fresh->graph.set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    if (bucket.is_backward) {
      AddBackward(fresh->graph, bucket);
    } else {
      AddForward(fresh->graph, bucket);
    }
    RETURN_IF_FRONTEND_ERROR(fresh->graph.build(handle_, {fe::HeurMode_t::A}), "building", bucket);
    RETURN_IF_FRONTEND_ERROR(fresh->graph.get_workspace_size(fresh->workspace_bytes),
                             "sizing the workspace of", bucket);
    plan = std::move(fresh);
    return plan.get();
  }

  absl::Status Run(const ExecutionContext& context, const Bucket& bucket, Segments segments,
                   Pointers pointers) {
    ASSIGN_OR_RETURN(Plan* const plan, PlanFor(bucket));
    if (!bucket.is_whole) RETURN_IF_ERROR(AddTables(context, bucket, segments, pointers));
    void* const workspace = context.arena->Allocate(std::max<int64_t>(plan->workspace_bytes, 1));
    std::vector<uint64_t> identity = {WordOf(plan), WordOf(workspace)};
    for (int64_t uid = kQ; uid <= kStatisticsOffsets; ++uid) {
      const auto found = pointers.find(uid);
      identity.push_back(found == pointers.end() ? 0 : WordOf(found->second));
    }
    const auto enqueue = [&](cudaStream_t /*of handle_*/) -> absl::Status {
      RETURN_IF_FRONTEND_ERROR(plan->graph.execute(handle_, pointers, workspace), "running",
                               bucket);
      return absl::OkStatus();
    };
    return context.cuda->Call({.name = "SDPA", .identity = identity, .enqueue = enqueue});
  }

  cudnnHandle_t handle_;
  std::map<Bucket, std::unique_ptr<Plan>> plans_;
};

}  // namespace

std::unique_ptr<CudnnAttention> CudnnAttention::Open(cudaStream_t stream,
                                                     const cudaDeviceProp& device) {
  // Of newer GPUs than Hopper, consumer ones (sm_120) lack packed statistics.
  if (device.major != 9 && device.major != 10) return nullptr;
  if (cudnnGetVersion() < kLeastVersion) {
    LogWarning(absl::StrCat("found cuDNN ", VersionString(cudnnGetVersion()),
                            ", dense attention wants ", VersionString(kLeastVersion),
                            " or newer: it runs on our own kernels, slower"));
    return nullptr;
  }
  cudnnHandle_t handle = nullptr;
  if (cudnnCreate(&handle) != CUDNN_STATUS_SUCCESS) return nullptr;
  if (cudnnSetStream(handle, stream) != CUDNN_STATUS_SUCCESS) {
    cudnnDestroy(handle);
    return nullptr;
  }
  return std::make_unique<Graphs>(handle);
}

}  // namespace salamander::cuda
