// The unfused pipeline: every step writes its result out, rounded to the storage type, as a framework without fused
// kernels does. It stays in the addon for good: the baseline of every comparison and the second opinion of every test.
#pragma once

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/gemm.h"

namespace sas::cpu::SAS_ISA {

// A step's result, kept as f32 values that the storage type can represent.
template <class T>
float Rounded(float value) {
  T stored;
  FromFloat(value, &stored);
  return ToFloat(stored);
}
template <class T>
void Round(CpuContext& context, float* data, int64_t size) {
  ParallelChunks(context, size, kElementChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) data[i] = Rounded<T>(data[i]);
  });
}

// A tensor or parameter as f32 scratch memory, rounded to the storage type.
template <class T, class Source>
float* RoundedCopy(CpuContext& context, const Source* source, int64_t size) {
  float* copy = context.scratch.Take(size);
  ParallelChunks(context, size, kElementChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) copy[i] = Rounded<T>(ToFloat(source[i]));
  });
  return copy;
}

// c [rows, columns] = a b + bias on f32 memory, rounded to T.
template <class T>
void Step(CpuContext& context, int64_t rows, int64_t columns, int64_t depth, const Matrix& a, const Matrix& b,
          const float* bias, float* c) {
  const auto mark = context.scratch.mark();
  const Status status = Gemm(context, rows, columns, depth, a, b, bias, c, DType::kF32);
  context.scratch.Rewind(mark);
  if (status.ok()) Round<T>(context, c, rows * columns);
}

// Row-major f32 matrix, and its transpose.
inline Matrix Rows(const float* data, int64_t width) { return {data, DType::kF32, width, 1}; }
inline Matrix Transposed(const float* data, int64_t width) { return {data, DType::kF32, 1, width}; }

}  // namespace sas::cpu::SAS_ISA
