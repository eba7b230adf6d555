// The arithmetic of a tensor-core product.
#include <cmath>

#include "core/convert.h"
#include "emulator.h"

namespace sas::emulator {
namespace {

// `sum` rounded towards zero, as the tensor core leaves its sums. Products of 11-bit factors and their sums are exact
// in double as long as their exponents differ by less than 30.
float Truncated(double sum) {
  const float nearest = static_cast<float>(sum);
  const bool away = std::fabs(static_cast<double>(nearest)) > std::fabs(sum);
  return BitsToFloat(FloatBits(nearest) - (away && std::isfinite(nearest) ? 1u : 0u));
}

template <int kDepth>
void Multiply(const float* a, const float* b, float* c) {
  for (int row = 0; row < 16; ++row) {
    double sum[8];
    for (int j = 0; j < 8; ++j) sum[j] = c[row * 8 + j];
    for (int k = 0; k < kDepth; ++k) {
      const double left = a[row * kDepth + k];
      for (int j = 0; j < 8; ++j) sum[j] += left * b[k * 8 + j];
    }
    for (int j = 0; j < 8; ++j) c[row * 8 + j] = Truncated(sum[j]);
  }
}

}  // namespace

void MultiplyTile(int depth, const float* a, const float* b, float* c) {
  if (depth == 16) {
    Multiply<16>(a, b, c);
  } else {
    Multiply<8>(a, b, c);
  }
}

}  // namespace sas::emulator
