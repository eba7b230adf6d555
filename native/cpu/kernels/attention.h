// What attention's forward and backward share. Softmax is 2^((score - max) * log2_scale), the difference taken first:
// it is small where weights count, while a product with the scale would round away 512 of a score of 1e10.
#pragma once

#include "core/params.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// From differences of scores to units of log2; finite for every scale, since the difference may be 0.
SAS_INLINE float Log2Scale(float scale) {
  constexpr float kMost = std::numeric_limits<float>::max();
  return Max(-kMost, Min(scale * kLog2E, kMost));
}

// Keys per block: one panel of register tiles.
inline constexpr int64_t kKeyBlock = 64;

// The number of keys that query `i` sees: with `causal`, the mask is aligned to the bottom right.
SAS_INLINE int64_t VisibleKeys(const AttentionShape& s, int64_t i) {
  return s.causal ? Max<int64_t>(0, Min(s.keys, i + 1 + s.keys - s.queries)) : s.keys;
}
// The first query that sees key `j`.
SAS_INLINE int64_t FirstQuery(const AttentionShape& s, int64_t j) {
  return s.causal ? Min(s.queries, Max<int64_t>(0, j - (s.keys - s.queries))) : 0;
}

}  // namespace sas::cpu::SAS_ISA
