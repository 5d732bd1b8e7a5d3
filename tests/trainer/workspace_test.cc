#include "trainer/run/workspace.h"

#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model/parallel/communicator.h"
#include "tests/model/tiny_model.h"
#include "tests/support/random_tensor.h"
#include "tests/trainer/fake_device.h"
#include "trainer/run/device_model.h"

namespace salamander {
namespace {

using testing::HasSubstr;

constexpr Device kCpu{};
Device Cuda(int index) {
  return {DeviceKind::kCuda, index};
}

TEST(DeviceForTest, AutoTakesADeviceWhereThereIsOne) {
  EXPECT_EQ(DeviceFor(DeviceChoice::kAuto, 0, 0), kCpu);
  EXPECT_EQ(DeviceFor(DeviceChoice::kAuto, 0, 1), Cuda(0));
  EXPECT_EQ(DeviceFor(DeviceChoice::kCpu, 0, 8), kCpu);
  EXPECT_EQ(DeviceFor(DeviceChoice::kCuda, 0, 0), Cuda(0));  // refused when opened
}

TEST(DeviceForTest, RanksOfAHostTakeTheDevicesTheySeeInTurn) {
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(DeviceFor(DeviceChoice::kAuto, rank, 3), Cuda(rank % 3));
    // Of a launcher that shows each rank a device of its own.
    EXPECT_EQ(DeviceFor(DeviceChoice::kAuto, rank, 1), Cuda(0));
  }
}

TEST(OpenDeviceTest, SaysWhatIsMissingWhereThereIsNoDevice) {
  if (CudaDeviceCount() > 0) GTEST_SKIP() << "this machine has a CUDA device";
  const auto alone = SingleRankCommunicator();
  const auto session = OpenDevice(DeviceChoice::kCuda, *alone);
  EXPECT_EQ(session.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(session.status().message(), HasSubstr("device: cuda was asked for"));
  EXPECT_THAT(session.status().message(), HasSubstr("use device: cpu"));
  const auto chosen = OpenDevice(DeviceChoice::kAuto, *alone);
  ASSERT_TRUE(chosen.ok()) << chosen.status();
  EXPECT_EQ((*chosen)->device(), kCpu);
}

TEST(WorkspaceTest, ArenaOfADeviceLeavesRoomForItsLibraries) {
  FakeDevice device(int64_t{3} << 30);
  Workspace workspace(device);
  const auto alone = SingleRankCommunicator();
  ASSERT_TRUE(workspace.ReserveArena(*alone).ok());
  EXPECT_EQ(*device.FreeBytes(), int64_t{1} << 30);
  EXPECT_EQ(workspace.execution().arena->capacity_bytes(), int64_t{2} << 30);
}

TEST(WorkspaceTest, RanksOfADeviceEachLeaveRoomForTheirLibraries) {
  FakeDevice device(int64_t{6} << 30);
  device.set_processes(2);
  Workspace workspace(device);
  const auto alone = SingleRankCommunicator();
  ASSERT_TRUE(workspace.ReserveArena(*alone).ok());
  EXPECT_EQ(workspace.execution().arena->capacity_bytes(), int64_t{2} << 30);
}

TEST(WorkspaceTest, ADeviceThatTheWeightsFillIsRefused) {
  FakeDevice device(int64_t{1} << 30);
  Workspace workspace(device);
  const auto alone = SingleRankCommunicator();
  const absl::Status status = workspace.ReserveArena(*alone);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("too few for a pass"));
}

ModelWeights SomeWeights() {
  return TinyModel(TinyHybridConfig(3, {1}), DType::kFloat32, 7).weights;
}

TEST(DeviceModelTest, ReadsTheHostsWeightsWhereTheyAreOnTheCpu) {
  const Workspace workspace(CpuSession());
  const ModelWeights weights = SomeWeights();
  const auto model = DeviceModel::Of(weights, workspace);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->transformer().weights().head.raw(), weights.View("head.weight").raw());
}

TEST(DeviceModelTest, ReadsARoundedCopyElsewhere) {
  FakeDevice device;
  const Workspace workspace(device);
  const ModelWeights weights = SomeWeights();
  const auto check = [&](const absl::StatusOr<DeviceModel>& model) {
    ASSERT_TRUE(model.ok()) << model.status();
    const TensorView head = model->transformer().weights().head;
    ASSERT_EQ(head.dtype(), DType::kBFloat16);
    const TensorView host = weights.View("head.weight");
    for (int64_t index = 0; index < head.size(); ++index)
      EXPECT_NEAR(ElementAt(head, index), ElementAt(host, index), 0x1p-8 * 2.0);
  };
  check(DeviceModel::Of(weights, workspace));
  check(DeviceModel::Taking(SomeWeights(), workspace));
}

TEST(DeviceModelTest, ADeviceTooSmallForTheWeightsSaysSo) {
  FakeDevice device(1024);
  const Workspace workspace(device);
  EXPECT_EQ(DeviceModel::Taking(SomeWeights(), workspace).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace salamander
