// Attention, one step at a time: scores, scale and mask, softmax, weighted sum. Every step writes its result to device
// memory, rounded to the storage type, as a framework without fused kernels does. It stays in the addon for good: the
// baseline of every comparison and the second opinion of every test.
#include <cmath>

#include "cuda/device/elementwise.cuh"
#include "cuda/kernels/gemm.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// Scores are held for as many batches at a time as fit in so many elements.
constexpr int64_t kMaxScores = int64_t{1} << 30;

template <class T>
__device__ __forceinline__ float Rounded(float value) {
  return Widen(Narrowed<T>(value));
}

// Keys that the query of row `row` of [batches, Hq, Tq] sees.
__device__ __forceinline__ int64_t VisibleKeys(const AttentionShape& s, int64_t row) {
  const int64_t query = row % s.queries;
  return s.causal ? max(min(s.keys, query + 1 + s.keys - s.queries), int64_t{0}) : s.keys;
}

// weights [rows, keys]: scores in, softmax(scale * scores) out, 0 where masked and in rows that see no key. A warp per
// row. With four blocks at least: ptxas else spills for the sake of one more.
template <class T>
__global__ void __launch_bounds__(kElementThreads, 4)
    SoftmaxKernel(AttentionShape s, int64_t rows, T* weights, float* log_sum_exp) {
  const int lane = LaneId();
  for (int64_t row = FirstItem() / 32; row < rows; row += ItemStride() / 32) {
    T* values = weights + row * s.keys;
    const int64_t visible = VisibleKeys(s, row);
    float largest = -INFINITY, sum = 0, rest = 0;
    for (int64_t j = lane; j < visible; j += 32) {
      const T scaled = Narrowed<T>(Widen(values[j]) * s.scale);
      values[j] = scaled;
      largest = fmaxf(largest, Widen(scaled));
    }
    largest = WarpMax(largest);
    const float reference = largest == -INFINITY ? 0.0f : largest;  // of scores that are all -inf: weights of 0
    for (int64_t j = lane; j < visible; j += 32) AddCompensated(expf(Widen(values[j]) - reference), sum, rest);
    sum = WarpSum(sum);
    const bool seen = sum != 0;
    for (int64_t j = lane; j < s.keys; j += 32) {
      Narrow(seen && j < visible ? expf(Widen(values[j]) - reference) / sum : 0.0f, values + j);
    }
    if (log_sum_exp != nullptr && lane == 0) log_sum_exp[row] = seen ? reference + logf(sum) : -INFINITY;
  }
}

// grads [rows, keys]: gradients of the weights in, of the unscaled scores out.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    SoftmaxBackwardKernel(AttentionShape s, int64_t rows, const T* weights, T* grads) {
  for (int64_t row = FirstItem() / 32; row < rows; row += ItemStride() / 32) {
    const T* weight = weights + row * s.keys;
    T* grad = grads + row * s.keys;
    float shared = 0, rest = 0;
    for (int64_t j = LaneId(); j < s.keys; j += 32) AddCompensated(Widen(weight[j]) * Widen(grad[j]), shared, rest);
    shared = WarpSum(shared);
    for (int64_t j = LaneId(); j < s.keys; j += 32) {
      Narrow(Rounded<T>(Widen(weight[j]) * (Widen(grad[j]) - shared)) * s.scale, grad + j);
    }
  }
}

// output [tokens, Hkv, width] = sum over the query heads of each group of input [tokens, Hkv, group, width].
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    SumGroupsKernel(int64_t size, int64_t group, int64_t width, const T* input, T* output) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) {
    const T* first = input + i / width * group * width + i % width;
    float sum = 0, rest = 0;
    for (int64_t member = 0; member < group; ++member) AddCompensated(Widen(first[member * width]), sum, rest);
    Narrow(sum, output + i);
  }
}

// Heads of a tensor [batches, length, heads, width] as matrices [length, width], or their transposes.
Matrix Heads(const void* tensor, int64_t length, int64_t heads, int64_t width, bool transposed = false) {
  return {tensor, heads * width, transposed, length * heads * width, width};
}
Result HeadsResult(void* tensor, DType dtype, int64_t length, int64_t heads, int64_t width) {
  return {tensor, heads * width, dtype, length * heads * width, width};
}

// Some batches: where their rows are, and the products of their heads.
template <class T>
struct Step {
  CudaContext& context;
  const AttentionShape& s;
  DType dtype;
  int64_t batches;

  int64_t rows() const { return batches * s.heads * s.queries; }
  Grid RowGrid() const { return ElementGrid(context, 32 * rows()); }
  int64_t group() const { return s.heads / s.kv_heads; }
  // A matrix of [Tq, Tk] for every head.
  Matrix Weights(const T* weights, bool transposed = false) const {
    return {weights, s.keys, transposed, s.heads * s.queries * s.keys, s.queries * s.keys};
  }
  Product Base(int64_t rows, int64_t columns, int64_t depth) const {
    return {.rows = rows, .columns = columns, .depth = depth, .dtype = dtype, .outer = batches, .inner = s.heads};
  }

