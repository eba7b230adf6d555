// Attention backward, without atomics: one kernel owns queries (grad_q), one owns keys (grad_k, grad_v), and both take
// the weights anew from q and k.
//
// logSumExp and the output as the forward pass rounded them are not good enough for the softmax gradient
// dS = P * (dP - sum over keys of P * dP): with large scores exp(score - logSumExp) is off by a common factor, which
// from 1e9 on overflows, and in 16-bit storage the output is off by more than the sum of dS over keys, which is 0,
// allows. So the first kernel sweeps the keys twice, and neither is read. The first sweep finds each row's own maximum,
// sum of weights and mean of dP, the second one uses them, and so does the second kernel, which reads them.
#include <algorithm>

#include "cuda/kernels/attention.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// Keys or queries per tile that streams past: as many as the registers beside the results can hold.
template <class T, int kColumns>
constexpr int kStreamed = kColumns > 64 && std::is_same_v<T, float> ? 16 : 32;

// What the second kernel needs of a query, 16 bytes. A weight is Weight(score, reference) * inverse_sum.
struct QueryStatistics {
  float reference;  // the score with the largest weight, 0 where no key is seen
  float inverse_sum;
  float mean;  // of dP
  float unused;
};

template <class T>
struct Operands {
  const T *grad_output, *q, *k, *v;
};

// A gradient, f32 or in the type of the operands.
struct Gradient {
  void* data;
  bool wide;
};

template <class T, int kTiles>
__device__ __forceinline__ void StoreGradient(const Accumulator (&c)[kTiles], const float (&factor)[2],
                                              const Gradient& gradient, int batch, int count, int heads, int head,
                                              int width, int first) {
  if (sizeof(T) == 4 || gradient.wide) {
    StoreRows(c, factor, HeadRows(static_cast<float*>(gradient.data), batch, count, heads, head, width), first);
  } else {
    StoreRows(c, factor, HeadRows(static_cast<Stored<T>*>(gradient.data), batch, count, heads, head, width), first);
  }
}

