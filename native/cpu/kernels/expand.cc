// Expansion of heads, and for Q and K of features, fused: one pass per block of tokens, intermediates in L1 and L2
// (arXiv 2507.07694, simulated heads and simulated features).
#include "cpu/kernels/expand.h"

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"
#include "cpu/kernels/rope.h"

namespace sas::cpu::SAS_ISA {

Status Expand(CpuContext& context, const ExpandParams& p) {
  const ExpandLayout l(p.shape);
  const ExpandShape& s = l.s;
  // Enough rows per block to fill register tiles; enough blocks per item to be worth the hand-over.
  const int64_t block = Min(Max<int64_t>(48 / s.sim_heads, 1), p.shape.tokens);
  const int64_t run = 8 * block;
  const int64_t x_floats = l.PaddedFloats(block * s.heads), relu_floats = l.PaddedFloats(block * s.sim_heads);
  const int64_t y_floats = block * s.sim_heads * l.dim_row, z_floats = block * s.sim_heads * l.sim_row;
  const int64_t thread_floats = x_floats + relu_floats + y_floats + 2 * z_floats;
  const ThreadBlocks scratch = ZeroedBlocks(context, thread_floats);
  AngleTable angles{};
  if (p.rope) angles = MakeAngles(context, *p.rope, true, false);

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    constexpr bool kBf16x2 = kUsesBf16x2<T>;
    if (kBf16x2 && (p.kept.head_relu != nullptr || p.kept.heads != nullptr)) {
      return Status(StatusCode::kInternal, "products of bf16 leave nothing that the backward pass could use");
    }
    const ExpandForward<kBf16x2> forward(context, l, p.weights);
    float *residual = nullptr, *residual_bias = nullptr;
    if (s.features) {
      residual = PackTransposedWeight<kBf16x2>(context, p.weights.feature_residual_weight, s.sim_head_dim,
                                               s.sim_head_dim, l.sim_row);
      residual_bias = PackBias(context, p.weights.feature_residual_bias, s.sim_head_dim);
    }
    context.pool.Run(CeilDiv(s.tokens, run), [&](int64_t item, int thread) {
      float* x = scratch[thread];
      float* relu = x + x_floats;
      float* y = relu + relu_floats;
      float* z = y + y_floats;
      float* feature_relu = z + z_floats;
      const int64_t end = Min((item + 1) * run, s.tokens);
      for (int64_t token = item * run; token < end; token += block) {
        const int64_t tokens = Min(block, end - token), rows = tokens * s.sim_heads;
        forward.Heads(static_cast<const T*>(p.x) + token * s.heads * s.head_dim, tokens, x, relu, y);
        T* output = static_cast<T*>(p.output) + token * s.sim_heads * s.sim_head_dim;
        const auto keep = [&](const float* source, int64_t source_row, int64_t width, float* kept) {
          if (kept != nullptr) StoreRows(source, source_row, rows, width, kept + token * s.sim_heads * width, width);
        };
        keep(relu + l.margin, l.tap_row, s.head_dim, p.kept.head_relu);
        keep(y, l.dim_row, s.head_dim, p.kept.heads);
        if (!s.features) {
          if (p.rope) RotateRows(angles, token, tokens, s.sim_heads, y, l.dim_row);
          StoreRows(y, l.dim_row, rows, s.head_dim, output, s.head_dim);
          continue;
        }
        // Z = Z1 + b4 + relu(Z1) W4^T
        forward.Features(y, tokens, z, feature_relu);
        keep(feature_relu, l.sim_row, s.sim_head_dim, p.kept.feature_relu);
        MultiplyRows<kBf16x2>(rows, s.sim_head_dim, s.sim_head_dim, feature_relu, l.sim_row, residual, l.sim_row,
                              residual_bias, true, z, l.sim_row);
        if (p.rope) RotateRows(angles, token, tokens, s.sim_heads, z, l.sim_row);
        StoreRows(z, l.sim_row, rows, s.sim_head_dim, output, s.sim_head_dim);
      }
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
