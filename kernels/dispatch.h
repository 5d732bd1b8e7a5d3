// Picks an op's backend by the context's device and checks shapes the same way for both.
#ifndef KERNELS_DISPATCH_H_
#define KERNELS_DISPATCH_H_

#include "absl/status/status.h"

#include "kernels/backend_ops.h"
#include "kernels/base/execution_context.h"
#include "kernels/base/tensor_view.h"

// Shapes between our own layers are a programmer's matter: a mismatch is fatal and names both.
#define CHECK_SAME_SHAPE(a, b)       \
  SALAMANDER_CHECK((a).SameShape(b)) \
      << #a " is " << (a).ShapeString() << ", " #b " is " << (b).ShapeString()

// The gradient of a parameter has its shape, in its StatisticsType.
#define CHECK_GRADIENT_OF(parameter, gradient)                                   \
  SALAMANDER_CHECK((gradient).dtype() == StatisticsType((parameter).dtype()) &&  \
                   (gradient).rank() == (parameter).rank() &&                    \
                   (gradient).dim(0) == (parameter).dim(0) &&                    \
                   (gradient).size() == (parameter).size())                      \
      << #parameter " is " << (parameter).ShapeString() << ", " #gradient " is " \
      << (gradient).ShapeString()

// Returns cpu::Op(context, ...) or cuda::Op(context, ...). A CUDA context exists only in a build
// with the backend: DeviceSession::Open refuses it elsewhere.
#ifdef SALAMANDER_HAS_CUDA
#define DISPATCH_BACKEND(op, context, ...)                                           \
  return (context).device.kind == DeviceKind::kCuda ? cuda::op(context, __VA_ARGS__) \
                                                    : cpu::op(context, __VA_ARGS__)
#else
#define DISPATCH_BACKEND(op, context, ...)                                               \
  SALAMANDER_CHECK((context).device.kind == DeviceKind::kCpu) << "a build without CUDA"; \
  return cpu::op(context, __VA_ARGS__)
#endif

#endif  // KERNELS_DISPATCH_H_
