// Estimates of an operation's work from its parameters, for operations whose work may be large though their operands
// are small: multiply-adds, and 16 more for what is done once per score or element of a row (an exponential, rounding).
// A step takes about 1.5 ns at most, on one thread of the slowest kernel, fused or naive. What has no estimate here
// takes time in proportion to the bytes of its operands: at most 6 ns each.
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

// Of so many products as wide as q, and so many as wide as v.
inline double Steps(const AttentionShape& s, int64_t products, int64_t value_products) {
  const double pairs =
      static_cast<double>(s.batch * s.heads) * static_cast<double>(s.queries) * static_cast<double>(s.keys);
  return pairs * static_cast<double>(products * s.width + value_products * s.value_width + 16);
}
inline double Steps(const AttentionParams& p) { return Steps(p.shape, 1, 1); }
inline double Steps(const AttentionMeanParams& p) { return Steps(p.shape, 1, 1); }
inline double Steps(const AttentionBackwardParams& p) { return Steps(p.shape, 3, 2); }

}  // namespace sas
