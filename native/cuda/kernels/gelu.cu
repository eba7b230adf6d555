// GELU: x * Phi(x), or its tanh approximation 0.5 x (1 + tanh u) = x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715
// x^3).
#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

constexpr float kTwoU = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kCubic = 0.044715f;
constexpr float kBound = 20.0f;

// Both functions are flat outside [-20, 20]; the bounds avoid infinity * 0. NaN passes (the comparison is false).
__device__ __forceinline__ float AtLeast(float x, float bound) { return x < bound ? bound : x; }
__device__ __forceinline__ float AtMost(float x, float bound) { return x > bound ? bound : x; }

// Density and distribution function of the standard normal distribution, from one exponential: erff and expf apart
// would make the kernel wait for arithmetic rather than for memory.
struct Normal {
  float density;     // exp(-x^2 / 2) / sqrt(2 pi)
  float cumulative;  // (1 + erf(x / sqrt 2)) / 2
};

// Relative error about 2e-7 in both, down the tail growing to 2e-6.
__device__ __forceinline__ Normal StandardNormal(float x) {
  const float power = expf(x * x * -0.5f);
  // The upper tail is that times a function that only falls from 1/2 to 0.03: t * polynomial(2 t - 1), t = 1 / (1 +
  // 0.34 |x|), minimax on [0, 13.3] with relative error 2.5e-8.
  const float t = 1.0f / (fabsf(x) * 0.34f + 1.0f);
  const float s = t * 2.0f - 1.0f;
  float poly = -0x1.b1b6fap-14f;
  poly = poly * s + 0x1.20dedep-12f;
  poly = poly * s + 0x1.08aabcp-11f;
  poly = poly * s - 0x1.156c08p-9f;
  poly = poly * s - 0x1.14622cp-8f;
  poly = poly * s + 0x1.ba5788p-7f;
  poly = poly * s + 0x1.311836p-4f;
  poly = poly * s + 0x1.5d401ep-3f;
  poly = poly * s + 0x1.fa242ep-3f;
  const float tail = power * t * poly;
  return {power * 0x1.988454p-2f, x < 0.0f ? tail : 1.0f - tail};
}

// 1 / (1 + e^-2u), and its derivative without cancellation.
struct Sigmoid {
  float value, derivative;
};
__device__ __forceinline__ Sigmoid TanhGate(float x) {
  const float two_u = x * (x * x * (kTwoU * kCubic) + kTwoU);
  const float power = expf(-fabsf(two_u));
  const float inverse = 1.0f / (1.0f + power);
  const float small = power * inverse;
  return {two_u < 0.0f ? small : inverse, small * inverse};
}

template <bool kTanh>
struct Value {
  __device__ float operator()(float x) const {
    const float bounded = AtLeast(x, -kBound);
    return bounded * (kTanh ? TanhGate(bounded).value : StandardNormal(bounded).cumulative);
  }
};

template <bool kTanh>
struct Gradient {
  __device__ float operator()(float grad_output, float x) const {
    const float bounded = AtMost(AtLeast(x, -kBound), kBound);
    if constexpr (kTanh) {
      const Sigmoid gate = TanhGate(bounded);
      const float slope = bounded * bounded * (3 * kTwoU * kCubic) + kTwoU;  // of 2 u
      return grad_output * (gate.value + bounded * gate.derivative * slope);
    } else {
      const Normal normal = StandardNormal(bounded);
      return grad_output * (normal.cumulative + bounded * normal.density);
    }
  }
};

}  // namespace

Status Gelu(CudaContext& context, const GeluParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const auto* x = static_cast<const T*>(p.x);
    auto* output = static_cast<T*>(p.output);
    return p.tanh_approximation ? Map(context, p.size, Value<true>{}, output, x)
                                : Map(context, p.size, Value<false>{}, output, x);
  });
}

Status GeluBackward(CudaContext& context, const GeluBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const auto* grad_output = static_cast<const T*>(p.grad_output);
    const auto* x = static_cast<const T*>(p.x);
    auto* grad_x = static_cast<T*>(p.grad_x);
    return p.tanh_approximation ? Map(context, p.size, Gradient<true>{}, grad_x, grad_output, x)
                                : Map(context, p.size, Gradient<false>{}, grad_x, grad_output, x);
  });
}

}  // namespace sas::cuda
