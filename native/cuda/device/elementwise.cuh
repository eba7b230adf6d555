// What the memory-bound kernels share: grids over elements and rows, vector accesses, reductions. All of them move each
// byte once and are limited by bandwidth. Sums are added in an order that depends on the shape and the device only.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cuda/context.h"
#include "cuda/device/mma.cuh"

namespace sas::cuda {

constexpr unsigned kElementThreads = 256;
constexpr unsigned kFullWarp = 0xffffffffu;

// ---- grids over elements

// A grid of enough threads to keep the device busy; kernels loop over what is left (grid-stride).
inline Grid ElementGrid(const CudaContext& context, int64_t items) {
  constexpr int kBlocksPerMultiprocessor = 8;
  const int64_t most = int64_t{kBlocksPerMultiprocessor} * context.multiprocessors();
  return {dim3(static_cast<unsigned>(std::min(CeilDiv(items, kElementThreads), most))), kElementThreads};
}

// The running thread's first item and the distance to its next.
__device__ __forceinline__ int64_t FirstItem() { return int64_t{blockIdx.x} * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64_t ItemStride() { return int64_t{gridDim.x} * blockDim.x; }

// ---- checks

// Positions from 2^32 - 2 on are recorded as that.
__device__ __forceinline__ void RecordOutside(CheckRecord* record, int64_t position, int32_t value) {
  atomicMin(record, static_cast<CheckRecord>(min(position, int64_t{0xfffffffe})) << 32 | static_cast<uint32_t>(value));
}

// ---- vector accesses: kCount neighbouring elements as f32, `at` aligned to all of them

// Whether rows of `width` elements can be read kCount at a time.
template <int kCount, class... T>
bool Vectorizable(int64_t width, const T*... rows) {
  return width % kCount == 0 &&
         (... && (reinterpret_cast<uintptr_t>(rows) % std::min<size_t>(kCount * sizeof(T), 16) == 0));
}

// As they come from memory, in fewer registers than as f32.
template <int kCount, class T>
struct Words {
  static constexpr int kWords = static_cast<int>(CeilDiv(kCount * sizeof(T), 4));
  uint32_t word[kWords];
};

template <int kCount, class T>
__device__ __forceinline__ void LoadWords(const T* at, Words<kCount, T>& words) {
  constexpr int kWords = Words<kCount, T>::kWords;
  static_assert(kCount == 1 || kWords == 2 || kWords == 4);
  if constexpr (kCount == 1) {
    if constexpr (sizeof(T) == 4) {
      words.word[0] = FloatBits(*at);
    } else {
      words.word[0] = at->bits;
    }
  } else if constexpr (kWords == 2) {
    const uint2 loaded = Load8(at);
    words = {loaded.x, loaded.y};
  } else {
    const uint4 loaded = Load16(at);
    words = {loaded.x, loaded.y, loaded.z, loaded.w};
  }
}

template <int kCount, class T>
__device__ __forceinline__ void Unpack(const Words<kCount, T>& words, float (&x)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) {
    if constexpr (sizeof(T) == 4) {
      x[k] = BitsToFloat(words.word[k]);
    } else {
      x[k] = Widen(T{static_cast<uint16_t>(words.word[k / 2] >> k % 2 * 16)});
    }
  }
}

template <int kCount, class T>
__device__ __forceinline__ void LoadElements(const T* at, float (&x)[kCount]) {
  Words<kCount, T> words;
  LoadWords(at, words);
  Unpack(words, x);
}

template <class T>
__device__ __forceinline__ uint32_t PackWord(const float* x) {
  if constexpr (sizeof(T) == 4) {
    return FloatBits(x[0]);
  } else {
    return Pack<T>(x[0], x[1]);
  }
}

template <int kCount, class T>
__device__ __forceinline__ void StoreElements(T* at, const float (&x)[kCount]) {
  constexpr int kWords = static_cast<int>(kCount * sizeof(T) / 4), kPerWord = static_cast<int>(4 / sizeof(T));
  if constexpr (kCount == 1) {
    Narrow(x[0], at);
  } else {
    static_assert(kWords == 2 || kWords == 4);
    if constexpr (kWords == 2) {
      Store8(at, {PackWord<T>(x), PackWord<T>(x + kPerWord)});
    } else {
      Store16(at, {PackWord<T>(x), PackWord<T>(x + kPerWord), PackWord<T>(x + 2 * kPerWord),
                   PackWord<T>(x + 3 * kPerWord)});
    }
  }
}

// ---- maps: output[i] = function(a[i]) or function(a[i], b[i]) in f32

// Two vectors per thread and step, so that their loads are in flight together.
template <int kCount, class Function, class To, class A, class B>
__global__ void __launch_bounds__(kElementThreads, 4)
    MapKernel(int64_t size, Function function, To* output, const A* a, const B* b) {
  constexpr bool kBinary = std::is_invocable_v<Function, float, float>;
  constexpr int kSteps = 2;
  const int64_t vectors = size / kCount;
#pragma unroll 1
  for (int64_t first = FirstItem(); first < vectors; first += kSteps * ItemStride()) {
    Words<kCount, A> a_words[kSteps] = {};
    Words<kCount, B> b_words[kSteps] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int64_t vector = first + step * ItemStride();
      if (vector >= vectors) continue;
      LoadWords(a + vector * kCount, a_words[step]);
      if constexpr (kBinary) LoadWords(b + vector * kCount, b_words[step]);
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int64_t vector = first + step * ItemStride();
      if (vector >= vectors) continue;
      float x[kCount], y[kCount];
      Unpack(a_words[step], x);
      if constexpr (kBinary) Unpack(b_words[step], y);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        if constexpr (kBinary) {
          x[k] = function(x[k], y[k]);
        } else {
          x[k] = function(x[k]);
        }
      }
      StoreElements(output + vector * kCount, x);
    }
  }
  if (const int64_t rest = vectors * kCount + FirstItem(); rest < size) {
    if constexpr (kBinary) {
      Narrow(function(Widen(a[rest]), Widen(b[rest])), output + rest);
    } else {
      Narrow(function(Widen(a[rest])), output + rest);
    }
  }
}

