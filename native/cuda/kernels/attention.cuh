// What attention's forward and backward share: tiles of rows in shared memory, the two kinds of products on them,
// softmax, and results on their way to global memory. A block is one to four warps, and a warp owns 16 rows of every
// result.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "core/params.h"
#include "cuda/context.h"
#include "cuda/device/mma.cuh"

namespace sas::cuda {

constexpr int kWarpRows = 16;
constexpr int kMaxWarps = 4;
constexpr int kMaxThreads = 32 * kMaxWarps;
constexpr int kWidest = 256;  // of q, k and v
constexpr int kChunk = 32;    // columns: rows in shared memory are padded to it with zeros
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2E = 1.44269504f;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity(), kLargest = std::numeric_limits<float>::max();

// For __launch_bounds__: products of f32 need registers before occupancy, for which ptxas would spill. 0: as ptxas
// likes.
template <class T>
constexpr int kLeastBlocks = std::is_same_v<T, float> ? 1 : 0;

// The type in memory of element type T.
template <class T>
using Stored = std::conditional_t<std::is_same_v<T, Tf32>, float, T>;

// AttentionShape as the kernels use it.
struct AttentionSizes {
  int queries, keys, heads, kv_heads, width, value_width;
  bool causal;
  float scale;
};

// The number of keys that query `i` sees: with `causal`, the mask is aligned to the bottom right.
__device__ __forceinline__ int VisibleKeys(const AttentionSizes& s, int i) {
  return s.causal ? max(0, min(s.keys, i + 1 + s.keys - s.queries)) : s.keys;
}
// The first query that sees key `j`.
__device__ __forceinline__ int FirstQuery(const AttentionSizes& s, int j) {
  return s.causal ? min(s.queries, max(0, j - (s.keys - s.queries))) : 0;
}

// ---- one head's rows in global memory

template <class T>
struct Rows {
  T* data;         // the first row
  int64_t stride;  // elements from a row to the next
  int count, width;
  bool vectors;  // rows can be moved in pieces of 16 bytes
};

// Head `head` of sequence `batch` in a tensor [B, count, heads, width].
template <class T>
__device__ __forceinline__ Rows<T> HeadRows(T* tensor, int batch, int count, int heads, int head, int width) {
  T* data = tensor + (int64_t{batch} * count * heads + head) * width;
  const bool vectors = (reinterpret_cast<uintptr_t>(data) | width * sizeof(T)) % 16 == 0;
  return {data, int64_t{heads} * width, count, width, vectors};
}

// ---- tiles in shared memory

// Elements from a row to the next: an odd number of 16-byte pieces, so that the 8 rows that ldmatrix reads at a time
// lie in different banks.
template <class T>
__host__ __device__ constexpr int RowStride(int width) {
  return (width + kChunk - 1) / kChunk * kChunk + kVector<T>;
}
template <class T>
__host__ __device__ constexpr size_t RowBytes(int width) {
  return static_cast<size_t>(RowStride<T>(width)) * sizeof(T);
}

// Threads that share a row when `pieces` of it are moved, as a power of two: 4 to 32.
__device__ __forceinline__ int LogThreadsPerRow(int pieces) {
  int log = 2;
  while (log < 5 && 1 << log < pieces) ++log;
  return log;
}

// Starts copying rows [first, first + rows) into a tile, zeros where there is nothing. By the whole block.
template <class T>
__device__ __forceinline__ void CopyRows(T* tile, const Rows<const T>& source, int first, int rows) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int stride = RowStride<T>(source.width), padded = stride - kVector<T>;
  if (source.vectors) {
    const int log = LogThreadsPerRow(padded / kVector<T>), last = (1 << log) - 1;
    for (int row = thread >> log; row < rows; row += threads >> log) {
      const T* from = source.data + (first + row) * source.stride;
      for (int column = (thread & last) * kVector<T>; column < padded; column += kVector<T> << log) {
        const bool valid = first + row < source.count && column < source.width;
        CopyAsync16(tile + row * stride + column, valid ? from + column : source.data, valid);
      }
    }
  } else {
    for (int i = thread; i < rows * padded; i += threads) {
      const int row = i / padded, column = i % padded;
      const bool valid = first + row < source.count && column < source.width;
      tile[row * stride + column] = valid ? source.data[(first + row) * source.stride + column] : T{};
    }
  }
}

// ---- products of a warp's 16 rows

// The row (of c[0]; that of c[2] is 8 further) and the column (of c[0]) that the lane holds of an Accumulator.
__device__ __forceinline__ int AccumulatorRow() { return LaneId() / 4; }
__device__ __forceinline__ int AccumulatorColumn() { return LaneId() % 4 * 2; }

// Over the four lanes that share a row.
__device__ __forceinline__ float RowSum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ __forceinline__ float RowMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

