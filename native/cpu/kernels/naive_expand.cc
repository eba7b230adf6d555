// Expansion, one step at a time (see naive.h): convolution, ReLU, convolution, sum, linear, ReLU, linear, sum.
#include "cpu/kernels/naive.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

// output[o, d] = bias[o] + sum over c, t of weight[o, c, t] * input[c, d + t - (k-1)/2], for one token at a time;
// `input` passes through ReLU first if asked.
template <class T>
void Convolution(CpuContext& context, const ExpandShape& s, int64_t inputs, const float* input, bool relu,
                 const float* weight, const float* bias, float* output) {
  const int64_t dim = s.head_dim, taps = s.kernel_size, margin = (taps - 1) / 2;
  context.pool.Run(s.tokens, [&](int64_t token, int) {
    for (int64_t o = 0; o < s.sim_heads; ++o) {
      float* row = output + (token * s.sim_heads + o) * dim;
      for (int64_t d = 0; d < dim; ++d) row[d] = bias[o];
      for (int64_t c = 0; c < inputs; ++c) {
        const float* from = input + (token * inputs + c) * dim;
        for (int64_t t = 0; t < taps; ++t) {
          const float w = weight[(o * inputs + c) * taps + t];
          const int64_t shift = t - margin;
          for (int64_t d = Max<int64_t>(0, -shift); d < Min(dim, dim - shift); ++d) {
            const float x = from[d + shift];
            row[d] += w * (relu && x < 0 ? 0.0f : x);
          }
        }
      }
    }
  });
  Round<T>(context, output, s.tokens * s.sim_heads * dim);
}

// gradInput[c, d] = sum over o, t of weight[o, c, t] * gradOutput[o, d - t + (k-1)/2].
template <class T>
void ConvolutionGradInput(CpuContext& context, const ExpandShape& s, int64_t inputs, const float* grad_output,
                          const float* weight, float* grad_input) {
  const int64_t dim = s.head_dim, taps = s.kernel_size, margin = (taps - 1) / 2;
  context.pool.Run(s.tokens, [&](int64_t token, int) {
    for (int64_t c = 0; c < inputs; ++c) {
      float* row = grad_input + (token * inputs + c) * dim;
      for (int64_t d = 0; d < dim; ++d) row[d] = 0;
      for (int64_t o = 0; o < s.sim_heads; ++o) {
        const float* from = grad_output + (token * s.sim_heads + o) * dim;
        for (int64_t t = 0; t < taps; ++t) {
          const float w = weight[(o * inputs + c) * taps + t];
          const int64_t shift = margin - t;
          for (int64_t d = Max<int64_t>(0, -shift); d < Min(dim, dim - shift); ++d) row[d] += w * from[d + shift];
        }
      }
    }
  });
  Round<T>(context, grad_input, s.tokens * inputs * dim);
}

// The sum of term(token), lanes and all; as exact for many tokens as for few.
template <class Term>
float SumTokens(int64_t tokens, const Term& term) {
  Vec total{}, rest{};
  for (int64_t token = 0; token < tokens; ++token) AddCompensated(term(token), total, rest);
  return Sum(total);
}

// gradWeight[o, c, t] = sum over tokens, d of gradOutput[o, d] * input[c, d + t - (k-1)/2]; gradBias[o] = sum of
// gradOutput[o].
void ConvolutionGradWeight(CpuContext& context, const ExpandShape& s, int64_t inputs, const float* grad_output,
                           const float* input, bool relu, float* grad_weight, float* grad_bias) {
  const int64_t dim = s.head_dim, taps = s.kernel_size, margin = (taps - 1) / 2;
  context.pool.Run(s.sim_heads, [&](int64_t o, int) {
    for (int64_t c = 0; c < inputs; ++c) {
      for (int64_t t = 0; t < taps; ++t) {
        if (context.pool.cancelled()) return;  // an item may take seconds
        const int64_t shift = t - margin, begin = Max<int64_t>(0, -shift), end = Min(dim, dim - shift);
        grad_weight[(o * inputs + c) * taps + t] = SumTokens(s.tokens, [&](int64_t token) {
          const float* grad = grad_output + (token * s.sim_heads + o) * dim;
          const float* from = input + (token * inputs + c) * dim + shift;
          return SumVectors(Max<int64_t>(0, end - begin), [&](int64_t i, int64_t count) {
            const Vec x = LoadPartial(from + begin + i, count);
            return LoadPartial(grad + begin + i, count) * (relu ? VecMax(x, Vec{}) : x);
          });
        });
      }
    }
    grad_bias[o] = SumTokens(s.tokens, [&](int64_t token) {
      const float* grad = grad_output + (token * s.sim_heads + o) * dim;
      return SumVectors(dim, [&](int64_t d, int64_t count) { return LoadPartial(grad + d, count); });
    });
  });
}

// out = a + (mask > 0 ? b : 0); without a mask out = a + b; without b, out = max(a, 0).
template <class T>
void Join(CpuContext& context, const float* a, const float* b, const float* mask, int64_t size, float* out) {
  ParallelChunks(context, size, kElementChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (b == nullptr) {
        out[i] = a[i] < 0 ? 0.0f : a[i];
      } else {
        out[i] = Rounded<T>(a[i] + (mask == nullptr || mask[i] > 0 ? b[i] : 0.0f));
      }
    }
  });
}

void ColumnSums(CpuContext& context, const float* a, int64_t rows, int64_t columns, float* sums) {
  ParallelChunks(context, columns, kLanes, [&](int64_t begin, int64_t end) {
    Vec total{}, rest{};
    for (int64_t r = 0; r < rows; ++r) AddCompensated(LoadPartial(a + r * columns + begin, end - begin), total, rest);
    StorePartial(sums + begin, total, end - begin);
  });
}