template <class Function, class To, class A, class B = A>
Status Map(CudaContext& context, int64_t size, Function function, To* output, const A* a, const B* b = nullptr) {
  constexpr int kCount = std::min({kVector<To>, kVector<A>, kVector<B>});
  const bool vectorizable = Vectorizable<kCount>(0, output, a, b);
  return context.Launch(vectorizable ? MapKernel<kCount, Function, To, A, B> : MapKernel<1, Function, To, A, B>,
                        ElementGrid(context, vectorizable ? CeilDiv(size, kCount) : size), size, function, output, a,
                        b);
}

// ---- reductions; every thread gets the result

template <class T>
__device__ __forceinline__ T WarpSum(T value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(kFullWarp, value, lanes);
  return value;
}
__device__ __forceinline__ float WarpMax(float value) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, lanes));
  return value;
}

// A row belongs to a group of kWarps warps: one of the block's warps, each with a row of its own, or the whole block.
// Groups of a block reduce through `shared` [kWarps] per value.
template <int kWarps>
struct RowGroup {
  static constexpr int kThreads = 32 * kWarps;

  static __device__ __forceinline__ int Rank() { return kWarps == 1 ? LaneId() : static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ int64_t FirstRow() { return kWarps == 1 ? FirstItem() / 32 : int64_t{blockIdx.x}; }
  static __device__ __forceinline__ int64_t RowStride() { return kWarps == 1 ? ItemStride() / 32 : int64_t{gridDim.x}; }

  template <class T, int kValues>
  static __device__ __forceinline__ void Sum(T (&values)[kValues], T* shared) {
    Reduce(values, shared, T{}, [](T value) { return WarpSum(value); });
  }
  static __device__ __forceinline__ float Sum(float value, float* shared) {
    float values[1] = {value};
    Sum(values, shared);
    return values[0];
  }
  static __device__ __forceinline__ float Max(float value, float* shared) {
    float values[1] = {value};
    Reduce(values, shared, -INFINITY, [](float lane) { return WarpMax(lane); });
    return values[0];
  }

 private:
  template <class T, int kValues, class WarpReduce>
  static __device__ __forceinline__ void Reduce(T (&values)[kValues], T* shared, T neutral, WarpReduce warp_reduce) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) values[i] = warp_reduce(values[i]);
    if constexpr (kWarps > 1) {
      const int lane = LaneId();
      if (lane == 0) {
#pragma unroll
        for (int i = 0; i < kValues; ++i) shared[i * kWarps + threadIdx.x / 32] = values[i];
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kValues; ++i) values[i] = warp_reduce(lane < kWarps ? shared[i * kWarps + lane] : neutral);
      __syncthreads();  // before `shared` is written again
    }
  }
};

// One group per row.
template <int kWarps>
Grid RowGrid(int64_t rows) {
  constexpr int64_t kRows = kWarps == 1 ? kElementThreads / 32 : 1;  // per block
  const unsigned blocks = static_cast<unsigned>(std::min<int64_t>(CeilDiv(rows, kRows), 0x7fffffff));
  return {dim3(blocks), kWarps == 1 ? kElementThreads : 32 * kWarps, kWarps == 1 ? 0 : 2 * kWarps * sizeof(float)};
}

}  // namespace sas::cuda
