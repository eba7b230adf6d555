// What layer and RMS normalisation share.
#pragma once

#include "cpu/kernels/elementwise.h"

namespace sas::cpu::SAS_ISA {

// 1 / sqrt(variance + eps), variance = the mean of value(i, count)^2 over [0, width) minus rest^2; `squares` is the
// plain sum of the squares. Where that has overflowed, or has vanished and eps does not hide it, values are scaled by a
// power of two before they are squared. Lanes from count on are 0.
template <class Value>
SAS_INLINE float InverseDeviation(int64_t width, float squares, float rest, float eps, const Value& value) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float size = static_cast<float>(width);
  float factor = 1;
  if (squares == kInfinity || (squares < 0x1p-100f && eps < 0x1p-60f)) {
    Vec most{};
    ForEachVector(width,
                  [&](int64_t i, int64_t count) { most = VecMax(most, AsFloat(AsInt(value(i, count)) & INT32_MAX)); });
    const float largest = MaxLane(most);
    if (largest > 0 && largest < kInfinity) {
      const int exponent = static_cast<int>(FloatBits(largest) >> 23) - 127;
      factor = BitsToFloat(static_cast<uint32_t>(127 - Max(-75, Min(exponent, 126))) << 23);
      squares = Sum(SumVectors(width, [=](int64_t i, int64_t count) {
        const Vec scaled = value(i, count) * factor;
        return scaled * scaled;
      }));
      rest *= factor;
    }
  }
  const float variance = Max(squares / size - rest * rest, 0.0f);
  return factor / __builtin_sqrtf(variance + eps * factor * factor);
}

}  // namespace sas::cpu::SAS_ISA
