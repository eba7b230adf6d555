// What the expansion's forward and backward share: the layout of a token in scratch memory, and weights packed for
// Multiply.
//
// A convolution over heads is a matrix product: with X's rows padded by `margin` zeros on the left,
//   C[o, d] = sum over (h, t) of W[o, (h, t)] * Xpadded[h][margin + d + t - (k-1)/2],
// so row (h, t) of the right-hand matrix is row h of the padded token, shifted by a tap (SetOverlappingB). With pairs
// of bf16 two heads share a row, which a tap shifts just the same: half as many rows.
#pragma once

#include "cpu/context.h"
#include "cpu/kernels/pack.h"
#include "cpu/kernels/tile.h"

namespace sas::cpu::SAS_ISA {

struct ExpandLayout {
  explicit ExpandLayout(const ExpandShape& shape)
      : s(shape),
        margin(RoundUp((s.kernel_size - 1) / 2, kLanes)),
        dim_row(RoundUp(s.head_dim, kLanes)),
        sim_row(RoundUp(s.sim_head_dim, kLanes)),
        tap_row(margin + dim_row) {}

  // Of a number of padded rows: the zeros after one row are those before the next.
  int64_t PaddedFloats(int64_t rows) const { return rows * tap_row + margin; }

  ExpandShape s;
  // Zeros before the features of a padded row, and after the last row: (k-1)/2 are needed, whole vectors keep rows
  // aligned.
  int64_t margin;
  int64_t dim_row;  // floats per row of head_dim features
  int64_t sim_row;  // floats per row of sim_head_dim features
  int64_t tap_row;  // floats per padded row: margin, head_dim features, zeros to the next whole vector
};

// Where tap t of channel c begins in a padded token, for `channels` channels: offsets[c * kernel_size + t].
inline int32_t* MakeTapOffsets(CpuContext& context, const ExpandLayout& l, int64_t channels) {
  int32_t* offsets = reinterpret_cast<int32_t*>(context.scratch.Take(channels * l.s.kernel_size));
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < l.s.kernel_size; ++t) {
      offsets[c * l.s.kernel_size + t] = static_cast<int32_t>(c * l.tap_row + l.margin + t - (l.s.kernel_size - 1) / 2);
    }
  }
  return offsets;
}

// Left-hand panels of a convolution's weight [outputs, inputs, k].
template <bool kBf16x2 = false>
float* PackTaps(CpuContext& context, const float* weight, int64_t outputs, int64_t inputs, int64_t kernel_size) {
  const int64_t depth = Depth<kBf16x2>(inputs) * kernel_size;
  if constexpr (kBf16x2) {
    float* paired = context.scratch.Take(outputs * depth);
    for (int64_t o = 0; o < outputs; ++o) {
      PackAcross<true>(weight + o * inputs * kernel_size, kernel_size, inputs, kernel_size, paired + o * depth,
                       kernel_size, kernel_size);
    }
    weight = paired;
  }
  float* panels = context.scratch.Take(PanelFloats(outputs, depth));
  PackPanels(weight, depth, 1, outputs, depth, panels);
  return panels;
}

// The same for the transposed convolution, which takes gradients from outputs to inputs: weight'[i, o, t] = weight[o,
// i, k-1-t].
inline float* PackTransposedTaps(CpuContext& context, const float* weight, int64_t outputs, int64_t inputs,
                                 int64_t kernel_size) {
  float* flipped = context.scratch.Take(inputs * outputs * kernel_size);
  for (int64_t i = 0; i < inputs; ++i) {
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t t = 0; t < kernel_size; ++t) {
        flipped[(i * outputs + o) * kernel_size + t] = weight[(o * inputs + i) * kernel_size + kernel_size - 1 - t];
      }
    }
  }
  return PackTaps(context, flipped, inputs, outputs, kernel_size);
}

// W [outputs, inputs] as right-hand rows of x W^T: [inputs][row].
template <bool kBf16x2>
float* PackTransposedWeight(CpuContext& context, const float* weight, int64_t outputs, int64_t inputs, int64_t row) {
  float* packed = context.scratch.Take(Depth<kBf16x2>(inputs) * row);
  PackTransposed<kBf16x2>(weight, inputs, outputs, inputs, packed, row, row);
  return packed;
}

// W [outputs, inputs] as right-hand rows of y W: [outputs][row].
inline float* PackWeight(CpuContext& context, const float* weight, int64_t outputs, int64_t inputs, int64_t row) {
  float* packed = context.scratch.Take(outputs * row);
  CopyRows(weight, inputs, outputs, inputs, packed, row, row);
  return packed;
}

// A bias readable in whole vectors.
inline float* PackBias(CpuContext& context, const float* bias, int64_t size) {
  return PackWeight(context, bias, 1, size, RoundUp(size, kLanes));
}

inline void ZeroRows(float* rows, int64_t floats) { memset(rows, 0, static_cast<size_t>(floats) * sizeof(float)); }

// Memory of each thread, all zeros, so that the margins that nobody writes are; each thread clears its own.
inline ThreadBlocks ZeroedBlocks(CpuContext& context, int64_t floats) {
  ThreadBlocks blocks = context.scratch.TakeEach(floats);
  context.pool.Run(context.pool.threads(),
                   [&](int64_t item, int) { ZeroRows(blocks[static_cast<int>(item)], floats); });
  return blocks;
}

