// Attention forward in the FlashAttention manner: a block holds a tile of one head's queries, tiles of keys and values
// stream past, softmax is kept online in registers, and no matrix of all scores exists. For the mean over groups of
// heads, a block does one head after another and adds up their outputs in shared memory.
#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "cuda/kernels/attention.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// Keys per tile: as many as the registers beside the result can hold.
template <class T, int kColumns>
constexpr int kKeys = (kColumns == kWidest ? 32 : 64) * 2 / static_cast<int>(sizeof(T));

// For __launch_bounds__: left to itself ptxas spills for the sake of one more block, or gives one up where it need not.
template <class T, int kColumns, bool kMean>
constexpr int ForwardBlocks() {
  if (std::is_same_v<T, float> || kColumns > 128) return kLeastBlocks<T>;
  if (kColumns == 64) return sizeof(T) == 2 ? 3 : 4;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  if (sizeof(T) == 2) return 2;
#endif
  return sizeof(T) == 4 && kMean ? 2 : 3;
}

// Shared memory of the tiles of q [rows, width], k [kKeys, width] and v [kKeys, value_width].
template <class T, int kColumns>
__host__ __device__ constexpr size_t OperandBytes(const AttentionSizes& s, int rows) {
  return static_cast<size_t>(rows + kKeys<T, kColumns>) * RowBytes<T>(s.width) +
         static_cast<size_t>(kKeys<T, kColumns>) * RowBytes<T>(s.value_width);
}

// One head's pass over its keys, for queries [first, first + rows): `result` becomes the warp's rows of weights times
// values, still to be divided by the sums in the softmax returned. kColumns >= value_width. `totals`: kRowTotals
// of each thread, if there are more than kLongestChain tiles of keys. At the end the whole block has finished with the
// tiles.
template <class T, int kColumns>
__device__ __forceinline__ Softmax Attend(const AttentionSizes& s, const Rows<const T>& queries,
                                          const Rows<const T>& keys, const Rows<const T>& values, int first,
                                          float4* totals, Accumulator (&result)[kColumns / 8]) {
  constexpr int kTileKeys = kKeys<T, kColumns>;
  const int rows = static_cast<int>(blockDim.x) / 32 * kWarpRows;
  T* q_tile = reinterpret_cast<T*>(SharedMemory());
  T* k_tile = q_tile + rows * RowStride<T>(s.width);
  T* v_tile = k_tile + kTileKeys * RowStride<T>(s.width);

  const int warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const int block_keys = VisibleKeys(s, min(first + rows, s.queries) - 1);
  const int warp_keys = VisibleKeys(s, min(first + warp_row + kWarpRows, s.queries) - 1);
  const int row = first + warp_row + AccumulatorRow();
  const int row_keys[2] = {VisibleKeys(s, row), VisibleKeys(s, row + 8)};

  Softmax softmax(s.scale);
  Clear(result);

  CopyRows(q_tile, queries, first, rows);
  CopyRows(k_tile, keys, 0, kTileKeys);
  CopyAsyncCommit();
  // Values arrive while scores are computed, the next keys while values are added up.
  for (int key = 0; key < block_keys; key += kTileKeys) {
    CopyAsyncWait<0>();
    __syncthreads();  // the keys are there, and the last values are done with
    CopyRows(v_tile, values, key, kTileKeys);
    CopyAsyncCommit();
    Accumulator weights[kTileKeys / 8];
    float shrink[2];
    if (key < warp_keys) {
      MultiplyRows(weights, q_tile + warp_row * RowStride<T>(s.width), k_tile, s.width);
      const int visible[2] = {row_keys[0] - key, row_keys[1] - key};
      softmax.Weigh(weights, visible, shrink);
    }
    CopyAsyncWait<0>();
    __syncthreads();  // the values are there, and the keys are done with
    if (key + kTileKeys < block_keys) CopyRows(k_tile, keys, key + kTileKeys, kTileKeys);
    CopyAsyncCommit();
    if (key < warp_keys) {
      if (__any_sync(kAllLanes, shrink[0] != 1.0f || shrink[1] != 1.0f)) {
#pragma unroll
        for (Accumulator& c : result) {
#pragma unroll
          for (int i = 0; i < 4; ++i) c.c[i] *= shrink[i / 2];
        }
      }
      AddProduct<false>(result, weights, v_tile, s.value_width);
    }
    const TotalStep step(totals, key / kTileKeys, (block_keys + kTileKeys - 1) / kTileKeys);
    if (step.moves) {
      float4* const own = OwnTotals<kMaxThreads>(totals, kRowTotals<kColumns / 8>);
      float none[2] = {}, shrunk[2];
      MoveIntoTotals<kColumns / 8>(step, softmax, none, own, shrunk);
      MoveIntoTotals<kMaxThreads>(step, result, own, shrunk);
    }
  }
  CopyAsyncWait<0>();
  __syncthreads();
  return softmax;
}

