// The tensor product of factors (Tensor Product Attention, arXiv 2501.06425). Of each token, with head factors A [R, H]
// and feature factors B [R, D]: output = A^T B / R. Backward, with gradOutput G [H, D]: gradA = B G^T / R, gradB = A G
// / R.
#include <type_traits>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"
#include "cpu/kernels/pack.h"

namespace sas::cpu::SAS_ISA {
namespace {

// Calls body(token, scratch) for every token; `scratch` [floats] is the thread's own.
template <class Body>
void ForEachToken(CpuContext& context, const TensorProductShape& s, int64_t floats, const Body& body) {
  const int64_t chunk = CeilDiv(kElementChunk, s.heads * s.width);
  const ThreadBlocks scratch = context.scratch.TakeEach(floats);
  context.pool.Run(CeilDiv(s.tokens, chunk), [&](int64_t item, int thread) {
    for (int64_t token = item * chunk; token < Min((item + 1) * chunk, s.tokens); ++token) {
      body(token, scratch[thread]);
    }
  });
}

// target [size] = source / rank, in f32.
template <class T>
void CopyFactors(const T* source, int64_t size, int64_t rank, float* target) {
  PackAlong<false>(source, size, 1, size, target, size, 1.0f / static_cast<float>(rank));
}

// The rows of source [rows, columns] in f32, `stride` apart: where they lie, or else copied to `copy`.
template <class T>
const float* RowsOf(const T* source, int64_t rows, int64_t columns, float* copy, int64_t stride) {
  if constexpr (std::is_same_v<T, float>) {
    if (columns == stride) return source;
  }
  CopyRows(source, columns, rows, columns, copy, stride, stride);
  return copy;
}

// output [rows, columns] = A B, in the storage type. `p` has A and the depth; rows of B and of the block, which holds
// f32 results if the output cannot, are `stride` apart: `columns` rounded up to whole vectors.
template <class T>
void MultiplyInto(Product p, int64_t rows, int64_t columns, const float* b, float* block, int64_t stride, T* output) {
  p.rows = rows;
  p.columns = columns;
  SetRowsB(p, b, stride);
  if constexpr (std::is_same_v<T, float>) {
    if (columns == stride) block = output;
  }
  SetC(p, block, stride);
  Multiply(p);
  if (static_cast<void*>(block) != output) StoreRows(block, stride, rows, columns, output, columns);
}

}  // namespace

Status TensorProduct(CpuContext& context, const TensorProductParams& p) {
  const TensorProductShape& s = p.shape;
  const int64_t stride = RoundUp(s.width, kLanes), head_size = s.rank * s.heads, feature_size = s.rank * s.width;
  const int64_t head_floats = RoundUp(head_size, 16), feature_floats = s.rank * stride;
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t floats = head_floats + feature_floats + s.heads * stride;
    ForEachToken(context, s, floats, [&](int64_t token, float* scratch) {
      float* head_factors = scratch;                        // [R, H]
      float* feature_factors = head_factors + head_floats;  // [R, stride]
      float* block = feature_factors + feature_floats;      // [H, stride]
      CopyFactors(static_cast<const T*>(p.head_factors) + token * head_size, head_size, s.rank, head_factors);
      const float* rows = RowsOf(static_cast<const T*>(p.feature_factors) + token * feature_size, s.rank, s.width,
                                 feature_factors, stride);
      Product product{};
      product.depth = s.rank;
      SetColumnsA(product, head_factors, s.heads);
      MultiplyInto(product, s.heads, s.width, rows, block, stride,
                   static_cast<T*>(p.output) + token * s.heads * s.width);
    });
    return Status();
  });
}

Status TensorProductBackward(CpuContext& context, const TensorProductBackwardParams& p) {
  const TensorProductShape& s = p.shape;
  const int64_t width_stride = RoundUp(s.width, kLanes), head_stride = RoundUp(s.heads, kLanes);
  const int64_t head_size = s.rank * s.heads, feature_size = s.rank * s.width;
  const int64_t factor_floats = RoundUp(Max(head_size, feature_size), 16);
  const int64_t grad_floats = Max(s.heads * width_stride, s.width * head_stride);
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t floats = factor_floats + grad_floats + s.rank * Max(width_stride, head_stride);
    ForEachToken(context, s, floats, [&](int64_t token, float* scratch) {
      float* factors = scratch;                      // [R, D], then [R, H]
      float* grad_output = factors + factor_floats;  // [D, head_stride], then [H, width_stride]
      float* block = grad_output + grad_floats;      // [R, head_stride], then [R, width_stride]
      const T* grad = static_cast<const T*>(p.grad_output) + token * s.heads * s.width;
      Product product{};

      CopyFactors(static_cast<const T*>(p.feature_factors) + token * feature_size, feature_size, s.rank, factors);
      PackTransposed<false>(grad, s.width, s.heads, s.width, grad_output, head_stride, head_stride);
      product.depth = s.width;
      SetRowsA(product, factors, s.width);
      MultiplyInto(product, s.rank, s.heads, grad_output, block, head_stride,
                   static_cast<T*>(p.grad_head_factors) + token * head_size);

      CopyFactors(static_cast<const T*>(p.head_factors) + token * head_size, head_size, s.rank, factors);
      const float* rows = RowsOf(grad, s.heads, s.width, grad_output, width_stride);
      product.depth = s.heads;
      SetRowsA(product, factors, s.heads);
      MultiplyInto(product, s.rank, s.width, rows, block, width_stride,
                   static_cast<T*>(p.grad_feature_factors) + token * feature_size);
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
