// Which device a command runs its models on, as users say it.
#ifndef TRAINER_CONFIG_DEVICE_CHOICE_H_
#define TRAINER_CONFIG_DEVICE_CHOICE_H_

#include "absl/strings/string_view.h"

namespace salamander {

// kAuto: CUDA where the program was built with it and sees a device, else the CPU.
enum class DeviceChoice { kAuto, kCpu, kCuda };
inline constexpr absl::string_view kDeviceChoices[] = {"auto", "cpu", "cuda"};  // in their order

}  // namespace salamander

#endif  // TRAINER_CONFIG_DEVICE_CHOICE_H_
