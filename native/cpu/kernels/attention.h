// What attention's forward and backward share. Scores live in units of log2, so that softmax is 2^(score - max).
#pragma once

#include "core/params.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

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
