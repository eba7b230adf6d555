// Attention backward in the FlashAttention manner: scores are recomputed from logSumExp, block by block. An item of
// work owns a key/value head (of one sequence) and walks its blocks of keys; gradients of k and v are complete when a
// block ends, that of q when the item ends. When there are too few heads to share, a head's keys are split into parts
// that depend on the shape alone, and the parts of the gradient of q are summed in order.
#include <cmath>

#include "cpu/attention.h"
#include "cpu/elementwise.h"
#include "cpu/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

constexpr int64_t kQueryBlock = 64;
constexpr int64_t kEnoughItems = 16;  // of work, to keep a few threads busy

struct Buffers {
  explicit Buffers(const AttentionShape& s)
      : width_row(RoundUp(s.width, kLanes)), value_row(RoundUp(s.value_width, kLanes)) {
    const auto take = [&](int64_t size) {
      const int64_t offset = floats;
      floats += RoundUp(size, 16);
      return offset;
    };
    keys_transposed = take(s.width * kKeyBlock);
    values_transposed = take(s.value_width * kKeyBlock);
    keys = take(kKeyBlock * width_row);
    q = take(kQueryBlock * width_row);
    grad_output = take(kQueryBlock * value_row);
    weights = take(kQueryBlock * kKeyBlock);
    grad_scores = take(kQueryBlock * kKeyBlock);
    grad_k = take(kKeyBlock * width_row);
    grad_v = take(kKeyBlock * value_row);
  }
  int64_t width_row, value_row;  // floats per row of width, value_width features
  int64_t floats = 0;
  int64_t keys_transposed, values_transposed, keys, q, grad_output, weights, grad_scores, grad_k, grad_v;
};

// c [rows, columns] (+)= a b, where a is rows (or, with `transposed`, columns) of length `depth`.
void MultiplyBlock(bool transposed, int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_stride,
                   const float* b, int64_t b_stride, bool accumulate, float* c, int64_t c_stride) {
  Product p{};
  p.rows = rows;
  p.columns = columns;
  p.depth = depth;
  if (transposed) {
    SetColumnsA(p, a, a_stride);
  } else {
    SetRowsA(p, a, a_stride);
  }
  SetRowsB(p, b, b_stride);
  SetC(p, c, c_stride);
  p.accumulate = accumulate;
  Multiply(p);
}

void Zero(float* data, int64_t floats) { memset(data, 0, static_cast<size_t>(floats) * sizeof(float)); }

}  // namespace