// grad_q and the statistics [B, Hq, Tq]. kColumns >= width. Shared memory: q, grad_output [rows, ...], `stages` times
// k, v [kStream, ...]. totals: kRowTotals of each thread, if there are more than kLongestChain tiles of
// keys.
template <class T, int kColumns>
__global__ void __launch_bounds__(kMaxThreads, kLeastBlocks<T>)
    GradQueryKernel(AttentionSizes s, int all_heads, int stages, Operands<T> in, QueryStatistics* statistics,
                    float4* totals, Gradient grad_q) {
  constexpr int kStream = kStreamed<T, kColumns>;
  const int rows = static_cast<int>(blockDim.x) / 32 * kWarpRows;
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  // The last queries see the most keys, so they go first.
  const int tile = (blocks - 1 - block) / all_heads, batch_head = (blocks - 1 - block) % all_heads;
  const int batch = batch_head / s.heads, head = batch_head % s.heads, kv_head = head / (s.heads / s.kv_heads);
  const Rows<const T> keys = HeadRows(in.k, batch, s.keys, s.kv_heads, kv_head, s.width);
  const Rows<const T> values = HeadRows(in.v, batch, s.keys, s.kv_heads, kv_head, s.value_width);

  const int width_stride = RowStride<T>(s.width), value_stride = RowStride<T>(s.value_width);
  T* q_tile = reinterpret_cast<T*>(SharedMemory());
  T* grad_tile = q_tile + rows * width_stride;
  T* streamed = grad_tile + rows * value_stride;
  const auto k_tile = [&](int step) { return streamed + step % stages * kStream * (width_stride + value_stride); };
  const auto v_tile = [&](int step) { return k_tile(step) + kStream * width_stride; };

  const int first = tile * rows, warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const int tiles = (VisibleKeys(s, min(first + rows, s.queries) - 1) + kStream - 1) / kStream, steps = 2 * tiles;
  const int warp_keys = VisibleKeys(s, min(first + warp_row + kWarpRows, s.queries) - 1);  // seen by some row
  const int warp_all = VisibleKeys(s, first + warp_row);                                   // seen by all
  const int row = first + warp_row + AccumulatorRow();
  const int row_keys[2] = {VisibleKeys(s, row), VisibleKeys(s, row + 8)};

  const auto copy = [&](int step) {
    const int key = (step < tiles ? step : step - tiles) * kStream;
    CopyRows(k_tile(step), keys, key, kStream);
    CopyRows(v_tile(step), values, key, kStream);
    CopyAsyncCommit();
  };

  Softmax softmax(s.scale);
  float mean[2] = {}, inverse[2] = {};
  Accumulator result[kColumns / 8];
  Clear(result);

  CopyRows(q_tile, HeadRows(in.q, batch, s.queries, s.heads, head, s.width), first, rows);
  CopyRows(grad_tile, HeadRows(in.grad_output, batch, s.queries, s.heads, head, s.value_width), first, rows);
  CopyAsyncCommit();
  if (steps > 0) copy(0);
  for (int step = 0; step < steps; ++step) {
    CopyAsyncWait<0>();
    __syncthreads();  // the tiles are there, and the last step's are done with
    if (stages == 2 && step + 1 < steps) copy(step + 1);
    const int added = step < tiles ? step : step - tiles;  // tiles that this sweep has added up
    if (step == tiles) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float total = RowSum(softmax.sum[i]);
        inverse[i] = total == 0 ? 0.0f : 1.0f / total;
        mean[i] = RowSum(mean[i]) * inverse[i];
      }
    }
    const int key = added * kStream;
    if (key < warp_keys) {
      Accumulator weights[kStream / 8], grads[kStream / 8];
      MultiplyRows(weights, q_tile + warp_row * width_stride, k_tile(step), s.width);
      MultiplyRows(grads, grad_tile + warp_row * value_stride, v_tile(step), s.value_width);
      if (step < tiles) {
        const int visible[2] = {row_keys[0] - key, row_keys[1] - key};
        float shrink[2];
        softmax.Weigh(weights, visible, shrink);
        float tile_mean[2] = {};
#pragma unroll
        for (int j = 0; j < kStream / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) tile_mean[i / 2] += weights[j].c[i] * grads[j].c[i];
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) mean[i] = fmaf(mean[i], shrink[i], tile_mean[i]);
      } else {
        const float reference[2] = {softmax.ReferenceScore(0), softmax.ReferenceScore(1)};
#pragma unroll
        for (int j = 0; j < kStream / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float weight = Weight(weights[j].c[i], reference[i / 2], softmax.SignedLog2Scale());
            weights[j].c[i] = weight * (grads[j].c[i] - mean[i / 2]);
          }
        }
        if (key + kStream > warp_all) {
          const int column = key + AccumulatorColumn();
#pragma unroll
          for (int j = 0; j < kStream / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              if (column + 8 * j + i % 2 >= row_keys[i / 2]) weights[j].c[i] = 0;
            }
          }
        }
        AddProduct<false>(result, weights, k_tile(step), s.width);
      }
    }
    if (const TotalStep total(totals, added, tiles); total.moves) {
      float4* const own = OwnTotals<kMaxThreads>(totals, kRowTotals<kColumns / 8>);
      if (step < tiles) {
        float shrunk[2];
        MoveIntoTotals<kColumns / 8>(total, softmax, mean, own, shrunk);
      } else {
        MoveIntoTotals<kMaxThreads>(total, result, own);
      }
    }
    if (stages == 1 && step + 1 < steps) {
      __syncthreads();
      copy(step + 1);
    }
  }
  CopyAsyncWait<0>();
  __syncthreads();

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (LaneId() % 4 == 0 && row + 8 * i < s.queries) {
      Store16(statistics + int64_t{batch_head} * s.queries + row + 8 * i,
              make_uint4(FloatBits(softmax.ReferenceScore(i)), FloatBits(inverse[i]), FloatBits(mean[i]), 0));
    }
  }
  const float factor[2] = {inverse[0] * s.scale, inverse[1] * s.scale};
  StoreGradient<T>(result, factor, grad_q, batch, s.queries, s.heads, head, s.width, first + warp_row);
}

enum class Part { kBoth, kKeys, kValues };

// Of a thread, for OwnTotals: accumulators of grad_k, then of grad_v.
template <int kTiles>
constexpr int kKeyTotals = 2 * kTiles;