template <int kTiles>
__device__ __forceinline__ void Clear(Accumulator (&c)[kTiles]) {
#pragma unroll
  for (int j = 0; j < kTiles; ++j) c[j] = {};
}

// c [16, 8 * kTiles] = a b^T with both tiles `width` wide. With `kMirrored`, bit for bit the transpose of what the
// product b a^T would be: of a score of 1e4 the last bit counts in its weight.
template <bool kMirrored = false, class T, int kTiles>
__device__ __forceinline__ void MultiplyRows(Accumulator (&c)[kTiles], const T* a, const T* b, int width) {
  static_assert(kTiles % 2 == 0);
  constexpr int kUnrolled = std::is_same_v<T, float> ? 1 : 2;  // the parts of f32 take the registers of a second step
  const int stride = RowStride<T>(width);
  const T* lane_a = a + RowOfA<T>() * stride + DepthOfA<T>();
  Clear(c);
#pragma unroll kUnrolled
  for (int k = 0; k < width; k += kDepth<T>) {
    FragmentA<T> row;
    LoadA(row, lane_a + k);
#pragma unroll
    for (int j = 0; j < kTiles; j += 2) {
      FragmentB<T> b0, b1;
      LoadB(b0, b1, b + j * 8 * stride + k, stride);
      if constexpr (kMirrored) {
        MultiplyMirrored(c[j], row, b0);
        MultiplyMirrored(c[j + 1], row, b1);
      } else {
        Multiply(c[j], row, b0);
        Multiply(c[j + 1], row, b1);
      }
    }
  }
  if constexpr (std::is_same_v<T, float>) {
    RetakeOverflows<kTiles>(
        c, width, [&](int64_t k, int row, int half) { return a[(row + 8 * half) * stride + k]; },
        [&](int64_t k, int column) { return b[column * stride + k]; });
  }
}

// What is lost when `c` becomes an operand of type T.
template <class T>
__device__ __forceinline__ Accumulator Remainder(const Accumulator& c) {
  Accumulator rest;
#pragma unroll
  for (int i = 0; i < 4; ++i) rest.c[i] = c.c[i] - Widen(Narrowed<T>(c.c[i]));
  return rest;
}

// weights [16, 8 * kTiles] at row g + 8 * half and column `key`, the same for all lanes.
template <int kTiles>
__device__ __forceinline__ float WeightOf(const Accumulator (&weights)[kTiles], int key, int half) {
  float own = 0;  // unless the lane has it
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      own += key == 8 * tile + AccumulatorColumn() + odd ? weights[tile].c[2 * half + odd] : 0.0f;
    }
  }
  return RowSum(own);
}

// c [16, width] += weights [16, 8 * kKeyTiles] b, where tile b is [8 * kKeyTiles, width]. With `kSplit`, 16-bit weights
// are taken as the sum of two.
template <bool kSplit, class T, int kKeyTiles, int kTiles>
__device__ __forceinline__ void AddProduct(Accumulator (&c)[kTiles], const Accumulator (&weights)[kKeyTiles],
                                           const T* b, int width) {
  constexpr bool kApart = std::is_same_v<T, float>;  // summed apart first: what overflows is taken again
  // For those sums a wide result leaves fewer registers.
  constexpr int kTilesPerStep = kDepth<T> / 8, kTilesPerChunk = kChunk / (kApart && kTiles > 8 ? 16 : 8);
  static_assert(kKeyTiles % kTilesPerStep == 0 && kTiles % kTilesPerChunk == 0);
  const int stride = RowStride<T>(width);
#pragma unroll
  for (int chunk = 0; chunk < kTiles; chunk += kTilesPerChunk) {
    if (chunk * 8 >= width) continue;
    Accumulator apart[kApart ? kTilesPerChunk : 1] = {};
    Accumulator* const sums = kApart ? apart : c + chunk;
#pragma unroll
    for (int k = 0; k < kKeyTiles; k += kTilesPerStep) {
      FragmentA<T> a, rest;
      ChainA(a, weights + k);
      if constexpr (kSplit) {
        const Accumulator remainders[2] = {Remainder<T>(weights[k]), Remainder<T>(weights[k + 1])};
        ChainA(rest, remainders);
      }
#pragma unroll
      for (int j = 0; j < kTilesPerChunk; j += 2) {
        FragmentB<T> b0, b1;
        LoadBTransposed<true>(b0, b1, b + k * 8 * stride + (chunk + j) * 8, stride);
        Multiply(sums[j], a, b0);
        Multiply(sums[j + 1], a, b1);
        if constexpr (kSplit) {
          Multiply(sums[j], rest, b0);
          Multiply(sums[j + 1], rest, b1);
        }
      }
    }
    if constexpr (kApart) {
      RetakeOverflows<kTilesPerChunk>(
          apart, 8 * kKeyTiles, [&](int64_t k, int, int half) { return WeightOf(weights, static_cast<int>(k), half); },
          [&](int64_t k, int column) { return b[k * stride + chunk * 8 + column]; });
#pragma unroll
      for (int j = 0; j < kTilesPerChunk; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) c[chunk + j].c[i] += apart[j].c[i];
      }
    }
  }
}