// Weights rounded to the storage type, and every intermediate of the forward pass.
template <class T>
struct Pipeline {
  Pipeline(CpuContext& context, const ExpandShape& shape, const ExpandWeights& w, const void* input) : s(shape) {
    const int64_t narrow = s.tokens * s.sim_heads * s.head_dim;
    rows = s.tokens * s.sim_heads;
    x = RoundedCopy<T>(context, static_cast<const T*>(input), s.tokens * s.heads * s.head_dim);
    head = RoundedCopy<T>(context, w.head_weight, s.sim_heads * s.heads * s.kernel_size);
    head_bias = RoundedCopy<T>(context, w.head_bias, s.sim_heads);
    head_residual = RoundedCopy<T>(context, w.head_residual_weight, s.sim_heads * s.sim_heads * s.kernel_size);
    head_residual_bias = RoundedCopy<T>(context, w.head_residual_bias, s.sim_heads);
    c1 = context.scratch.Take(narrow);
    y = context.scratch.Take(narrow);
    Convolution<T>(context, s, s.heads, x, false, head, head_bias, c1);
    Convolution<T>(context, s, s.sim_heads, c1, true, head_residual, head_residual_bias, y);
    Join<T>(context, y, c1, nullptr, narrow, y);
    output = y;
    if (!s.features) return;

    const int64_t width = s.sim_head_dim;
    feature = RoundedCopy<T>(context, w.feature_weight, width * s.head_dim);
    feature_bias = RoundedCopy<T>(context, w.feature_bias, width);
    feature_residual = RoundedCopy<T>(context, w.feature_residual_weight, width * width);
    feature_residual_bias = RoundedCopy<T>(context, w.feature_residual_bias, width);
    z1 = context.scratch.Take(rows * width);
    z1_relu = context.scratch.Take(rows * width);
    output = context.scratch.Take(rows * width);
    Step<T>(context, rows, width, s.head_dim, Rows(y, s.head_dim), Transposed(feature, s.head_dim), feature_bias, z1);
    Join<T>(context, z1, nullptr, nullptr, rows * width, z1_relu);
    Step<T>(context, rows, width, width, Rows(z1_relu, width), Transposed(feature_residual, width),
            feature_residual_bias, output);
    Join<T>(context, output, z1, nullptr, rows * width, output);
  }

  ExpandShape s;
  int64_t rows;  // tokens * H'
  float *x, *head, *head_bias, *head_residual, *head_residual_bias, *c1, *y;
  float *feature = nullptr, *feature_bias = nullptr, *feature_residual = nullptr, *feature_residual_bias = nullptr;
  float *z1 = nullptr, *z1_relu = nullptr;
  float* output;  // [rows, D']
};

template <class T>
void StoreFlat(const float* source, int64_t size, void* target) {
  for (int64_t i = 0; i < size; ++i) FromFloat(source[i], static_cast<T*>(target) + i);
}

}  // namespace

Status NaiveExpand(CpuContext& context, const ExpandParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const Pipeline<T> forward(context, p.shape, p.weights, p.x);
    StoreFlat<T>(forward.output, forward.rows * p.shape.sim_head_dim, p.output);
    return Status();
  });
}

Status NaiveExpandBackward(CpuContext& context, const ExpandBackwardParams& p) {
  if (p.grad_dtype != p.dtype) return Status(StatusCode::kInternal, "naive gradients have the dtype of the tensors");
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const ExpandShape& s = p.shape;
    const Pipeline<T> forward(context, s, p.weights, p.x);
    const int64_t rows = forward.rows, narrow = rows * s.head_dim, width = s.sim_head_dim;
    const float* grad_y = RoundedCopy<T>(context, static_cast<const T*>(p.grad_output), rows * width);
    if (s.features) {
      const float* grad_z = grad_y;
      float* grad_z1 = context.scratch.Take(rows * width);
      Step<T>(context, rows, width, width, Rows(grad_z, width), Rows(forward.feature_residual, width), nullptr,
              grad_z1);
      Join<T>(context, grad_z, grad_z1, forward.z1, rows * width, grad_z1);
      Step<float>(context, width, width, rows, Transposed(grad_z, width), Rows(forward.z1_relu, width), nullptr,
                  p.gradients.feature_residual_weight);
      ColumnSums(context, grad_z, rows, width, p.gradients.feature_residual_bias);
      Step<float>(context, width, s.head_dim, rows, Transposed(grad_z1, width), Rows(forward.y, s.head_dim), nullptr,
                  p.gradients.feature_weight);
      ColumnSums(context, grad_z1, rows, width, p.gradients.feature_bias);
      float* grad_heads = context.scratch.Take(narrow);
      Step<T>(context, rows, s.head_dim, width, Rows(grad_z1, width), Rows(forward.feature, s.head_dim), nullptr,
              grad_heads);
      grad_y = grad_heads;
    }
    float* grad_c = context.scratch.Take(narrow);
    float* grad_x = context.scratch.Take(s.tokens * s.heads * s.head_dim);
    ConvolutionGradInput<T>(context, s, s.sim_heads, grad_y, forward.head_residual, grad_c);
    Join<T>(context, grad_y, grad_c, forward.c1, narrow, grad_c);
    ConvolutionGradWeight(context, s, s.sim_heads, grad_y, forward.c1, true, p.gradients.head_residual_weight,
                          p.gradients.head_residual_bias);
    ConvolutionGradWeight(context, s, s.heads, grad_c, forward.x, false, p.gradients.head_weight,
                          p.gradients.head_bias);
    ConvolutionGradInput<T>(context, s, s.heads, grad_c, forward.head, grad_x);
    StoreFlat<T>(grad_x, s.tokens * s.heads * s.head_dim, p.grad_x);
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
