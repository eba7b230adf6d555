// Expansion, one step at a time (see naive_attention.cu): convolution, ReLU, convolution, sum, linear, ReLU, linear,
// sum. A convolution unfolds its input, as frameworks do: with U[(c, t), d] = X[c, d + t - (k-1)/2] for every token it
// is the product W [outputs, inputs * k] U [inputs * k, D].
#include "cuda/device/column_sums.cuh"
#include "cuda/kernels/gemm.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// unfolded [inputs * k, tokens, D] of x [tokens, inputs, D], which passes through ReLU first if asked.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    UnfoldKernel(int64_t tokens, int64_t inputs, int64_t dim, int64_t taps, bool relu, const T* x, T* unfolded) {
  const int64_t size = inputs * taps * tokens * dim;
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) {
    const int64_t d = i % dim, token = i / dim % tokens, line = i / dim / tokens;
    const int64_t from = d + line % taps - (taps - 1) / 2;
    T value{};
    if (from >= 0 && from < dim) value = x[(token * inputs + line / taps) * dim + from];
    unfolded[i] = relu && Widen(value) < 0 ? T{} : value;
  }
}

// swapped [b, a, width] of x [a, b, width].
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    SwapKernel(int64_t a, int64_t b, int64_t width, const T* x, T* swapped) {
  for (int64_t i = FirstItem(); i < a * b * width; i += ItemStride()) {
    swapped[i] = x[(i / width % a * b + i / width / a) * width + i % width];
  }
}

// The kernel that takes gradients from outputs back to inputs: flipped [inputs, outputs, k] of weight [outputs, inputs,
// k].
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    FlipKernel(int64_t outputs, int64_t inputs, int64_t taps, const T* weight, T* flipped) {
  for (int64_t i = FirstItem(); i < outputs * inputs * taps; i += ItemStride()) {
    const int64_t tap = i % taps, output = i / taps % outputs, input = i / taps / outputs;
    flipped[i] = weight[(output * inputs + input) * taps + taps - 1 - tap];
  }
}

// A parameter rounded to T, as T or as f32.
template <class T, class To>
__global__ void __launch_bounds__(kElementThreads) RoundParameterKernel(int64_t size, const float* input, To* output) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) Narrow(Widen(Narrowed<T>(input[i])), output + i);
}

// out = a + (mask > 0 ? b : 0); without a mask out = a + b.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    JoinKernel(int64_t size, const T* a, const T* b, const T* mask, T* out) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) {
    Narrow(Widen(a[i]) + (mask == nullptr || Widen(mask[i]) > 0 ? Widen(b[i]) : 0.0f), out + i);
  }
}

template <class T>
__global__ void __launch_bounds__(kElementThreads) ReluKernel(int64_t size, const T* a, T* out) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) out[i] = Widen(a[i]) < 0 ? T{} : a[i];
}

// The steps, on tensors of type T.
template <class T>
class Steps {
 public:
  Steps(CudaContext& context, const ExpandShape& shape, DType dtype)
      : context_(context),
        s_(shape),
        dtype_(dtype),
        unfolded_(context.Take<T>(std::max(s_.heads, s_.sim_heads) * s_.kernel_size * s_.tokens * s_.head_dim)) {}

  template <class To>
  Status Parameter(int64_t size, const float* source, const To** rounded) const {
    To* copy = context_.Take<To>(size);
    *rounded = copy;
    return context_.Launch(RoundParameterKernel<T, To>, ElementGrid(context_, size), size, source, copy);
  }

  // output [tokens, outputs, D] = weight [outputs, inputs, k] * x [tokens, inputs, D] + bias [outputs].
  Status Convolution(int64_t inputs, int64_t outputs, const T* x, bool relu, const T* weight, const float* bias,
                     T* output) const {
    SAS_TRY(Unfold(inputs, x, relu));
    const int64_t depth = inputs * s_.kernel_size, dim = s_.head_dim;
    return Gemm(context_, {.rows = outputs,
                           .columns = dim,
                           .depth = depth,
                           .dtype = dtype_,
                           .a = {weight, depth},
                           .b = {unfolded_, s_.tokens * dim, false, 0, dim},
                           .c = {output, dim, dtype_, 0, outputs * dim},
                           .inner = s_.tokens,
                           .row_bias = bias});
  }

  // grad_x [tokens, inputs, D] of a convolution to H' outputs.
  Status ConvolutionGradInput(int64_t inputs, const T* grad_output, const T* weight, T* grad_x) const {
    const int64_t size = s_.sim_heads * inputs * s_.kernel_size;
    T* flipped = context_.Take<T>(size);
    SAS_TRY(context_.Launch(FlipKernel<T>, ElementGrid(context_, size), s_.sim_heads, inputs, s_.kernel_size, weight,
                            flipped));
    return Convolution(s_.sim_heads, inputs, grad_output, false, flipped, nullptr, grad_x);
  }