// result times `factor` of rows g and g + 8, plus `sums` unless it is the first; into `sums` too unless it is the last.
// Shared memory for the lane's own use: 16 bytes for every thread of the block and every 8 columns.
template <int kTiles>
__device__ __forceinline__ void AddToSums(Accumulator (&result)[kTiles], const float (&factor)[2], float4* sums,
                                          bool first, bool last) {
  sums += threadIdx.x;
#pragma unroll
  for (int j = 0; j < kTiles; ++j, sums += blockDim.x) {
    const float4 before = first ? make_float4(0, 0, 0, 0) : *sums;
    float(&c)[4] = result[j].c;
    c[0] = fmaf(c[0], factor[0], before.x);
    c[1] = fmaf(c[1], factor[0], before.y);
    c[2] = fmaf(c[2], factor[1], before.z);
    c[3] = fmaf(c[3], factor[1], before.w);
    if (!last) *sums = make_float4(c[0], c[1], c[2], c[3]);
  }
}

// A block per tile and head of the output, [B, queries, heads, value_width]. With kMean, output head h is the mean of
// the heads g * heads + h of q over all groups g, log_sum_exp is not written, and shared memory holds the sums too.
template <class T, int kColumns, bool kMean>
__global__ void __launch_bounds__(kMaxThreads, (ForwardBlocks<T, kColumns, kMean>()))
    AttentionKernel(AttentionSizes s, int groups, int all_heads, const T* q, const T* k, const T* v, float4* totals,
                    Stored<T>* output, float* log_sum_exp) {
  const int rows = static_cast<int>(blockDim.x) / 32 * kWarpRows;
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int heads = kMean ? s.heads / groups : s.heads;
  // The last queries see the most keys, so they go first.
  const int tile = (blocks - 1 - block) / all_heads, batch_head = (blocks - 1 - block) % all_heads;
  const int batch = batch_head / heads, head = batch_head % heads;
  const int first = tile * rows, warp_first = first + static_cast<int>(threadIdx.x) / 32 * kWarpRows;

  auto* sums = reinterpret_cast<float4*>(SharedMemory() + OperandBytes<T, kColumns>(s, rows));
  Accumulator result[kColumns / 8];
  float factor[2];
#pragma unroll 1
  for (int group = 0; group < (kMean ? groups : 1); ++group) {
    const int q_head = group * heads + head, kv_head = q_head / (s.heads / s.kv_heads);
    const Softmax softmax =
        Attend<T, kColumns>(s, HeadRows(q, batch, s.queries, s.heads, q_head, s.width),
                            HeadRows(k, batch, s.keys, s.kv_heads, kv_head, s.width),
                            HeadRows(v, batch, s.keys, s.kv_heads, kv_head, s.value_width), first, totals, result);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sum = RowSum(softmax.sum[i]);
      factor[i] = sum == 0 ? 0.0f : 1.0f / sum;
      const int row = warp_first + AccumulatorRow() + 8 * i;
      if (!kMean && LaneId() % 4 == 0 && row < s.queries) {
        log_sum_exp[int64_t{batch_head} * s.queries + row] =
            sum == 0 ? kMinusInfinity : softmax.Reference(i) * fabsf(s.scale) + logf(sum);
      }
    }
    if constexpr (kMean) AddToSums(result, factor, sums, group == 0, group == groups - 1);
  }
  if constexpr (kMean) {
    __syncthreads();  // all have read their sums
    factor[0] = factor[1] = 1.0f / static_cast<float>(groups);
  }
  StoreRows(result, factor, HeadRows(output, batch, s.queries, heads, head, s.value_width), warp_first);
}

