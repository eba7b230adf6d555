// Matrix products over whole tensors, batched in two dimensions: by cuBLAS if it is there, else by the kernel of
// gemm.cu.
#pragma once

#include "cuda/context.h"

namespace sas::cuda {

// An operand [i, j] in storage of rows `stride` elements apart: element (i, j) lies at data[i * stride + j], or, where
// the storage holds the transpose, at data[j * stride + i].
struct Matrix {
  const void* data = nullptr;
  int64_t stride = 0;
  bool transposed = false;
  int64_t outer = 0, inner = 0;  // distance between batches
};

// C = A B, in f32 or in the type of the operands, row-major.
struct Result {
  void* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::kF32;
  int64_t outer = 0, inner = 0;
};

// C [rows, columns] = A [rows, depth] B [depth, columns] + bias for every one of outer * inner batches; sums in f32, in
// an order that depends on the shape and the device alone. Batch (u, v) takes B from (u, v / b_share): a head of keys
// serves a group of heads of queries.
struct Product {
  int64_t rows, columns, depth;
  DType dtype;  // of A and B
  Matrix a{}, b{};
  Result c{};
  int64_t outer = 1, inner = 1;
  int64_t b_share = 1;
  const float* row_bias = nullptr;     // [rows]
  const float* column_bias = nullptr;  // [columns]
  bool scratch_bias = false;           // column_bias is no parameter, but scratch memory of the running operation
};

Status Gemm(CudaContext& context, const Product& product);

// A parameter, whole, in `dtype`: a copy that is kept (WeightCache), or itself if that is f32.
Status RoundParameter(CudaContext& context, DType dtype, int64_t size, const float* parameter, const void** rounded);
// The same of scratch memory: the copy is scratch too.
Status RoundScratch(CudaContext& context, DType dtype, int64_t size, const float* values, const void** rounded);

}  // namespace sas::cuda