  // grad_weight [H', inputs, k] and grad_bias [H'], sums over tokens and features.
  Status ConvolutionGradWeight(int64_t inputs, const T* grad_output, const T* x, bool relu, float* grad_weight,
                               float* grad_bias) const {
    const int64_t columns = inputs * s_.kernel_size, dim = s_.head_dim, depth = s_.tokens * dim;
    SAS_TRY(Unfold(inputs, x, relu));
    T* grad_rows = context_.Take<T>(s_.sim_heads * depth);  // [H', tokens, D]
    SAS_TRY(context_.Launch(SwapKernel<T>, ElementGrid(context_, s_.sim_heads * depth), s_.tokens, s_.sim_heads, dim,
                            grad_output, grad_rows));
    SAS_TRY(Gemm(context_, {.rows = s_.sim_heads,
                            .columns = columns,
                            .depth = depth,
                            .dtype = dtype_,
                            .a = {grad_rows, depth},
                            .b = {unfolded_, depth, true},
                            .c = {grad_weight, columns, DType::kF32}}));
    // Over tokens, then over features.
    float* sums = context_.Take<float>(s_.sim_heads * dim);
    float* transposed = context_.Take<float>(s_.sim_heads * dim);
    SAS_TRY(ColumnSums(context_, s_.tokens, s_.sim_heads * dim, grad_output, sums));
    SAS_TRY(context_.Launch(SwapKernel<float>, ElementGrid(context_, s_.sim_heads * dim), s_.sim_heads, dim, int64_t{1},
                            sums, transposed));
    return ColumnSums(context_, dim, s_.sim_heads, static_cast<const float*>(transposed), grad_bias);
  }

  // output [rows, columns] = x [rows, depth] weight^T + bias, or x weight.
  Status Linear(int64_t rows, int64_t columns, int64_t depth, const T* x, const T* weight, bool transposed,
                const float* bias, T* output) const {
    return Gemm(context_, {.rows = rows,
                           .columns = columns,
                           .depth = depth,
                           .dtype = dtype_,
                           .a = {x, depth},
                           .b = {weight, transposed ? depth : columns, transposed},
                           .c = {output, columns, dtype_},
                           .column_bias = bias,
                           .scratch_bias = true});
  }

  // grad_weight [outputs, inputs] = grad_output [rows, outputs]^T x [rows, inputs], grad_bias [outputs].
  Status LinearGradWeight(int64_t rows, int64_t outputs, int64_t inputs, const T* grad_output, const T* x,
                          float* grad_weight, float* grad_bias) const {
    SAS_TRY(Gemm(context_, {.rows = outputs,
                            .columns = inputs,
                            .depth = rows,
                            .dtype = dtype_,
                            .a = {grad_output, outputs, true},
                            .b = {x, inputs},
                            .c = {grad_weight, inputs, DType::kF32}}));
    return ColumnSums(context_, rows, outputs, grad_output, grad_bias);
  }

  Status Join(int64_t size, const T* a, const T* b, const T* mask, T* out) const {
    return context_.Launch(JoinKernel<T>, ElementGrid(context_, size), size, a, b, mask, out);
  }

  Status Relu(int64_t size, const T* a, T* out) const {
    return context_.Launch(ReluKernel<T>, ElementGrid(context_, size), size, a, out);
  }

 private:
  Status Unfold(int64_t inputs, const T* x, bool relu) const {
    const int64_t size = inputs * s_.kernel_size * s_.tokens * s_.head_dim;
    return context_.Launch(UnfoldKernel<T>, ElementGrid(context_, size), s_.tokens, inputs, s_.head_dim, s_.kernel_size,
                           relu, x, unfolded_);
  }

  CudaContext& context_;
  const ExpandShape& s_;
  const DType dtype_;
  T* const unfolded_;  // of one convolution at a time
};

