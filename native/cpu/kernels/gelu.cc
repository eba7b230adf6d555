// GELU: x * Phi(x), or its tanh approximation 0.5 x (1 + tanh u) = x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715
// x^3).
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"
#include "cpu/kernels/vector_math.h"

namespace sas::cpu::SAS_ISA {
namespace {

constexpr float kTwoU = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;

// Both functions are flat outside [-20, 20]; the bounds avoid infinity * 0. NaN passes (the comparison is false).
SAS_INLINE Vec AtLeast(Vec x, float bound) { return x < bound ? Broadcast(bound) : x; }
SAS_INLINE Vec AtMost(Vec x, float bound) { return x > bound ? Broadcast(bound) : x; }

SAS_INLINE Sigmoid TanhGate(Vec x) { return Logistic(x * (x * x * (kTwoU * kCubic) + kTwoU)); }

template <bool kTanh>
SAS_INLINE Vec Value(Vec x) {
  const Vec bounded = AtLeast(x, -20.0f);
  if constexpr (kTanh) return bounded * TanhGate(bounded).value;
  return bounded * StandardNormal(bounded).cumulative;
}

template <bool kTanh>
SAS_INLINE Vec Derivative(Vec x) {
  const Vec bounded = AtMost(AtLeast(x, -20.0f), 20.0f);
  if constexpr (kTanh) {
    const Sigmoid gate = TanhGate(bounded);
    return gate.value + bounded * gate.derivative * (bounded * bounded * (3 * kTwoU * kCubic) + kTwoU);
  }
  const Normal normal = StandardNormal(bounded);
  return normal.cumulative + bounded * normal.density;
}

template <class T, bool kTanh>
void Forward(CpuContext& context, const GeluParams& p) {
  const T* x = static_cast<const T*>(p.x);
  T* output = static_cast<T*>(p.output);
  ParallelChunks(context, p.size, kElementChunk, [=](int64_t begin, int64_t end) {
    ForEachVector(end - begin, [=](int64_t offset, int64_t count) {
      const int64_t i = begin + offset;
      StorePartial(output + i, Value<kTanh>(LoadPartial(x + i, count)), count);
    });
  });
}

template <class T, bool kTanh>
void Backward(CpuContext& context, const GeluBackwardParams& p) {
  const T* grad_output = static_cast<const T*>(p.grad_output);
  const T* x = static_cast<const T*>(p.x);
  T* grad_x = static_cast<T*>(p.grad_x);
  ParallelChunks(context, p.size, kElementChunk, [=](int64_t begin, int64_t end) {
    ForEachVector(end - begin, [=](int64_t offset, int64_t count) {
      const int64_t i = begin + offset;
      const Vec grad = LoadPartial(grad_output + i, count) * Derivative<kTanh>(LoadPartial(x + i, count));
      StorePartial(grad_x + i, grad, count);
    });
  });
}

}  // namespace

Status Gelu(CpuContext& context, const GeluParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    p.tanh_approximation ? Forward<T, true>(context, p) : Forward<T, false>(context, p);
    return Status();
  });
}

Status GeluBackward(CpuContext& context, const GeluBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    p.tanh_approximation ? Backward<T, true>(context, p) : Backward<T, false>(context, p);
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
