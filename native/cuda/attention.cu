// Attention forward in the FlashAttention manner: a block holds a tile of one head's queries, tiles of keys and values
// stream past, softmax is kept online in registers, and no matrix of all scores exists.
#include <algorithm>

#include "cuda/attention.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// Keys per tile: as many as the registers beside the result can hold.
template <class T, int kColumns>
constexpr int kKeys = (kColumns == kWidest ? 32 : 64) * 2 / static_cast<int>(sizeof(T));

// Rows g and g + 8 of a warp's 16.
struct Softmax {
  // Of scores times sign; times log2_scale > 0 they are in units of log2. Either sign of the scale, and 0, will do.
  float sign, log2_scale;
  float max[2] = {kMinusInfinity, kMinusInfinity};  // so far
  float sum[2] = {};                                // of the lane's weights, relative to the maximum

  __device__ explicit Softmax(float scale)
      : sign(scale > 0   ? 1.0f
             : scale < 0 ? -1.0f
                         : 0.0f),
        log2_scale(scale != 0 ? fabsf(scale) * kLog2E : 1.0f) {}

  // The maximum as the weights are measured from it; 0 where no key has been seen yet, which leaves weights of 0
  // instead of NaN.
  __device__ float Reference(int row) const { return max[row] == kMinusInfinity ? 0.0f : max[row] * log2_scale; }

  // Turns scores into weights; row r sees the first visible[r] keys. What was accumulated shrinks by shrink[r].
  // All weights of a row, old and new, have the rounding of the reference as a common factor, which the division by the
  // sum removes: scores of 1e4 lose no accuracy here.
  template <int kTiles>
  __device__ void Weigh(Accumulator (&scores)[kTiles], const int (&visible)[2], float (&shrink)[2]) {
    if (sign != 1.0f) {
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
        for (float& score : scores[j].c) score *= sign;
      }
    }
    if (__any_sync(kAllLanes, min(visible[0], visible[1]) < 8 * kTiles)) {
      const int column = AccumulatorColumn();
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (8 * j + column + i % 2 >= visible[i / 2]) scores[j].c[i] = kMinusInfinity;
        }
      }
    }
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float before = max[row] * log2_scale;
      float largest = max[row];
#pragma unroll
      for (int j = 0; j < kTiles; ++j) largest = fmaxf(largest, fmaxf(scores[j].c[2 * row], scores[j].c[2 * row + 1]));
      max[row] = RowMax(largest);
      const float reference = Reference(row);
      shrink[row] = Exp2(before - reference);
      sum[row] *= shrink[row];
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int i = 2 * row; i < 2 * row + 2; ++i) {
          scores[j].c[i] = Exp2(fmaf(scores[j].c[i], log2_scale, -reference));
          sum[row] += scores[j].c[i];
        }
      }
    }
  }
};

// kColumns >= value_width. Shared memory: q [rows, width], k [kKeys, width], v [kKeys, value_width].
template <class T, int kColumns>
__global__ void __launch_bounds__(kMostThreads) AttentionKernel(AttentionSizes s, int all_heads, const T* q, const T* k,
                                                                const T* v, Stored<T>* output, float* log_sum_exp) {
  constexpr int kTileKeys = kKeys<T, kColumns>;
  const int rows = static_cast<int>(blockDim.x) / 32 * kWarpRows;
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  // The last queries see the most keys, so they go first.
  const int tile = (blocks - 1 - block) / all_heads, batch_head = (blocks - 1 - block) % all_heads;
  const int batch = batch_head / s.heads, head = batch_head % s.heads, kv_head = head / (s.heads / s.kv_heads);
  const Rows<const T> queries = HeadRows(q, batch, s.queries, s.heads, head, s.width);
  const Rows<const T> keys = HeadRows(k, batch, s.keys, s.kv_heads, kv_head, s.width);
  const Rows<const T> values = HeadRows(v, batch, s.keys, s.kv_heads, kv_head, s.value_width);

  T* q_tile = reinterpret_cast<T*>(SharedMemory());
  T* k_tile = q_tile + rows * RowStride<T>(s.width);
  T* v_tile = k_tile + kTileKeys * RowStride<T>(s.width);

  const int first = tile * rows, warp_row = static_cast<int>(threadIdx.x) / 32 * kWarpRows;
  const int block_keys = VisibleKeys(s, min(first + rows, s.queries) - 1);
  const int warp_keys = VisibleKeys(s, min(first + warp_row + kWarpRows, s.queries) - 1);
  const int row = first + warp_row + AccumulatorRow();
  const int row_keys[2] = {VisibleKeys(s, row), VisibleKeys(s, row + 8)};

  Softmax softmax(s.scale);
  Accumulator result[kColumns / 8];
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
  }
  CopyAsyncWait<0>();
  __syncthreads();

  float inverse[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = RowSum(softmax.sum[i]);
    inverse[i] = sum == 0 ? 0.0f : 1.0f / sum;
    if (LaneId() % 4 == 0 && row + 8 * i < s.queries) {
      log_sum_exp[int64_t{batch_head} * s.queries + row + 8 * i] =
          sum == 0 ? kMinusInfinity : softmax.Reference(i) * kLn2 + logf(sum);
    }
  }
  StoreRows(result, inverse, HeadRows(output, batch, s.queries, s.heads, head, s.value_width), first + warp_row);
}

}  // namespace

Status Attention(CudaContext& context, const AttentionParams& p) {
  SAS_TRY(CheckSizes(p.shape));
  const AttentionSizes s = SizesOf(p.shape);
  const int64_t all_heads = p.shape.batch * p.shape.heads;
  return DispatchElement(context, p.dtype, [&]<class T>(T*) {
    return DispatchColumns(s.value_width, [&](auto columns) {
      constexpr int kColumns = columns;
      Tiling tiling;
      const auto shared_bytes = [&](int rows, int) {
        const size_t operands = (static_cast<size_t>(rows) + kKeys<T, kColumns>)*RowBytes<T>(s.width) +
                                kKeys<T, kColumns> * RowBytes<T>(s.value_width);
        return std::max(operands, static_cast<size_t>(rows) * RowBytes<T>(s.value_width));
      };
      SAS_TRY(ChooseTiling(context, all_heads, s.queries, 1, shared_bytes, &tiling));
      return context.Launch(AttentionKernel<T, kColumns>, tiling.grid, s, static_cast<int>(all_heads),
                            static_cast<const T*>(p.q), static_cast<const T*>(p.k), static_cast<const T*>(p.v),
                            static_cast<Stored<T>*>(p.output), p.log_sum_exp);
    });
  });
}

}  // namespace sas::cuda
