// Functions of vectors for activations and losses, built on simd.h.
#pragma once

#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {

// e^x for x <= 0, or above by a rounding error; cheaper than Exp. Relative error below 2e-7; 0 below -87, NaN for NaN.
SAS_INLINE Vec ExpNonPositive(Vec x) {
  constexpr float kBiasedRounder = kRounder + 127;  // leaves integer + 127, the exponent of 2^integer, in the low bits
  const Vec rounded = x * 0x1.715476p+0f + kBiasedRounder;
  const Vec integer = rounded - kBiasedRounder;
  const Vec remainder = (x - integer * 0x1.62e4p-1f) - integer * 0x1.7f7d1cp-20f;  // x - integer * ln 2, as in Exp
  const Vec mantissa = Exp2Polynomial(remainder * 0x1.715476p+0f);
  return x < -87.0f ? Vec{} : mantissa * AsFloat(AsInt(rounded) << 23);
}

// The natural logarithm of x >= 2^-126, relative error about 1e-7; infinity and NaN for themselves.
SAS_INLINE Vec Log(Vec x) {
  constexpr int32_t kHalfRoot = 0x3f3504f3;  // sqrt(1/2): mantissas are between it and its double
  const VecInt exponent = (AsInt(x) - kHalfRoot) >> 23;
  const Vec mantissa = AsFloat(AsInt(x) - (exponent << 23));
  // 2 atanh(s) with s = (mantissa - 1) / (mantissa + 1), |s| <= 0.172: the series to s^9.
  const Vec s = (mantissa - 1.0f) / (mantissa + 1.0f), square = s * s;
  Vec series = Broadcast(2.0f / 9);
  series = series * square + 2.0f / 7;
  series = series * square + 2.0f / 5;
  series = series * square + 2.0f / 3;
  series = s * 2.0f + s * square * series;
  const Vec whole = __builtin_convertvector(exponent, Vec);
  const Vec result = whole * 0x1.62e4p-1f + (series + whole * 0x1.7f7d1cp-20f);  // ln 2 in two parts, as in Exp
  return x < std::numeric_limits<float>::infinity() ? result : x;
}

// Density and distribution function of the standard normal distribution.
struct Normal {
  Vec density;     // exp(-x^2 / 2) / sqrt(2 pi)
  Vec cumulative;  // (1 + erf(x / sqrt 2)) / 2
};

// Relative error about 2e-7 in both, down the tail growing to 2e-6; 0 below -13.2. NaN for NaN.
SAS_INLINE Normal StandardNormal(Vec x) {
  const Vec distance = AsFloat(AsInt(x) & INT32_MAX);
  const Vec power = ExpNonPositive(x * x * -0.5f);
  // The upper tail is that times a function that only falls from 1/2 to 0.03: t * polynomial(2 t - 1), t = 1 / (1 +
  // 0.34 distance), minimax on [0, 13.3] with relative error 2.5e-8.
  const Vec t = 1.0f / (distance * 0.34f + 1.0f);
  const Vec s = t * 2.0f - 1.0f;
  Vec poly = Broadcast(-0x1.b1b6fap-14f);
  poly = poly * s + 0x1.20dedep-12f;
  poly = poly * s + 0x1.08aabcp-11f;
  poly = poly * s - 0x1.156c08p-9f;
  poly = poly * s - 0x1.14622cp-8f;
  poly = poly * s + 0x1.ba5788p-7f;
  poly = poly * s + 0x1.311836p-4f;
  poly = poly * s + 0x1.5d401ep-3f;
  poly = poly * s + 0x1.fa242ep-3f;
  const Vec tail = power * t * poly;
  return {power * 0x1.988454p-2f, x < 0.0f ? tail : 1.0f - tail};
}

// 1 / (1 + e^-x), and its derivative without cancellation. NaN for NaN.
struct Sigmoid {
  Vec value, derivative;
};
SAS_INLINE Sigmoid Logistic(Vec x) {
  const Vec power = ExpNonPositive(AsFloat(AsInt(x) | INT32_MIN));  // e^-|x|
  const Vec inverse = 1.0f / (1.0f + power);
  const Vec small = power * inverse;
  return {x < 0.0f ? small : inverse, small * inverse};
}

}  // namespace sas::cpu::SAS_ISA
