// Estimates of an operation's work from its parameters, for operations whose work may be large though their operands
// are small: multiply-adds, 16 more for what is done once per score or element of a row (an exponential, rounding), 256
// per head. 65,536 of these steps take at most 0.1 ms on one thread with AVX2, fused or naive, and 0.2 ms without. What
// has no estimate here takes time in proportion to the bytes of its operands: 16 KB at most 0.1 ms.
#pragma once

#include "core/params.h"

namespace sas {

inline double Steps(const ExpandShape& s) {
  const auto d = static_cast<double>(s.head_dim), wide = static_cast<double>(s.sim_head_dim);
  const double taps = static_cast<double>(s.heads + s.sim_heads) * static_cast<double>(s.kernel_size);
  const double row = d * (taps + 16) + (s.features ? wide * (d + wide + 16) : 0);
  return static_cast<double>(s.tokens) * static_cast<double>(s.sim_heads) * row;
}
inline double Steps(const ExpandParams& p) { return Steps(p.shape); }
// The forward pass again, the gradients of its inputs and of its weights.
inline double Steps(const ExpandBackwardParams& p) { return 3 * Steps(p.shape); }

// `per_pair` steps for each query of a head and key.
inline double Steps(const AttentionShape& s, int64_t per_pair) {
  const double pairs = static_cast<double>(s.queries) * static_cast<double>(s.keys);
  return static_cast<double>(s.batch * s.heads) * (pairs * static_cast<double>(per_pair) + 256);
}
inline double Steps(const AttentionParams& p) { return Steps(p.shape, p.shape.width + p.shape.value_width + 16); }
inline double Steps(const AttentionMeanParams& p) { return Steps(p.shape, p.shape.width + p.shape.value_width + 16); }
inline double Steps(const AttentionBackwardParams& p) {
  return Steps(p.shape, 3 * p.shape.width + 2 * p.shape.value_width + 32);
}

}  // namespace sas
