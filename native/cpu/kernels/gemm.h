// A parallel matrix product over whole tensors.
#pragma once

#include "cpu/context.h"
#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {

// Element (i, j) at data[i * row + j * column], in any storage type; row or column is 1.
struct Matrix {
  const void* data;
  DType dtype;
  int64_t row, column;
};

// C [rows, columns] = A [rows, depth] B [depth, columns] + bias [columns] (or null), C contiguous, accumulated in f32
// in an order that depends on the shape alone. Where A is bf16 and the processor has products of bf16, B is rounded to
// it too.
Status Gemm(CpuContext& context, int64_t rows, int64_t columns, int64_t depth, const Matrix& a, const Matrix& b,
            const float* bias, void* c, DType c_dtype);

// gradient [rows, columns] = g^T x, of g [depth, rows] and x [depth, columns] in that dtype, and, unless null, sums
// [rows] = the sums over the depth of g: the gradients of a linear layer's weight and bias.
Status WeightGradient(CpuContext& context, int64_t rows, int64_t columns, int64_t depth, const void* g, const void* x,
                      DType dtype, float* gradient, float* sums);

}  // namespace sas::cpu::SAS_ISA