// Weights rounded to the storage type, and every intermediate of the forward pass; the last is written to `output`.
template <class T>
struct Forward {
  Status Run(CudaContext& context, const Steps<T>& steps, const ExpandShape& s, const ExpandWeights& w, const T* x,
             T* output) {
    const int64_t rows = s.tokens * s.sim_heads, narrow = rows * s.head_dim, width = s.sim_head_dim;
    const float *head_bias = nullptr, *head_residual_bias = nullptr;
    SAS_TRY(steps.Parameter(s.sim_heads * s.heads * s.kernel_size, w.head_weight, &head));
    SAS_TRY(steps.Parameter(s.sim_heads, w.head_bias, &head_bias));
    SAS_TRY(steps.Parameter(s.sim_heads * s.sim_heads * s.kernel_size, w.head_residual_weight, &head_residual));
    SAS_TRY(steps.Parameter(s.sim_heads, w.head_residual_bias, &head_residual_bias));
    c1 = context.Take<T>(narrow);
    y = s.features ? context.Take<T>(narrow) : output;
    SAS_TRY(steps.Convolution(s.heads, s.sim_heads, x, false, head, head_bias, c1));
    SAS_TRY(steps.Convolution(s.sim_heads, s.sim_heads, c1, true, head_residual, head_residual_bias, y));
    SAS_TRY(steps.Join(narrow, y, c1, nullptr, y));
    if (!s.features) return {};

    const float *feature_bias = nullptr, *feature_residual_bias = nullptr;
    SAS_TRY(steps.Parameter(width * s.head_dim, w.feature_weight, &feature));
    SAS_TRY(steps.Parameter(width, w.feature_bias, &feature_bias));
    SAS_TRY(steps.Parameter(width * width, w.feature_residual_weight, &feature_residual));
    SAS_TRY(steps.Parameter(width, w.feature_residual_bias, &feature_residual_bias));
    z1 = context.Take<T>(rows * width);
    z1_relu = context.Take<T>(rows * width);
    SAS_TRY(steps.Linear(rows, width, s.head_dim, y, feature, true, feature_bias, z1));
    SAS_TRY(steps.Relu(rows * width, z1, z1_relu));
    SAS_TRY(steps.Linear(rows, width, width, z1_relu, feature_residual, true, feature_residual_bias, output));
    return steps.Join(rows * width, output, z1, nullptr, output);
  }

  const T *head = nullptr, *head_residual = nullptr, *feature = nullptr, *feature_residual = nullptr;
  T *c1 = nullptr, *y = nullptr, *z1 = nullptr, *z1_relu = nullptr;
};

}  // namespace

Status NaiveExpand(CudaContext& context, const ExpandParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const Steps<T> steps(context, p.shape, p.dtype);
    return Forward<T>().Run(context, steps, p.shape, p.weights, static_cast<const T*>(p.x), static_cast<T*>(p.output));
  });
}

Status NaiveExpandBackward(CudaContext& context, const ExpandBackwardParams& p) {
  if (p.grad_dtype != p.dtype) return Status(StatusCode::kInternal, "naive gradients have the dtype of the tensors");
  return DispatchFloat(p.dtype, [&]<class T>(T*) -> Status {
    const ExpandShape& s = p.shape;
    const ExpandGradients& gradients = p.gradients;
    const int64_t rows = s.tokens * s.sim_heads, narrow = rows * s.head_dim, width = s.sim_head_dim;
    const T* x = static_cast<const T*>(p.x);
    const Steps<T> steps(context, s, p.dtype);
    Forward<T> forward;
    SAS_TRY(forward.Run(context, steps, s, p.weights, x, context.Take<T>(rows * width)));

    const T* grad_y = static_cast<const T*>(p.grad_output);
    if (s.features) {
      const T* grad_z = grad_y;
      T* grad_z1 = context.Take<T>(rows * width);
      SAS_TRY(steps.Linear(rows, width, width, grad_z, forward.feature_residual, false, nullptr, grad_z1));
      SAS_TRY(steps.Join(rows * width, grad_z, grad_z1, forward.z1, grad_z1));
      SAS_TRY(steps.LinearGradWeight(rows, width, width, grad_z, forward.z1_relu, gradients.feature_residual_weight,
                                     gradients.feature_residual_bias));
      SAS_TRY(steps.LinearGradWeight(rows, width, s.head_dim, grad_z1, forward.y, gradients.feature_weight,
                                     gradients.feature_bias));
      T* grad_heads = context.Take<T>(narrow);
      SAS_TRY(steps.Linear(rows, s.head_dim, width, grad_z1, forward.feature, false, nullptr, grad_heads));
      grad_y = grad_heads;
    }
    T* grad_c = context.Take<T>(narrow);
    SAS_TRY(steps.ConvolutionGradInput(s.sim_heads, grad_y, forward.head_residual, grad_c));
    SAS_TRY(steps.Join(narrow, grad_y, grad_c, forward.c1, grad_c));
    SAS_TRY(steps.ConvolutionGradWeight(s.sim_heads, grad_y, forward.c1, true, gradients.head_residual_weight,
                                        gradients.head_residual_bias));
    SAS_TRY(steps.ConvolutionGradWeight(s.heads, grad_c, x, false, gradients.head_weight, gradients.head_bias));
    return steps.ConvolutionGradInput(s.heads, grad_c, forward.head, static_cast<T*>(p.grad_x));
  });
}

}  // namespace sas::cuda
