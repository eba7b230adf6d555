// Attention, one step at a time (see naive.h): scores, scale and mask, softmax, weighted sum; each head's [Tq, Tk]
// matrices are written out.
#include <cmath>

#include "cpu/kernels/attention.h"
#include "cpu/kernels/naive.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

// One (batch, head): where its rows are.
template <class T>
struct Head {
  Head(const AttentionShape& shape, int64_t batch, int64_t head)
      : s(shape), b(batch), h(head), kv(head / (shape.heads / shape.kv_heads)) {}

  Matrix Queries(const void* q, int64_t width) const { return View(q, s.queries, s.heads, h, width, false); }
  Matrix Keys(const void* k, int64_t width) const { return View(k, s.keys, s.kv_heads, kv, width, false); }
  Matrix KeysTransposed(const void* k, int64_t width) const { return View(k, s.keys, s.kv_heads, kv, width, true); }
  // Stores contiguous [length, width] rows into a tensor [B, length, heads, width].
  void Store(const float* rows, int64_t length, int64_t heads, int64_t head, int64_t width, void* tensor) const {
    for (int64_t i = 0; i < length; ++i) {
      T* target = static_cast<T*>(tensor) + ((b * length + i) * heads + head) * width;
      for (int64_t d = 0; d < width; ++d) FromFloat(rows[i * width + d], target + d);
    }
  }

  const AttentionShape& s;
  int64_t b, h, kv;

 private:
  Matrix View(const void* data, int64_t length, int64_t heads, int64_t head, int64_t width, bool transposed) const {
    const T* start = static_cast<const T*>(data) + (b * length * heads + head) * width;
    const DType dtype = sizeof(T) == 4 ? DType::kF32 : std::is_same_v<T, BFloat16> ? DType::kBF16 : DType::kF16;
    return transposed ? Matrix{start, dtype, 1, heads * width} : Matrix{start, dtype, heads * width, 1};
  }
};

// weights [Tq, Tk] = softmax(scale * q k^T), 0 where masked and in rows that see no key; logSumExp [Tq].
template <class T>
void Softmax(CpuContext& context, const Head<T>& head, const void* q, const void* k, float* weights,
             float* log_sum_exp) {
  const AttentionShape& s = head.s;
  Step<T>(context, s.queries, s.keys, s.width, head.Queries(q, s.width), head.KeysTransposed(k, s.width), nullptr,
          weights);
  ParallelChunks(context, s.queries, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* row = weights + i * s.keys;
      const int64_t visible = VisibleKeys(s, i);
      float max = kMinusInfinity;
      for (int64_t j = 0; j < visible; ++j) {
        row[j] = Rounded<T>(row[j] * s.scale);
        if (!(row[j] <= max)) max = row[j];
      }
      const float reference = max == kMinusInfinity ? 0.0f : max;  // of scores that are all -inf: weights of 0
      for (int64_t j = 0; j < visible; j += kLanes) {
        const int64_t count = Min<int64_t>(kLanes, visible - j);
        StorePartial(row + j, Exp(LoadPartial(row + j, count) - reference), count);
      }
      const float sum = Sum(SumVectors(visible, [=](int64_t j, int64_t count) { return LoadPartial(row + j, count); }));
      const bool seen = sum != 0;
      for (int64_t j = 0; j < s.keys; ++j) row[j] = seen && j < visible ? Rounded<T>(row[j] / sum) : 0.0f;
      if (log_sum_exp != nullptr) log_sum_exp[i] = seen ? max + std::log(sum) : kMinusInfinity;
    }
  });
}

}  // namespace

Status NaiveAttention(CpuContext& context, const AttentionParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const AttentionShape& s = p.shape;
    float* weights = context.scratch.Take(s.queries * s.keys);
    float* output = context.scratch.Take(s.queries * s.value_width);
    for (int64_t item = 0; item < s.batch * s.heads; ++item) {
      const Head<T> head(s, item / s.heads, item % s.heads);
      Softmax(context, head, p.q, p.k, weights, p.log_sum_exp + item * s.queries);
      Step<T>(context, s.queries, s.value_width, s.keys, Rows(weights, s.keys), head.Keys(p.v, s.value_width), nullptr,
              output);
      head.Store(output, s.queries, s.heads, head.h, s.value_width, p.output);
    }
    return Status();
  });
}

Status NaiveAttentionBackward(CpuContext& context, const AttentionBackwardParams& p) {
  if (p.grad_dtype != p.dtype) return Status(StatusCode::kInternal, "naive gradients have the dtype of the tensors");
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const AttentionShape& s = p.shape;
    const int64_t group = s.heads / s.kv_heads, k_size = s.keys * s.width, v_size = s.keys * s.value_width;
    float* weights = context.scratch.Take(s.queries * s.keys);
    float* grad_scores = context.scratch.Take(s.queries * s.keys);
    float* grad_q = context.scratch.Take(s.queries * s.width);
    float* grad_k = context.scratch.Take(k_size);
    float* grad_v = context.scratch.Take(v_size);
    float* sum_k = context.scratch.Take(k_size);  // over the query heads of a group
    float* sum_v = context.scratch.Take(v_size);
    for (int64_t item = 0; item < s.batch * s.heads; ++item) {
      const Head<T> head(s, item / s.heads, item % s.heads);
      Softmax(context, head, p.q, p.k, weights, nullptr);
      const Matrix grad_output = head.Queries(p.grad_output, s.value_width);
      Step<T>(context, s.keys, s.value_width, s.queries, Transposed(weights, s.keys), grad_output, nullptr, grad_v);
      Step<T>(context, s.queries, s.keys, s.value_width, grad_output, head.KeysTransposed(p.v, s.value_width), nullptr,
              grad_scores);
      ParallelChunks(context, s.queries, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const float* row = weights + i * s.keys;
          float* grad = grad_scores + i * s.keys;
          const float shared = Sum(SumVectors(s.keys, [=](int64_t j, int64_t count) {
            return LoadPartial(row + j, count) * LoadPartial(grad + j, count);
          }));
          for (int64_t j = 0; j < s.keys; ++j) grad[j] = Rounded<T>(Rounded<T>(row[j] * (grad[j] - shared)) * s.scale);
        }
      });
      Step<T>(context, s.queries, s.width, s.keys, Rows(grad_scores, s.keys), head.Keys(p.k, s.width), nullptr, grad_q);
      Step<T>(context, s.keys, s.width, s.queries, Transposed(grad_scores, s.keys), head.Queries(p.q, s.width), nullptr,
              grad_k);
      head.Store(grad_q, s.queries, s.heads, head.h, s.width, p.grad_q);
      const bool first = head.h % group == 0, last = head.h % group == group - 1;
      for (int64_t i = 0; i < k_size; ++i) sum_k[i] = grad_k[i] + (first ? 0.0f : sum_k[i]);
      for (int64_t i = 0; i < v_size; ++i) sum_v[i] = grad_v[i] + (first ? 0.0f : sum_v[i]);
      if (!last) continue;
      head.Store(sum_k, s.keys, s.kv_heads, head.kv, s.width, p.grad_k);
      head.Store(sum_v, s.keys, s.kv_heads, head.kv, s.value_width, p.grad_v);
    }
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
