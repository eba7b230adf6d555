// Gradients of the expansion. Each block of tokens repeats of the forward pass what that has not kept, up to relu(Z1),
// and then goes back through it; weight gradients are summed over a partition of the tokens that depends on their
// number alone, then over partitions.
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/expand.h"
#include "cpu/kernels/operations.h"
#include "cpu/kernels/rope.h"

namespace sas::cpu::SAS_ISA {
namespace {

constexpr int64_t kBlockFloats = 128 << 10;  // of intermediates in a block of tokens: 512 KB, half of L2

// Bump allocation inside a block of floats; offsets first, so that the total is known before memory is taken.
struct Offsets {
  int64_t total = 0;
  int64_t Take(int64_t floats) {
    const int64_t offset = total;
    total += RoundUp(floats, 16);
    return offset;
  }
};

// One partition's weight gradients; matrices with rows as in the packed layout.
struct GradientLayout {
  explicit GradientLayout(const ExpandLayout& l) {
    const ExpandShape& s = l.s;
    Offsets o;
    head_weight = o.Take(s.sim_heads * s.heads * s.kernel_size);
    head_bias = o.Take(s.sim_heads);
    head_residual_weight = o.Take(s.sim_heads * s.sim_heads * s.kernel_size);
    head_residual_bias = o.Take(s.sim_heads);
    if (s.features) {
      feature_weight = o.Take(s.sim_head_dim * l.dim_row);
      feature_bias = o.Take(l.sim_row);
      feature_residual_weight = o.Take(s.sim_head_dim * l.sim_row);
      feature_residual_bias = o.Take(l.sim_row);
    }
    total = o.total;
  }
  int64_t head_weight, head_bias, head_residual_weight, head_residual_bias;
  int64_t feature_weight = 0, feature_bias = 0, feature_residual_weight = 0, feature_residual_bias = 0;
  int64_t total;
};

// sums[r] += sum over tokens and features of a padded token's row r.
void AddRowSums(const ExpandLayout& l, const float* a, int64_t tokens, float* sums) {
  for (int64_t r = 0; r < l.s.sim_heads; ++r) {
    const float* row = a + r * l.tap_row + l.margin;
    sums[r] += Sum(SumVectors(l.dim_row, [=](int64_t d, int64_t) {
      Vec sum{};
      for (int64_t token = 0; token < tokens; ++token) sum += Load(row + token * l.s.sim_heads * l.tap_row + d);
      return sum;
    }));
  }
}

// Adds a convolution's weight gradient [H', inputs, k] and bias gradient [H']; grad and input are padded tokens, of H'
// and `inputs` rows.
void AddConvolutionGradients(const ExpandLayout& l, const int32_t* offsets, int64_t tokens, const float* grad,
                             const float* input, int64_t inputs, float* weight_gradient, float* bias_gradient) {
  TapGradient taps{};
  taps.rows = l.s.sim_heads;
  taps.columns = inputs * l.s.kernel_size;
  taps.width = l.s.head_dim;
  taps.blocks = tokens;
  taps.a = grad + l.margin;
  taps.a_row = l.tap_row;
  taps.a_block = l.s.sim_heads * l.tap_row;
  taps.b = input;
  taps.b_block = inputs * l.tap_row;
  taps.offsets = offsets;
  taps.gradient = weight_gradient;
  AccumulateTaps(taps);
  AddRowSums(l, grad, tokens, bias_gradient);
}

// gradient [columns_a, columns_b] += a^T b over `rows` rows.
void AddOuterProducts(int64_t rows, const float* a, int64_t a_row, int64_t columns_a, const float* b, int64_t b_row,
                      int64_t columns_b, float* gradient) {
  Product p{};
  p.rows = columns_a;
  p.columns = columns_b;
  p.depth = rows;
  SetColumnsA(p, a, a_row);
  SetRowsB(p, b, b_row);
  SetC(p, gradient, b_row);
  p.accumulate = true;
  Multiply(p);
}

// Rows of `width` floats that can be read in whole vectors, `row` apart: where they lie, or copied to `copy`.
const float* WholeRows(const float* source, int64_t rows, int64_t width, float* copy, int64_t row) {
  if (width == row) return source;
  CopyRows(source, width, rows, width, copy, row, row);
  return copy;
}

// through[i] = direct[i] + (relu[i] > 0 ? through[i] : 0): the gradient at a residual branch; relu'(0) = 0.
void JoinResidual(const float* direct, const float* relu, int64_t floats, float* through) {
  for (int64_t i = 0; i < floats; i += kLanes) {
    const Vec branch = Load(relu + i) > Vec{} ? Load(through + i) : Vec{};
    Store(through + i, Load(direct + i) + branch);
  }
}

}  // namespace

Status ExpandBackward(CpuContext& context, const ExpandBackwardParams& p) {
  const ExpandLayout l(p.shape);
  const ExpandShape& s = l.s;
  const ExpandForward<false> forward(context, l, p.weights);
  float* head_back = PackTransposedTaps(context, p.weights.head_weight, s.sim_heads, s.heads, s.kernel_size);
  float* head_residual_back =
      PackTransposedTaps(context, p.weights.head_residual_weight, s.sim_heads, s.sim_heads, s.kernel_size);
  float *feature_back = nullptr, *feature_residual_back = nullptr;
  if (s.features) {
    feature_back = PackWeight(context, p.weights.feature_weight, s.sim_head_dim, s.head_dim, l.dim_row);
    feature_residual_back =
        PackWeight(context, p.weights.feature_residual_weight, s.sim_head_dim, s.sim_head_dim, l.sim_row);
  }

  // Blocks as long as L2 allows, since each pays once for adding to the weight gradients; partitions by tokens alone.
  const int64_t token_floats = s.sim_heads * (3 * l.tap_row + l.dim_row + (s.features ? 3 * l.sim_row : 0));
  const int64_t block = Max<int64_t>(1, Min(Min(kBlockFloats / token_floats, kLongestChain), s.tokens));
  const int64_t partitions = Min<int64_t>(CeilDiv(s.tokens, 32), kLongestChain);
  const int64_t partition_tokens = CeilDiv(s.tokens, partitions);

  const GradientLayout g(l);
  // A block adds up to rows / kLongestChain times to its partition's gradients: many of them go to a total and its
  // rest.
  const int64_t block_terms = CeilDiv(block * s.sim_heads, kLongestChain);
  const int64_t blocks_per_total = Max<int64_t>(1, kLongestChain / block_terms);
  const bool totals = CeilDiv(partition_tokens, block) > blocks_per_total;
  const int64_t partition_floats = (totals ? 3 : 1) * g.total;
  float* gradients = context.scratch.Take(partitions * partition_floats);

  Offsets o;
  const int64_t padded_floats = l.PaddedFloats(block * s.sim_heads);
  const int64_t x_at = o.Take(l.PaddedFloats(block * s.heads)), relu_at = o.Take(padded_floats);
  const int64_t y_at = o.Take(block * s.sim_heads * l.dim_row);
  const int64_t z_floats = s.features ? block * s.sim_heads * l.sim_row : 0;
  const int64_t z_relu_at = o.Take(z_floats), grad_z_at = o.Take(z_floats), grad_z1_at = o.Take(z_floats);
  const int64_t grad_y_at = o.Take(padded_floats), grad_c_at = o.Take(padded_floats);
  const int64_t grad_x_at = o.Take(block * s.heads * l.dim_row);
  const ThreadBlocks scratch = ZeroedBlocks(context, o.total);
  AngleTable angles{};
  if (p.rope) angles = MakeAngles(context, *p.rope, true, true);

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    context.pool.Run(partitions, [&](int64_t partition, int thread) {
      float* buffers = scratch[thread];
      float *x = buffers + x_at, *relu = buffers + relu_at, *y = buffers + y_at;
      float *z_relu = buffers + z_relu_at, *grad_z = buffers + grad_z_at, *grad_z1 = buffers + grad_z1_at;
      float *grad_y = buffers + grad_y_at, *grad_c = buffers + grad_c_at, *grad_x = buffers + grad_x_at;
      // The partition's result comes first, which is the total if there is one.
      float* result = gradients + partition * partition_floats;
      float* gradient = totals ? result + 2 * g.total : result;
      ZeroRows(result, partition_floats);
      int64_t summed = 0;  // blocks

      const int64_t end = Min((partition + 1) * partition_tokens, s.tokens);
      for (int64_t token = partition * partition_tokens; token < end; token += block) {
        if (context.pool.cancelled()) return;  // an item may take seconds
        const int64_t tokens = Min(block, end - token), rows = tokens * s.sim_heads;
        const int64_t grad_offset = token * s.sim_heads * s.sim_head_dim;
        const T* input = static_cast<const T*>(p.x) + token * s.heads * s.head_dim;
        const bool residual = s.features && p.kept.heads == nullptr;  // whether Y is to be computed
        if (p.kept.head_relu != nullptr && !residual) {
          CopyRows(input, s.head_dim, tokens * s.heads, s.head_dim, x + l.margin, l.tap_row, s.head_dim);
          CopyRows(p.kept.head_relu + token * s.sim_heads * s.head_dim, s.head_dim, rows, s.head_dim, relu + l.margin,
                   l.tap_row, s.head_dim);
        } else if (residual) {
          forward.Heads(input, tokens, x, relu, y);
        } else {
          forward.template Heads<false>(input, tokens, x, relu, y);
        }

        if (s.features) {
          const float *heads = y, *feature_relu = z_relu;
          if (!residual) {
            heads = WholeRows(p.kept.heads + token * s.sim_heads * s.head_dim, rows, s.head_dim, y, l.dim_row);
          }
          if (p.kept.feature_relu != nullptr && !residual) {
            feature_relu = WholeRows(p.kept.feature_relu + grad_offset, rows, s.sim_head_dim, z_relu, l.sim_row);
          } else {
            forward.Features(heads, tokens, grad_z1, z_relu);  // Z1 itself is not needed again
          }
          CopyRowsAs<T>(p.grad_dtype, p.grad_output, grad_offset, s.sim_head_dim, rows, s.sim_head_dim, grad_z,
                        l.sim_row, l.sim_row);
          if (p.rope) RotateRows(angles, token, tokens, s.sim_heads, grad_z, l.sim_row);
          AddOuterProducts(rows, grad_z, l.sim_row, s.sim_head_dim, feature_relu, l.sim_row, s.sim_head_dim,
                           gradient + g.feature_residual_weight);
          AddRows(grad_z, l.sim_row, rows, l.sim_row, gradient + g.feature_residual_bias);
          // gradZ1 = gradZ + relu'(Z1) * (gradZ W4)
          MultiplyRows(rows, s.sim_head_dim, s.sim_head_dim, grad_z, l.sim_row, feature_residual_back, l.sim_row,
                       nullptr, false, grad_z1, l.sim_row);
          JoinResidual(grad_z, feature_relu, rows * l.sim_row, grad_z1);
          AddOuterProducts(rows, grad_z1, l.sim_row, s.sim_head_dim, heads, l.dim_row, s.head_dim,
                           gradient + g.feature_weight);
          AddRows(grad_z1, l.sim_row, rows, l.sim_row, gradient + g.feature_bias);
          // gradY = gradZ1 W3
          MultiplyRows(rows, s.head_dim, s.sim_head_dim, grad_z1, l.sim_row, feature_back, l.dim_row, nullptr, false,
                       grad_y + l.margin, l.tap_row);
          ZeroTails(l, grad_y, rows);
        } else {
          CopyRowsAs<T>(p.grad_dtype, p.grad_output, grad_offset, s.head_dim, rows, s.head_dim, grad_y + l.margin,
                        l.tap_row, s.head_dim);
          if (p.rope) RotateRows(angles, token, tokens, s.sim_heads, grad_y + l.margin, l.tap_row);
        }

        AddConvolutionGradients(l, forward.offsets, tokens, grad_y, relu, s.sim_heads,
                                gradient + g.head_residual_weight, gradient + g.head_residual_bias);
        // gradC1 = gradY + relu'(C1) * (transposed convolution of gradY with W2)
        for (int64_t i = 0; i < tokens; ++i) {
          Convolve(l, head_residual_back, forward.offsets, s.sim_heads, s.sim_heads,
                   grad_y + i * s.sim_heads * l.tap_row, nullptr, false,
                   grad_c + i * s.sim_heads * l.tap_row + l.margin, l.tap_row);
        }
        JoinResidual(grad_y, relu, rows * l.tap_row, grad_c);  // margins too: they become zero

        AddConvolutionGradients(l, forward.offsets, tokens, grad_c, x, s.heads, gradient + g.head_weight,
                                gradient + g.head_bias);
        for (int64_t i = 0; i < tokens; ++i) {
          Convolve(l, head_back, forward.offsets, s.heads, s.sim_heads, grad_c + i * s.sim_heads * l.tap_row, nullptr,
                   false, grad_x + i * s.heads * l.dim_row, l.dim_row);
        }
        StoreRows(grad_x, l.dim_row, tokens * s.heads, s.head_dim,
                  static_cast<T*>(p.grad_x) + token * s.heads * s.head_dim, s.head_dim);
        if (totals && ++summed % blocks_per_total == 0) MoveIntoTotal(gradient, g.total, result, result + g.total);
      }
      if (totals) MoveIntoTotal(gradient, g.total, result, result + g.total);
    });

    // Sums the partitions in order.
    struct Piece {
      float* target;
      int64_t rows, columns, source, source_row;
    };
    const ExpandGradients& out = p.gradients;
    const int64_t taps1 = s.heads * s.kernel_size, taps2 = s.sim_heads * s.kernel_size;
    const Piece pieces[] = {
        {out.head_weight, s.sim_heads, taps1, g.head_weight, taps1},
        {out.head_bias, 1, s.sim_heads, g.head_bias, s.sim_heads},
        {out.head_residual_weight, s.sim_heads, taps2, g.head_residual_weight, taps2},
        {out.head_residual_bias, 1, s.sim_heads, g.head_residual_bias, s.sim_heads},
        {out.feature_weight, s.sim_head_dim, s.head_dim, g.feature_weight, l.dim_row},
        {out.feature_bias, 1, s.sim_head_dim, g.feature_bias, l.sim_row},
        {out.feature_residual_weight, s.sim_head_dim, s.sim_head_dim, g.feature_residual_weight, l.sim_row},
        {out.feature_residual_bias, 1, s.sim_head_dim, g.feature_residual_bias, l.sim_row},
    };
    for (const Piece& piece : pieces) {
      if (piece.target == nullptr) continue;
      context.pool.Run(piece.rows, [&](int64_t row, int) {
        const float* source = gradients + piece.source + row * piece.source_row;
        ForEachVector(piece.columns, [&](int64_t c, int64_t count) {
          Vec sum{};
          for (int64_t i = 0; i < partitions; ++i) sum += LoadPartial(source + i * partition_floats + c, count);
          StorePartial(piece.target + row * piece.columns + c, sum, count);
        });
      });
    }
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
