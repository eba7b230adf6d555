// What rotary position embedding needs, alone and fused into other operations: the angles, and the rotation of pairs.
#pragma once

#include "cpu/context.h"
#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {

// Cosines and sines [length, columns] of all angles. Halves: columns = width / 2. Interleaved: columns = width, each
// cosine twice, each sine as (-sine, sine).
struct AngleTable {
  float* cosines;
  float* sines;
  int64_t length, columns;
};

// Scratch memory of the operation. `inverse`: angles the other way, which gives the gradient. Defined in rope.cc.
AngleTable MakeAngles(CpuContext& context, const RopeAngles& angles, bool interleaved, bool inverse);

// Interleaved pairs, rotated; `cosines` and `sines` of that table.
SAS_INLINE Vec RotatePairs(Vec value, Vec cosines, Vec sines) {
  return value * cosines + SwapNeighbours(value) * sines;
}

// Rotates the rows of `tokens` tokens from token `first` on, `heads` rows each, in place; what lies behind a row's
// columns stays. `angles` are interleaved.
inline void RotateRows(const AngleTable& angles, int64_t first, int64_t tokens, int64_t heads, float* rows,
                       int64_t row_stride) {
  for (int64_t token = 0; token < tokens; ++token, rows += heads * row_stride) {
    const int64_t at = (first + token) % angles.length * angles.columns;
    ForEachVector(angles.columns, [&](int64_t c, int64_t count) {
      const Vec cosines = LoadPartial(angles.cosines + at + c, count);
      const Vec sines = LoadPartial(angles.sines + at + c, count);
      for (int64_t head = 0; head < heads; ++head) {
        float* row = rows + head * row_stride + c;
        StorePartial(row, RotatePairs(LoadPartial(row, count), cosines, sines), count);
      }
    });
  }
}

}  // namespace sas::cpu::SAS_ISA