// ---- softmax, online: rows g and g + 8 of a warp's 16

// From differences of scores to units of log2; finite for every scale, since the difference may be 0.
__device__ __forceinline__ float Log2Scale(float scale) { return fmaxf(-kLargest, fminf(scale * kLog2E, kLargest)); }

// The difference is taken first: it is small where weights count, while a product with the scale would round away 512
// of a score of 1e10.
__device__ __forceinline__ float Weight(float score, float reference, float log2_scale) {
  return Exp2((score - reference) * log2_scale);
}

struct Softmax {
  // Of scores times sign; times log2_scale > 0 their differences are in units of log2. Either sign of the scale, and 0,
  // will do.
  float sign, log2_scale;
  float max[2] = {kMinusInfinity, kMinusInfinity};  // of scores times sign, so far
  float sum[2] = {};                                // of the lane's weights, relative to the maximum

  __device__ explicit Softmax(float scale)
      : sign(scale > 0   ? 1.0f
             : scale < 0 ? -1.0f
                         : 0.0f),
        log2_scale(scale != 0 ? Log2Scale(fabsf(scale)) : 1.0f) {}

  // The maximum as the weights are measured from it; 0 where all scores so far are -inf, which leaves weights of 0
  // instead of NaN.
  __device__ float Reference(int row) const { return max[row] == kMinusInfinity ? 0.0f : max[row]; }

  // For Weight of the scores themselves: the one with the largest weight, and the factor with its sign.
  __device__ float ReferenceScore(int row) const { return Reference(row) * sign; }
  __device__ float SignedLog2Scale() const { return log2_scale * sign; }

  // Turns scores into weights; row r sees the first visible[r] keys. What was accumulated shrinks by shrink[r].
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
      const float before = max[row];
      float largest = before;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) largest = fmaxf(largest, fmaxf(scores[j].c[2 * row], scores[j].c[2 * row + 1]));
      max[row] = RowMax(largest);
      const float reference = Reference(row);
      shrink[row] = Weight(before, reference, log2_scale);
      float tile_sum = 0;
#pragma unroll
      for (int j = 0; j < kTiles; ++j) {
#pragma unroll
        for (int i = 2 * row; i < 2 * row + 2; ++i) {
          scores[j].c[i] = Weight(scores[j].c[i], reference, log2_scale);
          tile_sum += scores[j].c[i];
        }
      }
      sum[row] = fmaf(sum[row], shrink[row], tile_sum);
    }
  }
};

// ---- totals of sums over many tiles

// Of a thread, for OwnTotals: kTiles accumulators, sums over the row, and what those are relative to.
template <int kTiles>
constexpr int kRowTotals = kTiles + 2;

// Moves the softmax's sums, and others beside them, into the totals after those of kTiles accumulators. By `shrink`
// they have shrunk since the step before.
template <int kTiles>
__device__ __forceinline__ void MoveIntoTotals(const TotalStep& step, Softmax& softmax, float (&others)[2], float4* own,
                                               float (&shrink)[2]) {
  float4 *const sums_at = own + kTiles * kTotalParts * kMaxThreads, *const max_at = sums_at + kTotalParts * kMaxThreads;
  float before[2] = {kMinusInfinity, kMinusInfinity};
  if (!step.first) before[0] = max_at->x, before[1] = max_at->y;
  *max_at = make_float4(softmax.max[0], softmax.max[1], 0, 0);
#pragma unroll
  for (int i = 0; i < 2; ++i) shrink[i] = Weight(before[i], softmax.Reference(i), softmax.log2_scale);
  float sums[4] = {softmax.sum[0], others[0], softmax.sum[1], others[1]};
  MoveIntoTotal<kMaxThreads>(step, sums, sums_at, shrink);
  softmax.sum[0] = sums[0], others[0] = sums[1], softmax.sum[1] = sums[2], others[1] = sums[3];
}

// ---- results

__device__ __forceinline__ void StorePair(float* target, float first, float second) {
  *reinterpret_cast<float2*>(target) = make_float2(first, second);
}
template <class T>
__device__ __forceinline__ void StorePair(T* target, float first, float second) {
  *reinterpret_cast<uint32_t*>(target) = Pack<T>(first, second);
}

