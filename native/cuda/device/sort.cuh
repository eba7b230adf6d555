// A stable radix sort of 32-bit keys with 32-bit values, from the lowest digit up. Digits are counted by ballots, not
// by atomics, and every position follows from the counts of the keys before: the result is always the same.
#pragma once

#include "cuda/device/elementwise.cuh"

namespace sas::cuda {

struct SortBuffers {
  uint32_t *keys, *values;              // [size], in and out
  uint32_t *other_keys, *other_values;  // [size]
};

namespace sort {

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
constexpr int kWarps = kDigits / 32;                        // per block: a thread per digit
constexpr int kWarpKeys = 512, kTile = kWarps * kWarpKeys;  // neighbouring keys of a warp, of a block
constexpr size_t kSharedBytes = (kWarps * kDigits + kWarps) * sizeof(uint32_t);

__device__ __forceinline__ uint32_t DigitOf(uint32_t key, int shift) { return key >> shift & (kDigits - 1); }

// The lanes that have the lane's digit, none for lanes without a key.
__device__ __forceinline__ unsigned Peers(uint32_t digit, bool present) {
  unsigned peers = __ballot_sync(kFullWarp, present);
#pragma unroll
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool set = (digit >> bit & 1) != 0;
    const unsigned those = __ballot_sync(kFullWarp, set);
    peers &= set ? those : ~those;
  }
  return present ? peers : 0;
}

// Calls body(i, digit, peers) for the warp's keys, all lanes together, 32 neighbours at a time.
template <class Body>
__device__ __forceinline__ void ForKeys(int64_t size, const uint32_t* keys, int shift, const Body& body) {
  const int64_t begin = int64_t{blockIdx.x} * kTile + threadIdx.x / 32 * kWarpKeys;
  const int64_t end = min(begin + kWarpKeys, size);
  for (int64_t i = begin + LaneId(); i - LaneId() < end; i += 32) {
    const uint32_t digit = i < end ? DigitOf(keys[i], shift) : 0;
    body(i, digit, Peers(digit, i < end));
  }
}

// counts [kWarps, kDigits] in shared memory = the digits of each warp's keys.
__device__ __forceinline__ void CountDigits(int64_t size, const uint32_t* keys, int shift, uint32_t* counts) {
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * kDigits; i += 32 * kWarps) counts[i] = 0;
  __syncthreads();
  uint32_t* own = counts + threadIdx.x / 32 * kDigits;
  ForKeys(size, keys, shift, [&](int64_t, uint32_t digit, unsigned peers) {
    const unsigned below = (1u << LaneId()) - 1;
    if (peers != 0 && (peers & below) == 0)
      own[digit] += static_cast<uint32_t>(__popc(peers));  // the first of the peers
    __syncwarp();
  });
  __syncthreads();
}

// block_counts [gridDim.x, kDigits].
static __global__ void __launch_bounds__(kDigits)
    CountKernel(int64_t size, const uint32_t* keys, int shift, uint32_t* block_counts) {
  uint32_t* counts = reinterpret_cast<uint32_t*>(SharedMemory());
  CountDigits(size, keys, shift, counts);
  const int digit = static_cast<int>(threadIdx.x);
  uint32_t count = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) count += counts[warp * kDigits + digit];
  block_counts[int64_t{blockIdx.x} * kDigits + digit] = count;
}

// Moves the pairs to their places by one digit. block_counts is what CountKernel left.
static __global__ void __launch_bounds__(kDigits)
    ScatterKernel(int64_t size, int shift, const uint32_t* block_counts, SortBuffers buffers) {
  uint32_t* counts = reinterpret_cast<uint32_t*>(SharedMemory());  // [kWarps, kDigits]
  uint32_t* warp_sums = counts + kWarps * kDigits;                 // [kWarps]
  CountDigits(size, buffers.keys, shift, counts);

  // This thread's digit: how many there are, and how many in the blocks before.
  const int digit = static_cast<int>(threadIdx.x), lane = LaneId(), warp = digit / 32;
  uint32_t total = 0, before = 0;
#pragma unroll 4
  for (unsigned block = 0; block < gridDim.x; ++block) {
    const uint32_t count = block_counts[int64_t{block} * kDigits + digit];
    total += count;
    before += block < blockIdx.x ? count : 0;
  }
  // Smaller digits come first: an exclusive scan of the totals.
  uint32_t scan = total;
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const uint32_t other = __shfl_up_sync(kFullWarp, scan, lanes);
    scan += lane >= lanes ? other : 0;
  }
  if (lane == 31) warp_sums[warp] = scan;
  __syncthreads();
  uint32_t position = scan - total + before;
  for (int other = 0; other < warp; ++other) position += warp_sums[other];
    // Counts become the positions of the warps' next keys.
#pragma unroll
  for (int other = 0; other < kWarps; ++other) {
    const uint32_t count = counts[other * kDigits + digit];
    counts[other * kDigits + digit] = position;
    position += count;
  }
  __syncthreads();

  uint32_t* next = counts + warp * kDigits;
  ForKeys(size, buffers.keys, shift, [&](int64_t i, uint32_t key_digit, unsigned peers) {
    const unsigned earlier = peers & ((1u << lane) - 1);
    const uint32_t target = next[key_digit] + static_cast<uint32_t>(__popc(earlier));
    __syncwarp();
    if (peers != 0) {
      if (earlier == 0) next[key_digit] += static_cast<uint32_t>(__popc(peers));
      buffers.other_keys[target] = buffers.keys[i];
      buffers.other_values[target] = buffers.values[i];
    }
    __syncwarp();
  });
}

}  // namespace sort

// Sorts buffers.keys, none above `largest`, and buffers.values with them.
inline Status SortPairs(CudaContext& context, int64_t size, uint32_t largest, SortBuffers& buffers) {
  const int64_t blocks = CeilDiv(size, sort::kTile);
  const Grid grid{dim3(static_cast<unsigned>(blocks)), sort::kDigits, sort::kSharedBytes};
  auto* block_counts = context.Take<uint32_t>(blocks * sort::kDigits);
  for (int shift = 0; shift < 32 && largest >> shift != 0; shift += sort::kDigitBits) {
    SAS_TRY(context.Launch(sort::CountKernel, grid, size, buffers.keys, shift, block_counts));
    SAS_TRY(context.Launch(sort::ScatterKernel, grid, size, shift, block_counts, buffers));
    std::swap(buffers.keys, buffers.other_keys);
    std::swap(buffers.values, buffers.other_values);
  }
  return {};
}

}  // namespace sas::cuda