  // weights [batches, Hq, Tq, Tk] = left [batches, Tq, Hq, width] right [batches, Tk, Hkv, width]^T.
  Status Scores(const T* left, const T* right, int64_t width, T* weights) const {
    Product product = Base(s.queries, s.keys, width);
    product.a = Heads(left, s.queries, s.heads, width);
    product.b = Heads(right, s.keys, s.kv_heads, width, true);
    product.b_share = group();
    product.c = {weights, s.keys, dtype, s.heads * s.queries * s.keys, s.queries * s.keys};
    return Gemm(context, product);
  }

  // output [batches, Tq, Hq, width] = weights, values [batches, Tk, Hkv, width].
  Status ToQueries(const T* weights, const T* values, int64_t width, T* output) const {
    Product product = Base(s.queries, width, s.keys);
    product.a = Weights(weights);
    product.b = Heads(values, s.keys, s.kv_heads, width);
    product.b_share = group();
    product.c = HeadsResult(output, dtype, s.queries, s.heads, width);
    return Gemm(context, product);
  }

  // output [batches, Tk, Hkv, width] = weights^T, values [batches, Tq, Hq, width], summed over groups; `scratch`
  // [batches, Tk, Hq, width] if a group has several heads.
  Status ToKeys(const T* weights, const T* values, int64_t width, T* scratch, T* output) const {
    T* heads = group() == 1 ? output : scratch;
    Product product = Base(s.keys, width, s.queries);
    product.a = Weights(weights, true);
    product.b = Heads(values, s.queries, s.heads, width);
    product.c = HeadsResult(heads, dtype, s.keys, s.heads, width);
    SAS_TRY(Gemm(context, product));
    if (group() == 1) return {};
    const int64_t size = batches * s.keys * s.kv_heads * width;
    return context.Launch(SumGroupsKernel<T>, ElementGrid(context, size), size, group(), width, heads, output);
  }

  Status Softmax(const T* q, const T* k, T* weights, float* log_sum_exp) const {
    SAS_TRY(Scores(q, k, s.width, weights));
    return context.Launch(SoftmaxKernel<T>, RowGrid(), s, rows(), weights, log_sum_exp);
  }
};

int64_t BatchesPerStep(const AttentionShape& s) {
  return std::clamp<int64_t>(kMaxScores / (s.heads * s.queries * s.keys), 1, s.batch);
}

}  // namespace

Status NaiveAttention(CudaContext& context, const AttentionParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) -> Status {
    const AttentionShape& s = p.shape;
    const int64_t most = BatchesPerStep(s);
    T* weights = context.Take<T>(most * s.heads * s.queries * s.keys);
    for (int64_t b = 0; b < s.batch; b += most) {
      const Step<T> step{context, s, p.dtype, std::min(most, s.batch - b)};
      const T* q = static_cast<const T*>(p.q) + b * s.queries * s.heads * s.width;
      const T* k = static_cast<const T*>(p.k) + b * s.keys * s.kv_heads * s.width;
      const T* v = static_cast<const T*>(p.v) + b * s.keys * s.kv_heads * s.value_width;
      T* output = static_cast<T*>(p.output) + b * s.queries * s.heads * s.value_width;
      SAS_TRY(step.Softmax(q, k, weights, p.log_sum_exp + b * s.heads * s.queries));
      SAS_TRY(step.ToQueries(weights, v, s.value_width, output));
    }
    return {};
  });
}

Status NaiveAttentionBackward(CudaContext& context, const AttentionBackwardParams& p) {
  if (p.grad_dtype != p.dtype) return Status(StatusCode::kInternal, "naive gradients have the dtype of the tensors");
  return DispatchFloat(p.dtype, [&]<class T>(T*) -> Status {
    const AttentionShape& s = p.shape;
    const int64_t most = BatchesPerStep(s);
    T* weights = context.Take<T>(most * s.heads * s.queries * s.keys);
    T* grad_scores = context.Take<T>(most * s.heads * s.queries * s.keys);
    T* heads =
        s.heads == s.kv_heads ? nullptr : context.Take<T>(most * s.keys * s.heads * std::max(s.width, s.value_width));
    for (int64_t b = 0; b < s.batch; b += most) {
      const Step<T> step{context, s, p.dtype, std::min(most, s.batch - b)};
      const int64_t at_q = b * s.queries * s.heads * s.width, at_output = b * s.queries * s.heads * s.value_width;
      const int64_t at_k = b * s.keys * s.kv_heads * s.width, at_v = b * s.keys * s.kv_heads * s.value_width;
      const T *q = static_cast<const T*>(p.q) + at_q, *k = static_cast<const T*>(p.k) + at_k;
      const T *v = static_cast<const T*>(p.v) + at_v, *grad_output = static_cast<const T*>(p.grad_output) + at_output;
      SAS_TRY(step.Softmax(q, k, weights, nullptr));
      SAS_TRY(step.ToKeys(weights, grad_output, s.value_width, heads, static_cast<T*>(p.grad_v) + at_v));
      SAS_TRY(step.Scores(grad_output, v, s.value_width, grad_scores));
      SAS_TRY(context.Launch(SoftmaxBackwardKernel<T>, step.RowGrid(), s, step.rows(), weights, grad_scores));
      SAS_TRY(step.ToQueries(grad_scores, k, s.width, static_cast<T*>(p.grad_q) + at_q));
      SAS_TRY(step.ToKeys(grad_scores, q, s.width, heads, static_cast<T*>(p.grad_k) + at_k));
    }
    return {};
  });
}

}  // namespace sas::cuda
