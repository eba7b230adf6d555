// One kernel over the elements of many tensors: their pointers and sizes travel in the kernel's parameters, and every
// block has a chunk of one of them.
#pragma once

#include "cuda/device/elementwise.cuh"

namespace sas::cuda {

constexpr int kChunk = 4096;  // elements of a block

// Some of the tensors, structs with a `size`.
template <class Tensor>
struct TensorTable {
  // Of what a kernel's parameters may have, some for the others: 4 KB, 32 with CUDA 13 and its drivers.
#if defined(CUDART_VERSION) && CUDART_VERSION < 13000
  static constexpr int kParameterBytes = 3840;
#else
  static constexpr int kParameterBytes = 16000;
#endif
  static constexpr int kMax = static_cast<int>((kParameterBytes - 8) / (sizeof(Tensor) + sizeof(uint32_t)));

  Tensor tensors[kMax];
  uint32_t first_chunk[kMax];
  int count;
};

struct TensorChunk {
  int tensor;
  int64_t begin, end;  // elements
};

// The running block's.
template <class Tensor>
__device__ __forceinline__ TensorChunk ChunkOf(const TensorTable<Tensor>& table) {
  int low = 0, high = table.count;  // the last tensor whose first chunk is not after this block's
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first_chunk[middle] <= blockIdx.x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const int64_t begin = int64_t{blockIdx.x - table.first_chunk[low]} * kChunk;
  return {low, begin, min(begin + kChunk, table.tensors[low].size)};
}

// Whether a check has failed that the operation's operands depend on: it must not write them then.
__device__ __forceinline__ bool Failed(const CheckGuard& guard) {
  bool failed = false;
#pragma unroll
  for (int word = 0; word < static_cast<int>(Device::kMaxChecks / 64); ++word) {
    for (uint64_t checks = guard.checks[word]; checks != 0; checks &= checks - 1) {
      failed |= guard.records[64 * word + __ffsll(static_cast<long long>(checks)) - 1] != kNothingOutside;
    }
  }
  return failed;
}

inline constexpr int64_t CountChunks(int64_t size) { return CeilDiv(size, kChunk); }

// Calls launch(table, grid, done), `done` chunks having come before, until all of `tensors` have been in a table.
template <class Tensor, class Launch>
Status ForTables(const std::vector<Tensor>& tensors, const Launch& launch) {
  int64_t done = 0;
  TensorTable<Tensor> table{};
  uint32_t chunks = 0;
  const auto flush = [&]() -> Status {
    SAS_TRY(launch(table, Grid{dim3(chunks), kElementThreads, kElementThreads / 32 * sizeof(double)}, done));
    done += chunks;
    chunks = 0;
    table.count = 0;
    return {};
  };
  for (const Tensor& tensor : tensors) {
    const int64_t more = CountChunks(tensor.size);
    if (table.count == TensorTable<Tensor>::kMax || chunks + more > INT32_MAX) SAS_TRY(flush());
    table.tensors[table.count] = tensor;
    table.first_chunk[table.count++] = chunks;
    chunks += static_cast<uint32_t>(more);
  }
  return flush();
}

template <class... T>
__device__ __forceinline__ bool Aligned16(const T*... pointers) {
  return (... && (reinterpret_cast<uintptr_t>(pointers) % 16 == 0));
}

// Up to kCount elements, 0 in place of the others; at once where `whole`.
template <int kCount>
__device__ __forceinline__ void LoadPartial(const float* at, int64_t present, bool whole, float (&x)[kCount]) {
  if (whole) {
    LoadElements(at, x);
    return;
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) x[k] = k < present ? at[k] : 0.0f;
}
template <int kCount, class T>
__device__ __forceinline__ void StorePartial(T* at, int64_t present, bool whole, const float (&x)[kCount]) {
  if (whole) {
    StoreElements(at, x);
    return;
  }
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if (k < present) Narrow(x[k], at + k);
  }
}

}  // namespace sas::cuda