Status AttentionBackward(CpuContext& context, const AttentionBackwardParams& p) {
  const AttentionShape& s = p.shape;
  const Buffers at(s);
  const int64_t group = s.heads / s.kv_heads, key_blocks = CeilDiv(s.keys, kKeyBlock);
  const int64_t parts = Min(CeilDiv(kEnoughItems, s.batch * s.kv_heads), key_blocks);
  const int64_t part_blocks = CeilDiv(key_blocks, parts);
  const int64_t items = s.batch * s.kv_heads * parts;
  const int64_t grad_q_floats = group * s.queries * at.width_row;  // of one item: [group, queries, width_row]

  // sum over d of gradOutput * output, per query: the part of the softmax's gradient that all keys share.
  float* delta = context.scratch.Take(s.batch * s.heads * s.queries);
  float* scratch = context.scratch.Take(context.pool.threads() * at.floats);
  float* grad_q_parts = context.scratch.Take((parts > 1 ? items : context.pool.threads()) * grad_q_floats);

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const T* grad_output = static_cast<const T*>(p.grad_output);
    const T* output = static_cast<const T*>(p.output);
    ParallelChunks(context, s.batch * s.queries, 16, [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        for (int64_t h = 0; h < s.heads; ++h) {
          const int64_t row = (token * s.heads + h) * s.value_width;
          Vec sum{};
          ForEachVector(s.value_width, [&](int64_t d, int64_t count) {
            sum += LoadPartial(grad_output + row + d, count) * LoadPartial(output + row + d, count);
          });
          delta[(token / s.queries * s.heads + h) * s.queries + token % s.queries] = Sum(sum);
        }
      }
    });

    const auto store_grad_q = [&](int64_t b, int64_t h, int64_t query, int64_t queries, const float* source) {
      StoreRows(source, at.width_row, queries, s.width,
                static_cast<T*>(p.grad_q) + ((b * s.queries + query) * s.heads + h) * s.width, s.heads * s.width);
    };

    context.pool.Run(items, [&](int64_t item, int thread) {
      const int64_t part = item % parts, kv_head = item / parts % s.kv_heads, b = item / parts / s.kv_heads;
      float* buffers = scratch + thread * at.floats;
      float *keys_transposed = buffers + at.keys_transposed, *values_transposed = buffers + at.values_transposed;
      float *keys = buffers + at.keys, *q = buffers + at.q, *grad_out = buffers + at.grad_output;
      float *weights = buffers + at.weights, *grad_scores = buffers + at.grad_scores;
      float *grad_k = buffers + at.grad_k, *grad_v = buffers + at.grad_v;
      float* grad_q = grad_q_parts + (parts > 1 ? item : thread) * grad_q_floats;
      Zero(grad_q, grad_q_floats);

      const int64_t kv_stride = s.kv_heads * s.width, value_stride = s.kv_heads * s.value_width;
      const int64_t last_block = Min((part + 1) * part_blocks, key_blocks);
      for (int64_t block = part * part_blocks; block < last_block; ++block) {
        const int64_t j = block * kKeyBlock, block_keys = Min(kKeyBlock, s.keys - j);
        const int64_t padded_keys = RoundUp(block_keys, kLanes);
        const int64_t kv_row = (b * s.keys + j) * s.kv_heads + kv_head;
        const T* k = static_cast<const T*>(p.k) + kv_row * s.width;
        const T* v = static_cast<const T*>(p.v) + kv_row * s.value_width;
        TransposeRows(k, kv_stride, block_keys, s.width, keys_transposed, kKeyBlock, padded_keys);
        TransposeRows(v, value_stride, block_keys, s.value_width, values_transposed, kKeyBlock, padded_keys);
        CopyRows(k, kv_stride, block_keys, s.width, keys, at.width_row, at.width_row);
        Zero(grad_k, kKeyBlock * at.width_row);
        Zero(grad_v, kKeyBlock * at.value_row);

        for (int64_t member = 0; member < group; ++member) {
          const int64_t h = kv_head * group + member;
          const float* log_sum_exp = p.log_sum_exp + (b * s.heads + h) * s.queries;
          const float* head_delta = delta + (b * s.heads + h) * s.queries;
          for (int64_t i = FirstQuery(s, j) / kQueryBlock * kQueryBlock; i < s.queries; i += kQueryBlock) {
            const int64_t queries = Min(kQueryBlock, s.queries - i);
            const int64_t row = (b * s.queries + i) * s.heads + h;
            CopyRows(static_cast<const T*>(p.q) + row * s.width, s.heads * s.width, queries, s.width, q, at.width_row,
                     at.width_row);
            CopyRows(grad_output + row * s.value_width, s.heads * s.value_width, queries, s.value_width, grad_out,
                     at.value_row, at.value_row);

            MultiplyBlock(false, queries, block_keys, s.width, q, at.width_row, keys_transposed, kKeyBlock, false,
                          weights, kKeyBlock);
            MultiplyBlock(false, queries, block_keys, s.value_width, grad_out, at.value_row, values_transposed,
                          kKeyBlock, false, grad_scores, kKeyBlock);
            // P = exp(score - logSumExp), gradScore = P * (gradP - delta) * scale, both 0 where masked.
            for (int64_t r = 0; r < queries; ++r) {
              const int64_t visible = Max<int64_t>(0, Min(VisibleKeys(s, i + r) - j, block_keys));
              float* row_weights = weights + r * kKeyBlock;
              float* row_grad = grad_scores + r * kKeyBlock;
              const float shift = log_sum_exp[i + r] * kLog2E, shared = head_delta[i + r];
              for (int64_t c = 0; c < padded_keys; c += kLanes) {
                const VecInt seen = LaneIndex() < BroadcastInt(static_cast<int32_t>(visible - c));
                const Vec weight = seen ? Exp2NonPositive(Load(row_weights + c) * (s.scale * kLog2E) - shift) : Vec{};
                Store(row_weights + c, weight);
                Store(row_grad + c, seen ? weight * (Load(row_grad + c) - shared) * s.scale : Vec{});
              }
            }

            MultiplyBlock(true, block_keys, s.value_width, queries, weights, kKeyBlock, grad_out, at.value_row, true,
                          grad_v, at.value_row);
            MultiplyBlock(true, block_keys, s.width, queries, grad_scores, kKeyBlock, q, at.width_row, true, grad_k,
                          at.width_row);
            MultiplyBlock(false, queries, s.width, block_keys, grad_scores, kKeyBlock, keys, at.width_row, true,
                          grad_q + (member * s.queries + i) * at.width_row, at.width_row);
          }
        }
        StoreRows(grad_k, at.width_row, block_keys, s.width, static_cast<T*>(p.grad_k) + kv_row * s.width, kv_stride);
        StoreRows(grad_v, at.value_row, block_keys, s.value_width, static_cast<T*>(p.grad_v) + kv_row * s.value_width,
                  value_stride);
      }
      if (parts > 1) return;
      for (int64_t member = 0; member < group; ++member) {
        store_grad_q(b, kv_head * group + member, 0, s.queries, grad_q + member * s.queries * at.width_row);
      }
    });
    if (parts == 1) return Status();

    // Sums the parts into the first one.
    context.pool.Run(s.batch * s.heads, [&](int64_t item, int) {
      const int64_t b = item / s.heads, h = item % s.heads;
      const int64_t head_floats = s.queries * at.width_row;
      float* first = grad_q_parts + (b * s.kv_heads + h / group) * parts * grad_q_floats + h % group * head_floats;
      for (int64_t part = 1; part < parts; ++part) {
        const float* other = first + part * grad_q_floats;
        for (int64_t i = 0; i < head_floats; i += kLanes) Store(first + i, Load(first + i) + Load(other + i));
      }
      store_grad_q(b, h, 0, s.queries, first);
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
