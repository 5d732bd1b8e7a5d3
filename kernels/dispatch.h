// Picks an op's backend by the context's device and checks shapes the same way for both.
#ifndef KERNELS_DISPATCH_H_
#define KERNELS_DISPATCH_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

// Shapes between our own layers are a programmer's matter: a mismatch is fatal and names both.
#define CHECK_SAME_SHAPE(a, b)       \
  SALAMANDER_CHECK((a).SameShape(b)) \
      << #a " is " << (a).ShapeString() << ", " #b " is " << (b).ShapeString()

// Returns cpu::Op(context, ...) on a CPU context.
#define DISPATCH_BACKEND(op, context, ...)      \
  switch ((context).device.kind) {              \
    case DeviceKind::kCpu:                      \
      return cpu::op(context, __VA_ARGS__);     \
    case DeviceKind::kCuda:                     \
      break;                                    \
  }                                             \
  return absl::UnimplementedError(absl::StrCat( \
      #op ": this build has no CUDA backend; run on the CPU or build with the CUDA toolkit"))

#endif  // KERNELS_DISPATCH_H_