// grad_k and grad_v, or one of them where registers hold no more. kColumns >= width, value_width. Shared memory: k, v
// [rows, ...], `stages` times q, grad_output, statistics [kStream, ...]. totals: kKeyTotals of each thread, if there
// are more than kLongestChain tiles of queries.
template <class T, int kColumns, Part kPart>
__global__ void __launch_bounds__(kMaxThreads, kLeastBlocks<T>)
    GradKeyKernel(AttentionSizes s, int all_heads, int stages, Operands<T> in, const QueryStatistics* statistics,
                  float4* totals, Gradient grad_k, Gradient grad_v) {
  constexpr int kStream = kStreamed<T, kColumns>;
  constexpr bool kKeys = kPart != Part::kValues, kValues = kPart != Part::kKeys;
  const int rows = static_cast<int>(blockDim.x) / 32 * kWarpRows;
  // The first keys are seen by the most queries, so they go first.
  const int tile = static_cast<int>(blockIdx.x) / all_heads, batch_head = static_cast<int>(blockIdx.x) % all_heads;
  const int batch = batch_head / s.kv_heads, kv_head = batch_head % s.kv_heads, group = s.heads / s.kv_heads;

  const int width_stride = RowStride<T>(s.width), value_stride = RowStride<T>(s.value_width);
  T* k_tile = reinterpret_cast<T*>(SharedMemory());
  T* v_tile = k_tile + rows * width_stride;
  T* streamed = v_tile + rows * value_stride;
  const int stage_size = kStream * (width_stride + value_stride + kVector<T>);

  const int first = tile * rows, warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const int key = first + warp_row + AccumulatorRow();
  const int warp_first = FirstQuery(s, first + warp_row);                // the first query that sees a key of the warp
  const int warp_all = FirstQuery(s, first + warp_row + kWarpRows - 1);  // from here on they see all of them
  const float log2_scale = Log2Scale(s.scale);

  // Tiles of queries, one head of the group after the other.
  const int start = FirstQuery(s, first) / kStream * kStream;
  const int steps = group * ((s.queries - start + kStream - 1) / kStream);
  struct Position {
    int head, query;
  };
  const auto advance = [&](Position& position) {
    position.query += kStream;
    if (position.query >= s.queries) position = {position.head + 1, start};
  };
  const auto copy = [&](int step, const Position& next) {
    T* q_tile = streamed + step % stages * stage_size;
    T* grad_tile = q_tile + kStream * width_stride;
    T* statistics_tile = grad_tile + kStream * value_stride;
    CopyRows(q_tile, HeadRows(in.q, batch, s.queries, s.heads, next.head, s.width), next.query, kStream);
    CopyRows(grad_tile, HeadRows(in.grad_output, batch, s.queries, s.heads, next.head, s.value_width), next.query,
             kStream);
    if (const int i = static_cast<int>(threadIdx.x); i < kStream) {
      const QueryStatistics* row = statistics + (int64_t{batch} * s.heads + next.head) * s.queries + next.query + i;
      const bool valid = next.query + i < s.queries;
      CopyAsync16(statistics_tile + i * kVector<T>, valid ? row : statistics, valid);
    }
    CopyAsyncCommit();
  };

  Accumulator result_k[kKeys ? kColumns / 8 : 1], result_v[kValues ? kColumns / 8 : 1];
  Clear(result_k);
  Clear(result_v);
  CopyRows(k_tile, HeadRows(in.k, batch, s.keys, s.kv_heads, kv_head, s.width), first, rows);
  if (kKeys) CopyRows(v_tile, HeadRows(in.v, batch, s.keys, s.kv_heads, kv_head, s.value_width), first, rows);
  CopyAsyncCommit();
  Position position{kv_head * group, start};
  if (steps > 0) copy(0, position);
  for (int step = 0; step < steps; ++step) {
    CopyAsyncWait<0>();
    __syncthreads();  // the tiles are there, and the last step's are done with
    if (stages == 2 && step + 1 < steps) {
      Position next = position;
      advance(next);
      copy(step + 1, next);
    }
    if (position.query + kStream > warp_first) {
      const T* q_tile = streamed + step % stages * stage_size;
      const T* grad_tile = q_tile + kStream * width_stride;
      const auto* queries = reinterpret_cast<const QueryStatistics*>(grad_tile + kStream * value_stride);
      queries += AccumulatorColumn();
      Accumulator weights[kStream / 8];  // transposed, as all here: [keys, queries]
      MultiplyRows<true>(weights, k_tile + warp_row * width_stride, q_tile, s.width);
#pragma unroll
      for (int j = 0; j < kStream / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const QueryStatistics& query = queries[8 * j + i % 2];
          weights[j].c[i] = Weight(weights[j].c[i], query.reference, log2_scale) * query.inverse_sum;
        }
      }
      if (position.query < warp_all) {
        const int column = position.query + AccumulatorColumn();
#pragma unroll
        for (int j = 0; j < kStream / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (column + 8 * j + i % 2 < FirstQuery(s, key + i / 2 * 8)) weights[j].c[i] = 0;
          }
        }
      }
      if constexpr (kValues) AddProduct<false>(result_v, weights, grad_tile, s.value_width);
      if constexpr (kKeys) {
        Accumulator grads[kStream / 8];
        MultiplyRows<true>(grads, v_tile + warp_row * value_stride, grad_tile, s.value_width);
#pragma unroll
        for (int j = 0; j < kStream / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) weights[j].c[i] *= grads[j].c[i] - queries[8 * j + i % 2].mean;
        }
        // Split, so that rounding to 16 bits does not undo that each query's gradients of scores add up to 0.
        AddProduct<sizeof(T) == 2>(result_k, weights, q_tile, s.width);
      }
    }
    if (const TotalStep total(totals, step, steps); total.moves) {
      float4* const own = OwnTotals<kMaxThreads>(totals, kKeyTotals<kColumns / 8>);
      if constexpr (kKeys) MoveIntoTotals<kMaxThreads>(total, result_k, own);
      if constexpr (kValues) {
        MoveIntoTotals<kMaxThreads>(total, result_v, own + kColumns / 8 * kTotalParts * kMaxThreads);
      }
    }
    advance(position);
    if (stages == 1 && step + 1 < steps) {
      __syncthreads();
      copy(step + 1, position);
    }
  }
  CopyAsyncWait<0>();
  __syncthreads();

  if constexpr (kKeys) {
    const float factor[2] = {s.scale, s.scale};
    StoreGradient<T>(result_k, factor, grad_k, batch, s.keys, s.kv_heads, kv_head, s.width, first + warp_row);
    __syncthreads();
  }
  if constexpr (kValues) {
    const float factor[2] = {1.0f, 1.0f};
    StoreGradient<T>(result_v, factor, grad_v, batch, s.keys, s.kv_heads, kv_head, s.value_width, first + warp_row);
  }
}

}  // namespace

