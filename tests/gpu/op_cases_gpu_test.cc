// What the bench times is right: each of its cases, on ragged documents in a small model, writes on
// the GPU what it writes on the CPU. The tight bounds are those of each op's own test.
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "tests/gpu/gpu_context.h"
#include "tests/gpu/model_on_gpu.h"
#include "trainer/bench/cases/op_cases.h"

namespace salamander {
namespace {

// An op rounds at most a few times to bf16 on its way; what is wrong is off by far more.
constexpr double kBound = 8 * kBFloat16Rounding;

// One document of more blocks than are selected, one shorter, one of a token.
const std::vector<int64_t> kDocuments = {700, 1, 130, 64};

ModelConfig CasesConfig() {
  ModelConfig config = SmallHybridConfig(2, {0}, 64);
  config.softmax.use_sparse = true;
  config.softmax.sparse.window_size = 64;
  config.softmax.sparse.top_k = 5;
  return config;
}

struct Side {
  explicit Side(const Device& device) : session(*DeviceSession::Open(device)) {}

  std::unique_ptr<DeviceSession> session;
  Arena tensors = *session->Reserve(int64_t{256} << 20);
  Arena scratch = *session->Reserve(int64_t{256} << 20);
};

// What the case writes, on the host.
std::vector<TestTensor> Results(Side& side, const OpCase& op_case) {
  const ArenaScope scope(side.tensors);
  const ExecutionContext context = side.session->Context(side.scratch);
  RandomTensors random(context, side.tensors, side.session->activation_dtype());
  const OpRun prepared = op_case.prepare(random);
  EXPECT_TRUE(random.status().ok()) << random.status();
  const absl::Status status = prepared.run(context);
  EXPECT_TRUE(status.ok()) << status;
  std::vector<TestTensor> results;
  for (const TensorView& result : prepared.results) {
    results.emplace_back(result.dtype(), TestTensor::Dims{result.size()});
    EXPECT_TRUE(
        CopyToHost(context, result.Reshape({result.size()}), results.back().View().raw()).ok());
  }
  return results;
}

TEST(OpCasesGpuTest, EveryCaseWritesWhatTheCpuWrites) {
  SKIP_WITHOUT_GPU();
  const CaseStream stream = CaseStream::Of(CasesConfig(), kDocuments);
  Side gpu({DeviceKind::kCuda, 0}), cpu({});
  for (const OpCase& op_case : OpCases(stream)) {
    SCOPED_TRACE(op_case.name + " " + op_case.shape);
    const std::vector<TestTensor> actual = Results(gpu, op_case);
    const std::vector<TestTensor> expected = Results(cpu, op_case);
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i)
      EXPECT_LE(RelativeRmse(actual[i].View(), expected[i].View()), kBound) << "result " << i;
  }
}

}  // namespace
}  // namespace salamander
