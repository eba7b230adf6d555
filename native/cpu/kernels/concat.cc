// Features of two tensors side by side. A tensor with one head stands beside each head of the other; its gradient is
// the sum over them.
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

// sums [heads, width] = for each head the sum over `count` rows of source, which are `stride` apart.
template <class T>
void SumHeads(const T* source, int64_t stride, int64_t count, T* sums, int64_t heads, int64_t width) {
  for (int64_t head = 0; head < heads; ++head) {
    const T* rows = source + head * count * stride;
    ForEachVector(width, [=](int64_t i, int64_t lanes) {
      Vec sum = LoadPartial(rows + i, lanes);
      for (int64_t row = 1; row < count; ++row) sum += LoadPartial(rows + row * stride + i, lanes);
      StorePartial(sums + head * width + i, sum, lanes);
    });
  }
}

}  // namespace

// Nothing is computed: of the dtype only the size matters.
Status Concat(CpuContext& context, const ConcatParams& p) {
  const ConcatShape& s = p.shape;
  const int64_t item = static_cast<int64_t>(ItemSize(p.dtype));
  const int64_t bytes_a = s.width_a * item, bytes_b = s.width_b * item;  // of a head
  const int64_t step_a = s.heads_a == 1 ? 0 : bytes_a, step_b = s.heads_b == 1 ? 0 : bytes_b;
  ParallelRows(context, s.tokens, s.heads * (s.width_a + s.width_b), [=](int64_t token) {
    const char* a = static_cast<const char*>(p.a) + token * s.heads_a * bytes_a;
    const char* b = static_cast<const char*>(p.b) + token * s.heads_b * bytes_b;
    char* output = static_cast<char*>(p.output) + token * s.heads * (bytes_a + bytes_b);
    for (int64_t head = 0; head < s.heads; ++head) {
      memcpy(output, a, static_cast<size_t>(bytes_a));
      memcpy(output + bytes_a, b, static_cast<size_t>(bytes_b));
      a += step_a;
      b += step_b;
      output += bytes_a + bytes_b;
    }
  });
  return Status();
}

Status ConcatBackward(CpuContext& context, const ConcatBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const ConcatShape& s = p.shape;
    const int64_t width = s.width_a + s.width_b;
    ParallelRows(context, s.tokens, s.heads * width, [=](int64_t token) {
      const T* grad_output = static_cast<const T*>(p.grad_output) + token * s.heads * width;
      T* grad_a = static_cast<T*>(p.grad_a) + token * s.heads_a * s.width_a;
      T* grad_b = static_cast<T*>(p.grad_b) + token * s.heads_b * s.width_b;
      SumHeads(grad_output, width, s.heads / s.heads_a, grad_a, s.heads_a, s.width_a);
      SumHeads(grad_output + s.width_a, width, s.heads / s.heads_b, grad_b, s.heads_b, s.width_b);
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