Status AttentionBackward(CudaContext& context, const AttentionBackwardParams& p) {
  SAS_TRY(CheckSizes(p.shape));
  const AttentionSizes s = SizesOf(p.shape);
  const int64_t query_heads = p.shape.batch * p.shape.heads, key_heads = p.shape.batch * p.shape.kv_heads;
  const bool wide = p.grad_dtype == DType::kF32;
  const Gradient grad_q{p.grad_q, wide}, grad_k{p.grad_k, wide}, grad_v{p.grad_v, wide};
  auto* statistics = context.Take<QueryStatistics>(query_heads * s.queries);

  return DispatchElement(context, p.dtype, [&]<class T>(T*) -> Status {
    const Operands<T> in{static_cast<const T*>(p.grad_output), static_cast<const T*>(p.q), static_cast<const T*>(p.k),
                         static_cast<const T*>(p.v)};
    const size_t operand_bytes = RowBytes<T>(s.width) + RowBytes<T>(s.value_width);
    const size_t gradient_bytes = RowBytes<float>(std::max(s.width, s.value_width));
    // Of a block with `rows` rows of its own and `streamed` rows that stream past.
    const auto shared_bytes = [&](int rows, int streamed, size_t statistics_bytes) {
      return std::max(static_cast<size_t>(rows) * operand_bytes +
                          static_cast<size_t>(streamed) * (operand_bytes + statistics_bytes),
                      static_cast<size_t>(rows) * gradient_bytes);
    };

    SAS_TRY(DispatchColumns(s.width, [&](auto columns) -> Status {
      Tiling tiling;
      SAS_TRY(ChooseTiling(
          context, query_heads, s.queries, 2,
          [&](int rows, int stages) { return shared_bytes(rows, stages * kStreamed<T, columns>, 0); }, &tiling));
      float4* totals = TakeTotals(context, CeilDiv(s.keys, kStreamed<T, columns>), tiling, kRowTotals<columns / 8>);
      return context.Launch(GradQueryKernel<T, columns>, tiling.grid, s, static_cast<int>(query_heads), tiling.stages,
                            in, statistics, totals, grad_q);
    }));

    return DispatchColumns(std::max(s.width, s.value_width), [&](auto columns) -> Status {
      Tiling tiling;
      SAS_TRY(ChooseTiling(
          context, key_heads, s.keys, 2,
          [&](int rows, int stages) {
            return shared_bytes(rows, stages * kStreamed<T, columns>, sizeof(QueryStatistics));
          },
          &tiling));
      const int64_t tiles = s.heads / s.kv_heads * CeilDiv(s.queries, kStreamed<T, columns>);
      float4* totals = TakeTotals(context, tiles, tiling, kKeyTotals<columns / 8>);
      const auto launch = [&](auto kernel) {
        return context.Launch(kernel, tiling.grid, s, static_cast<int>(key_heads), tiling.stages, in, statistics,
                              totals, grad_k, grad_v);
      };
      if constexpr (columns * sizeof(T) < 2 * kWidest) {
        return launch(GradKeyKernel<T, columns, Part::kBoth>);
      } else {
        SAS_TRY(launch(GradKeyKernel<T, columns, Part::kKeys>));
        return launch(GradKeyKernel<T, columns, Part::kValues>);
      }
    });
  });
}

}  // namespace sas::cuda
