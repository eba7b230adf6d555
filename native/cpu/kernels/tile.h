// The matrix product that every dense kernel is made of: C = A B on small blocks that lie in L1 and L2, computed in
// register tiles. The convolutions over heads are products too: row (h, t) of B is row h of the padded token, shifted
// by tap t, so B's rows overlap and only their offsets need a table.
#pragma once

#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {

// Register tile: 6 x 4 vectors (24 of 32 registers), or 6 x 2 (12 of 16 registers).
inline constexpr int kTileRows = 6;
inline constexpr int kTileVectors = kVectorRegisters == 32 ? 4 : 2;
inline constexpr int kTileColumns = kTileVectors * kLanes;

struct Product {
  int64_t rows, columns, depth;
  bool bf16x2;  // A and B hold pairs of bf16 (simd.h), which `depth` counts; only where kHasBf16x2

  // Element (m, k) of A: a[m / 6 * a_panel + m % 6 * a_row + k * a_step].
  const float* a;
  int64_t a_row, a_step, a_panel;

  // Row k of B from column n on: b + n / kTileColumns * b_panel + n % kTileColumns + (b_offsets ? b_offsets[k] : k *
  // b_step). Rows are read in whole vectors: memory up to the next multiple of kLanes columns must exist.
  const float* b;
  int64_t b_step, b_panel;
  const int32_t* b_offsets;

  // C is written in whole vectors too.
  float* c;
  int64_t c_row;

  // What C starts from: itself with `accumulate`, else 0; plus the biases that are not null.
  bool accumulate;
  const float* row_bias;     // [rows]
  const float* column_bias;  // [columns], readable in whole vectors

  // If not null, max(C, 0) is written here as well.
  float* relu;
  int64_t relu_row;
};

// A as rows of length `depth`, `stride` apart.
SAS_INLINE void SetRowsA(Product& p, const float* a, int64_t stride) {
  p.a = a;
  p.a_row = stride;
  p.a_step = 1;
  p.a_panel = kTileRows * stride;
}
// A as the transpose of such rows.
SAS_INLINE void SetColumnsA(Product& p, const float* a, int64_t stride) {
  p.a = a;
  p.a_row = 1;
  p.a_step = stride;
  p.a_panel = kTileRows;
}
// A in panels [ceil(rows / 6)][depth][6], as PackPanels makes them.
SAS_INLINE void SetPanelsA(Product& p, const float* a) {
  p.a = a;
  p.a_row = 1;
  p.a_step = kTileRows;
  p.a_panel = kTileRows * p.depth;
}
// B as rows, `stride` apart.
SAS_INLINE void SetRowsB(Product& p, const float* b, int64_t stride) {
  p.b = b;
  p.b_step = stride;
  p.b_panel = kTileColumns;
  p.b_offsets = nullptr;
}
// B as overlapping rows: row k begins at b + offsets[k].
SAS_INLINE void SetOverlappingB(Product& p, const float* b, const int32_t* offsets) {
  p.b = b;
  p.b_step = 0;
  p.b_panel = kTileColumns;
  p.b_offsets = offsets;
}
SAS_INLINE void SetC(Product& p, float* c, int64_t stride) {
  p.c = c;
  p.c_row = stride;
}

void Multiply(const Product& product);

// gradient[m][j] += sum over blocks and over d < width of a[block][m][d] * b[block][offsets[j] + d]: the weight
// gradient of a convolution. Rows of `a` are zero from `width` to the next multiple of kLanes, where b must be readable
// and finite.
struct TapGradient {
  int64_t rows, columns, width, blocks;
  const float* a;
  int64_t a_row, a_block;
  const float* b;
  int64_t b_block;
  const int32_t* offsets;  // [columns]
  float* gradient;         // [rows, columns]
};
void AccumulateTaps(const TapGradient& p);

}  // namespace sas::cpu::SAS_ISA