// After a whole-vector write of head_dim features to padded rows: restores the zeros behind them.
inline void ZeroTails(const ExpandLayout& l, float* rows, int64_t count) {
  if (l.dim_row == l.s.head_dim) return;
  for (int64_t r = 0; r < count; ++r) {
    float* tail = rows + r * l.tap_row + l.margin + l.s.head_dim;
    for (int64_t i = 0; i < l.dim_row - l.s.head_dim; ++i) tail[i] = 0;
  }
}

// c [rows, head_dim] (+)= a convolution of the padded token `x` with `inputs` channels; `relu`, if given, is a padded
// token, in f32.
template <bool kBf16x2 = false>
void Convolve(const ExpandLayout& l, const float* panels, const int32_t* offsets, int64_t rows, int64_t inputs,
              const float* x, const float* bias, bool accumulate, float* c, int64_t c_row, float* relu = nullptr) {
  Product p{};
  p.rows = rows;
  p.columns = l.s.head_dim;
  p.depth = Depth<kBf16x2>(inputs) * l.s.kernel_size;
  p.bf16x2 = kBf16x2;
  SetPanelsA(p, panels);
  SetOverlappingB(p, x, offsets);
  SetC(p, c, c_row);
  p.accumulate = accumulate;
  p.row_bias = bias;
  if (relu != nullptr) {
    p.relu = relu + l.margin;
    p.relu_row = l.tap_row;
  }
  Multiply(p);
  if (relu != nullptr) ZeroTails(l, relu, rows);
}

// c [rows, columns] (+)= a [rows, depth] b [depth, columns] + bias, and max(c, 0) to `relu` if given, in rows like c's.
template <bool kBf16x2 = false>
void MultiplyRows(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_row, const float* b,
                  int64_t b_row, const float* bias, bool accumulate, float* c, int64_t c_row, float* relu = nullptr) {
  Product p{};
  p.rows = rows;
  p.columns = columns;
  p.depth = Depth<kBf16x2>(depth);
  p.bf16x2 = kBf16x2;
  SetRowsA(p, a, a_row);
  SetRowsB(p, b, b_row);
  SetC(p, c, c_row);
  p.accumulate = accumulate;
  p.column_bias = bias;
  p.relu = relu;
  p.relu_row = c_row;
  Multiply(p);
}

// The forward weights, packed, and the forward pass of a block of tokens up to relu(Z1), which backward repeats, in
// f32: where C1 and Z1 are positive must not hang on the rounding of pairs.
template <bool kBf16x2>
struct ExpandForward {
  ExpandForward(CpuContext& context, const ExpandLayout& layout, const ExpandWeights& weights)
      : l(layout), w(weights), offsets(MakeTapOffsets(context, l, Max(l.s.heads, l.s.sim_heads))) {
    const ExpandShape& s = l.s;
    head = PackTaps<kBf16x2>(context, w.head_weight, s.sim_heads, s.heads, s.kernel_size);
    head_residual = PackTaps<kBf16x2>(context, w.head_residual_weight, s.sim_heads, s.sim_heads, s.kernel_size);
    if (!s.features) return;
    feature = PackTransposedWeight<kBf16x2>(context, w.feature_weight, s.sim_head_dim, s.head_dim, l.sim_row);
    feature_bias = PackBias(context, w.feature_bias, s.sim_head_dim);
  }

  // x, relu: padded tokens whose margins are zero; y [tokens * H', dim_row] becomes Y, or C1 without the residual
  // convolution.
  template <bool kResidual = true, class T>
  void Heads(const T* input, int64_t tokens, float* x, float* relu, float* y) const {
    const ExpandShape& s = l.s;
    for (int64_t token = 0; token < tokens; ++token) {
      PackAcross<kBf16x2>(input + token * s.heads * s.head_dim, s.head_dim, s.heads, s.head_dim, x + l.margin,
                          l.tap_row, s.head_dim);
      // C1 = b1 + W1 * X; Y = C1 + b2 + W2 * relu(C1)
      Convolve<kBf16x2>(l, head, offsets, s.sim_heads, s.heads, x, w.head_bias, false, y, l.dim_row,
                        kBf16x2 ? nullptr : relu);
      if constexpr (kBf16x2) {
        PackAcross<true, true>(y, l.dim_row, s.sim_heads, s.head_dim, relu + l.margin, l.tap_row, s.head_dim);
      }
      if constexpr (kResidual) {
        Convolve<kBf16x2>(l, head_residual, offsets, s.sim_heads, s.sim_heads, relu, w.head_residual_bias, true, y,
                          l.dim_row);
      }
      x += s.heads * l.tap_row;
      relu += s.sim_heads * l.tap_row;
      y += s.sim_heads * l.dim_row;
    }
  }

  // Z1 = Y W3^T + b3, and relu(Z1); [tokens * H', sim_row]. Pairs take the place of Y (then not const) and of relu(Z1).
  template <class Float>
  void Features(Float* y, int64_t tokens, float* z, float* relu) const {
    const int64_t rows = tokens * l.s.sim_heads;
    if constexpr (kBf16x2) PackAlong<true>(y, l.dim_row, rows, l.s.head_dim, y, l.dim_row);
    MultiplyRows<kBf16x2>(rows, l.s.sim_head_dim, l.s.head_dim, y, l.dim_row, feature, l.sim_row, feature_bias, false,
                          z, l.sim_row, relu);
    if constexpr (kBf16x2) PackAlong<true>(relu, l.sim_row, rows, l.s.sim_head_dim, relu, l.sim_row);
  }

  ExpandLayout l;
  ExpandWeights w;
  const int32_t* offsets;
  float *head, *head_residual, *feature = nullptr, *feature_bias = nullptr;
};

}  // namespace sas::cpu::SAS_ISA