// A warp's 16 rows, times `factor` of rows g and g + 8, to rows [first, first + 16) of target, through shared memory
// that the whole block has finished with: RowBytes<Out> for each row of the block.
template <class Out, int kTiles>
__device__ __forceinline__ void StoreRows(const Accumulator (&c)[kTiles], const float (&factor)[2],
                                          const Rows<Out>& target, int first) {
  const int stride = RowStride<Out>(target.width), lane = LaneId();
  Out* staging = reinterpret_cast<Out*>(SharedMemory()) + static_cast<int>(threadIdx.x) / 32 * kWarpRows * stride;
  Out* pairs = staging + AccumulatorRow() * stride + AccumulatorColumn();
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    if (j * 8 >= target.width) continue;
    StorePair(pairs + j * 8, c[j].c[0] * factor[0], c[j].c[1] * factor[0]);
    StorePair(pairs + j * 8 + 8 * stride, c[j].c[2] * factor[1], c[j].c[3] * factor[1]);
  }
  __syncwarp();
  const int rows = min(kWarpRows, target.count - first);
  Out* to = target.data + first * target.stride;
  if (target.vectors) {
    const int log = LogThreadsPerRow(target.width / kVector<Out>), last = (1 << log) - 1;
    for (int row = lane >> log; row < rows; row += 32 >> log) {
      for (int column = (lane & last) * kVector<Out>; column < target.width; column += kVector<Out> << log) {
        Store16(to + row * target.stride + column, Load16(staging + row * stride + column));
      }
    }
  } else {
    for (int row = 0; row < rows; ++row) {
      for (int column = lane; column < target.width; column += 32) {
        to[row * target.stride + column] = staging[row * stride + column];
      }
    }
  }
}

// ---- launching

// Calls `body` with a null pointer of the type that products are done in.
template <class Body>
Status DispatchElement(const CudaContext& context, DType dtype, Body&& body) {
  if (dtype == DType::kF32 && context.tf32()) return body(static_cast<Tf32*>(nullptr));
  return DispatchFloat(dtype, body);
}

// Calls `body` with the smallest number of accumulated columns that holds `width`, as a constant.
template <class Body>
Status DispatchColumns(int width, Body&& body) {
  if (width <= 64) return body(std::integral_constant<int, 64>{});
  if (width <= 128) return body(std::integral_constant<int, 128>{});
  return body(std::integral_constant<int, kWidest>{});
}

inline Status CheckSizes(const AttentionShape& s) {
  constexpr int64_t kLongest = 1 << 29;
  if (s.width > kWidest || s.value_width > kWidest) {
    return Status(StatusCode::kShape, "attention on CUDA supports head widths of up to " + std::to_string(kWidest) +
                                          ", got " + std::to_string(s.width) + " (q, k) and " +
                                          std::to_string(s.value_width) + " (v)");
  }
  if (s.queries > kLongest || s.keys > kLongest) {
    return Status(StatusCode::kShape, "attention on CUDA supports lengths of up to 2^29");
  }
  return {};
}

inline AttentionSizes SizesOf(const AttentionShape& s) {
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  return {narrow(s.queries), narrow(s.keys),        narrow(s.heads), narrow(s.kv_heads),
          narrow(s.width),   narrow(s.value_width), s.causal,        s.scale};
}

// How a result of `length` rows per head is cut into blocks.
struct Tiling {
  int warps, stages;  // stages: tiles of the streamed operands in shared memory
  Grid grid;          // block x: tile x / heads of head x % heads
};

// The most warps and stages that fit; shared_bytes(rows, stages) says what a block needs.
template <class SharedBytes>
Status ChooseTiling(const CudaContext& context, int64_t heads, int64_t length, int stages,
                    const SharedBytes& shared_bytes, Tiling* tiling) {
  int warps = kMaxWarps;
  while (warps > 1 && warps / 2 * kWarpRows >= length) warps /= 2;
  for (; warps > 0; warps /= 2) {
    for (int s = stages; s > 0; --s) {
      const size_t bytes = shared_bytes(warps * kWarpRows, s);
      if (bytes > context.shared_limit()) continue;
      const int64_t blocks = heads * CeilDiv(length, warps * kWarpRows);
      if (blocks > std::numeric_limits<int32_t>::max()) {
        return Status(StatusCode::kShape, "attention on CUDA: more rows and heads than one launch can take");
      }
      *tiling = {warps, s, {dim3(static_cast<unsigned>(blocks)), 32u * static_cast<unsigned>(warps), bytes}};
      return {};
    }
  }
  return Status(StatusCode::kShape, "attention on CUDA: head widths need more shared memory than the device has");
}

// Totals for all blocks, `fours` for each of their threads, if a sum has so many tiles.
inline float4* TakeTotals(CudaContext& context, int64_t tiles, const Tiling& tiling, int fours) {
  if (tiles <= kLongestChain) return nullptr;
  return context.Take<float4>(int64_t{tiling.grid.blocks.x} * kMaxThreads * kTotalParts * fours);
}

}  // namespace sas::cuda
