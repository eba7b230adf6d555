// Scalar conversions between f32 and the 16-bit storage types, round to nearest even. Internal linkage on purpose:
// these are inlined into code compiled for different instruction sets, which must not share one copy.
#pragma once

#include "core/dtype.h"

namespace sas {

static inline uint32_t FloatBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}
static inline float BitsToFloat(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline float ToFloat(float value) { return value; }
static inline float ToFloat(BFloat16 value) { return BitsToFloat(static_cast<uint32_t>(value.bits) << 16); }
static inline float ToFloat(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return BitsToFloat(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // infinity, NaN
  // Scaling by 2^112 re-biases the exponent and also normalises subnormals, exactly.
  return BitsToFloat(sign | FloatBits(BitsToFloat(magnitude << 13) * 0x1p112f));
}

static inline void FromFloat(float value, float* out) { *out = value; }
static inline void FromFloat(float value, BFloat16* out) {
  const uint32_t bits = FloatBits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    out->bits = static_cast<uint16_t>(bits >> 16 | 0x40u);  // a quiet NaN stays one
    return;
  }
  out->bits = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
static inline void FromFloat(float value, Float16* out) {
  const uint32_t bits = FloatBits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 leaves the result's bits, rounded to nearest even, at the bottom of the mantissa.
    half = FloatBits(BitsToFloat(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  }
  out->bits = static_cast<uint16_t>(sign | half);
}

}  // namespace sas
