// How the products of the expansion are divided among warps, and their weights, packed as fragments.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cuda/context.h"
#include "cuda/device/mma.cuh"

namespace sas::cuda::expand {

// One block per multiprocessor: four warps per scheduler hide each other's latencies. For sm_120 the compiler takes
// more registers than so many warps leave. The host asks the kernel (CudaContext::ThreadsOf), which may be of any
// target.
constexpr int kMaxThreads = 512;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1200
constexpr int kThreads = 256;
#else
constexpr int kThreads = kMaxThreads;
#endif
constexpr int kWarps = kThreads / 32;
// A unit of work, which one warp does: 16 rows and at most so many tiles of 8 columns. Small, so that phases have
// enough units for all warps, and the unrolled code of all phases fits into the instruction cache.
// Fewer where a block has fewer threads (sm_120): there registers are short.
__host__ __device__ constexpr int MaxColumnTiles(int warps) { return warps < kMaxThreads / 32 ? 4 : 6; }
constexpr int kColumnTiles = MaxColumnTiles(kWarps);

constexpr int Ceil(int a, int b) { return (a + b - 1) / b; }
constexpr int Round(int a, int b) { return Ceil(a, b) * b; }

// How the product of `row_tiles` x `column_tiles` is divided into units for `warps` warps: column tiles per unit, and
// units per row.
struct Division {
  int columns, groups;
  int cost;  // of the busiest warp, in column tiles; one more per unit for what does not depend on the columns
};
inline Division Divide(int row_tiles, int column_tiles, int warps) {
  Division best{};
  for (int columns = std::min(MaxColumnTiles(warps), column_tiles); columns > 0; --columns) {
    const int groups = Ceil(column_tiles, columns), cost = Ceil(row_tiles * groups, warps) * (columns + 1);
    if (best.columns == 0 || cost < best.cost) best = {columns, groups, cost};
  }
  return best;
}

// ---- weights

// A matrix B [depth, columns] as fragments in the order in which lanes load them: uint2 [step][column tile][lane].
// B[tap * inner_padded + i, n] = source[offset + n * column_stride + i * inner_stride + tap * tap_stride], 0 in the
// padding.
struct PackedMatrix {
  const float* source;
  int64_t offset, column_stride, inner_stride, tap_stride;
  int columns, column_tiles;
  int inner, inner_padded;
  int depth, steps;
  bool remainder;
  int64_t target;  // in uint2 from the start of all packed weights

  __host__ __device__ int64_t size() const { return int64_t{column_tiles} * steps * 32; }
};

constexpr int kMaxMatrices = 10;
struct PackedMatrices {
  PackedMatrix matrices[kMaxMatrices];
  int count = 0;
  int64_t size = 0;  // in uint2

  int64_t bytes() const { return size * static_cast<int64_t>(sizeof(uint2)); }
  // Adds a matrix; `taps` = 1 for a plain one.
  template <class T>
  PackedMatrix Add(PackedMatrix matrix, int taps) {
    matrix.inner_padded = Round(matrix.inner, 8);
    matrix.column_tiles = Ceil(matrix.columns, 8);
    matrix.depth = taps * matrix.inner_padded;
    matrix.steps = Ceil(matrix.depth, kDepth<T>);
    matrix.target = size;
    size += matrix.size();
    return matrices[count++] = matrix;
  }
};

// The weights rounded to T and packed, kept by the context (WeightCache) under `key`. Defined in expand.cu for every
// type of products.
template <class T>
Status PackWeights(CudaContext& context, const WeightKey& key, const PackedMatrices& matrices, const uint2** packed);

// Packs anew, all in one launch, what is kept of the parameters that the running operation has updated. The last of its
// parameters calls WeightCache::UpdatedPacks for all.
using KeptPacks = std::vector<std::pair<const WeightKey*, WeightCache::Entry*>>;
Status Repack(CudaContext& context, const KeptPacks& packs);

// What a kernel needs of a packed matrix.
struct Weights {
  int64_t target;
  int64_t remainder_target;  // of the remainder's, if it is packed
  int column_tiles, depth, steps;
  Division division;  // of the product with a tile's rows
  float4* totals;     // kColumnTiles of a thread, for more than kLongestChain steps

  Weights() = default;
  explicit Weights(const PackedMatrix& m)
      : target(m.target),
        remainder_target(0),
        column_tiles(m.column_tiles),
        depth(m.depth),
        steps(m.steps),
        division{},
        totals(nullptr) {}
};

template <class T>
__device__ __forceinline__ void LoadPackedB(FragmentB<T>& b, const uint2* packed) {
  const uint2 pair = *packed;
  const uint32_t r[2] = {pair.x, pair.y};
  fragment::Assign(b, r);
}

}  // namespace sas::cuda::expand