// The mean of the outputs of all heads, one operation after the other.
Status AttendThenAggregate(CudaContext& context, const AttentionMeanParams& p) {
  const AttentionShape& s = p.shape;
  const int64_t tokens = s.batch * s.queries;
  void* outputs = context.Take<std::byte>(tokens * s.heads * s.value_width * static_cast<int64_t>(ItemSize(p.dtype)));
  SAS_TRY(Attention(context, {p.dtype, s, p.q, p.k, p.v, outputs, context.Take<float>(tokens * s.heads)}));
  return Aggregate(context, {p.dtype, tokens, s.heads / p.groups, s.heads, s.value_width, outputs, p.output});
}

template <class T, int kColumns, bool kMean, class Params>
Status Launch(CudaContext& context, const Params& p, int groups, float* log_sum_exp) {
  const AttentionSizes s = SizesOf(p.shape);
  const int64_t all_heads = p.shape.batch * (p.shape.heads / groups);
  const auto shared_bytes = [&](int rows, int) {
    const size_t sums = kMean ? static_cast<size_t>(rows) * kColumns * sizeof(float) : 0;
    return std::max(OperandBytes<T, kColumns>(s, rows) + sums, static_cast<size_t>(rows) * RowBytes<T>(s.value_width));
  };
  Tiling tiling;
  SAS_TRY(ChooseTiling(context, all_heads, s.queries, 1, shared_bytes, &tiling));
  if constexpr (kMean) {
    // With too few blocks to keep all multiprocessors busy, it is better to have the groups side by side.
    if (tiling.grid.blocks.x < static_cast<unsigned>(context.multiprocessors())) return AttendThenAggregate(context, p);
  }
  float4* totals = TakeTotals(context, CeilDiv(s.keys, kKeys<T, kColumns>), tiling, kRowTotals<kColumns / 8>);
  return context.Launch(AttentionKernel<T, kColumns, kMean>, tiling.grid, s, groups, static_cast<int>(all_heads),
                        static_cast<const T*>(p.q), static_cast<const T*>(p.k), static_cast<const T*>(p.v), totals,
                        static_cast<Stored<T>*>(p.output), log_sum_exp);
}

}  // namespace

Status Attention(CudaContext& context, const AttentionParams& p) {
  SAS_TRY(CheckSizes(p.shape));
  return DispatchElement(context, p.dtype, [&]<class T>(T*) {
    return DispatchColumns(static_cast<int>(p.shape.value_width),
                           [&](auto columns) { return Launch<T, columns, false>(context, p, 1, p.log_sum_exp); });
  });
}

Status AttentionMean(CudaContext& context, const AttentionMeanParams& p) {
  SAS_TRY(CheckSizes(p.shape));
  return DispatchElement(context, p.dtype, [&]<class T>(T*) {
    return DispatchColumns(static_cast<int>(p.shape.value_width), [&](auto columns) {
      // The widest values, in full f32 all beyond 64, leave no registers for it.
      if constexpr (columns == kWidest || (columns > 64 && std::is_same_v<T, float>)) {
        return AttendThenAggregate(context, p);
      } else {
        return Launch<T, columns, true>(context, p, static_cast<int>(p.groups), nullptr);
      }
    });
  });
}

}  // namespace sas::cuda
