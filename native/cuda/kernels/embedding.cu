// output[b, t] = tokenTable[tokens[b, t]] + positionTable[t]. A token outside of the vocabulary is recorded and
// gives NaN: its row of the output, the whole gradient of the table.
#include "cuda/device/column_sums.cuh"
#include "cuda/device/sort.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// A warp per row.
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads) EmbeddingKernel(EmbeddingParams p, CheckRecord* outside) {
  for (int64_t row = FirstItem() / 32; row < p.batch * p.length; row += ItemStride() / 32) {
    const int32_t token = p.tokens[row];
    const bool valid = token >= 0 && token < p.vocabulary;
    if (!valid && LaneId() == 0) RecordOutside(outside, row, token);
    const float* token_row = p.token_table + (valid ? token : 0) * p.width;
    const float* position_row = p.position_table == nullptr ? nullptr : p.position_table + row % p.length * p.width;
    T* output = static_cast<T*>(p.output) + row * p.width;
#pragma unroll 4
    for (int64_t column = LaneId() * kCount; column < p.width; column += 32 * kCount) {
      float value[kCount], position[kCount] = {};
      LoadElements(token_row + column, value);
      if (position_row != nullptr) LoadElements(position_row + column, position);
#pragma unroll
      for (int k = 0; k < kCount; ++k) value[k] = valid ? value[k] + position[k] : NAN;
      StoreElements(output + column, value);
    }
  }
}

// ---- gradient of the token table: places sorted by token, then a sum for every row. Rows that are used often are not
// left to one warp: stretches of kStretch sorted places that all have one token are summed apart.

constexpr int kStretch = kLongestChain;

// Tokens as keys to sort: those outside of the vocabulary come last.
__global__ void __launch_bounds__(kElementThreads) KeysKernel(int64_t size, int64_t vocabulary, const int32_t* tokens,
                                                              uint32_t* keys, uint32_t* places, CheckRecord* outside) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) {
    const int32_t token = tokens[i];
    const bool valid = token >= 0 && token < vocabulary;
    if (!valid) RecordOutside(outside, i, token);
    keys[i] = static_cast<uint32_t>(valid ? token : vocabulary);
    places[i] = static_cast<uint32_t>(i);
  }
}

// The sorted places of token i are first[i] .. first[i + 1] - 1.
__global__ void __launch_bounds__(kElementThreads)
    FirstKernel(int64_t size, int64_t vocabulary, const uint32_t* keys, uint32_t* first) {
  for (int64_t token = FirstItem(); token <= vocabulary; token += ItemStride()) {
    int64_t low = 0, high = size;  // binary search: keys[low - 1] < token <= keys[high]
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (keys[middle] < token) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    first[token] = static_cast<uint32_t>(low);
  }
}

// sum = the rows of gradOutput at sorted places begin .. end - 1, columns column .. column + kCount - 1.
template <int kCount, class T>
__device__ __forceinline__ void AddPlaces(const T* grad_output, int64_t width, const uint32_t* places, int64_t begin,
                                          int64_t end, int64_t column, float (&sum)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) sum[k] = 0;
#pragma unroll 4
  for (int64_t i = begin; i < end; ++i) {
    float x[kCount];
    LoadElements(grad_output + places[i] * width + column, x);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] += x[k];
  }
}

// The running warp's first column, of kCount: blockIdx.y counts slices of 32 * kCount columns.
template <int kCount>
__device__ __forceinline__ int64_t FirstColumn() {
  return (int64_t{blockIdx.y} * 32 + LaneId()) * kCount;
}

// stretches [size / kStretch, width] = sums over the places of each, where they have one token. A warp per stretch and
// slice.
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    StretchesKernel(int64_t size, int64_t width, const T* grad_output, const uint32_t* keys, const uint32_t* places,
                    float* stretches) {
  const int64_t column = FirstColumn<kCount>();
  if (column >= width) return;
  for (int64_t stretch = FirstItem() / 32; stretch < size / kStretch; stretch += ItemStride() / 32) {
    const int64_t begin = stretch * kStretch;
    if (keys[begin] != keys[begin + kStretch - 1]) continue;
    float sum[kCount];
    AddPlaces(grad_output, width, places, begin, begin + kStretch, column, sum);
    StoreElements(stretches + stretch * width + column, sum);
  }
}

// A warp per row of the table and slice. With four blocks at least: ptxas else spills for the sake of one more.
template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads, 4)
    TableGradientKernel(int64_t size, int64_t vocabulary, int64_t width, const T* grad_output, const uint32_t* first,
                        const uint32_t* places, const float* stretches, float* grad_token_table) {
  const int64_t column = FirstColumn<kCount>();
  if (column >= width) return;
  const bool valid = first[vocabulary] == size;  // no key after those of the vocabulary
  for (int64_t row = FirstItem() / 32; row < vocabulary; row += ItemStride() / 32) {
    const int64_t begin = first[row], end = first[row + 1];
    // Whole stretches from `from` to before `to`, and the places around them.
    const int64_t from = CeilDiv(begin, kStretch), to = end / kStretch, before = min(from * kStretch, end);
    float sum[kCount] = {}, rest[kCount] = {}, x[kCount];
    for (int64_t stretch = from; stretch < to; ++stretch) {
      LoadElements(stretches + stretch * width + column, x);
#pragma unroll
      for (int k = 0; k < kCount; ++k) AddCompensated(x[k], sum[k], rest[k]);
    }
    AddPlaces(grad_output, width, places, begin, before, column, x);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] += x[k];
    AddPlaces(grad_output, width, places, max(to * kStretch, before), end, column, x);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sum[k] = valid ? sum[k] + x[k] : NAN;
    StoreElements(grad_token_table + row * width + column, sum);
  }
}

// Warps for `rows` rows of `slices` slices.
Grid SliceGrid(const CudaContext& context, int64_t rows, int64_t slices) {
  Grid grid = ElementGrid(context, rows * 32);
  grid.blocks.y = static_cast<unsigned>(slices);
  return grid;
}

template <int kCount, class T>
Status TableGradient(CudaContext& context, const EmbeddingBackwardParams& p) {
  const int64_t size = p.batch * p.length;
  const auto* grad_output = static_cast<const T*>(p.grad_output);
  SortBuffers sort{context.Take<uint32_t>(size), context.Take<uint32_t>(size), context.Take<uint32_t>(size),
                   context.Take<uint32_t>(size)};
  SAS_TRY(context.Launch(KeysKernel, ElementGrid(context, size), size, p.vocabulary, p.tokens, sort.keys, sort.values,
                         context.StartCheck(TokenOutside, p.vocabulary)));
  SAS_TRY(SortPairs(context, size, static_cast<uint32_t>(p.vocabulary), sort));

  auto* first = context.Take<uint32_t>(p.vocabulary + 1);
  SAS_TRY(context.Launch(FirstKernel, ElementGrid(context, p.vocabulary + 1), size, p.vocabulary, sort.keys, first));
  const int64_t slices = CeilDiv(p.width, 32 * kCount);
  auto* stretches = context.Take<float>(size / kStretch * p.width);
  SAS_TRY(context.Launch(StretchesKernel<kCount, T>, SliceGrid(context, size / kStretch, slices), size, p.width,
                         grad_output, sort.keys, sort.values, stretches));
  return context.Launch(TableGradientKernel<kCount, T>, SliceGrid(context, p.vocabulary, slices), size, p.vocabulary,
                        p.width, grad_output, first, sort.values, stretches, p.grad_token_table);
}

}  // namespace

Status Embedding(CudaContext& context, const EmbeddingParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    constexpr int kCount = 4;
    const bool vectorizable =
        Vectorizable<kCount>(p.width, p.token_table, p.position_table, static_cast<const T*>(p.output));
    return context.Launch(vectorizable ? EmbeddingKernel<kCount, T> : EmbeddingKernel<1, T>,
                          ElementGrid(context, p.batch * p.length * 32), p,
                          context.StartCheck(TokenOutside, p.vocabulary));
  });
}

Status EmbeddingBackward(CudaContext& context, const EmbeddingBackwardParams& p) {
  if (p.batch * p.length > INT32_MAX) return Status(StatusCode::kShape, "up to 2147483647 tokens are supported");
  return DispatchFloat(p.dtype, [&]<class T>(T*) -> Status {
    constexpr int kCount = 4;
    const auto* grad_output = static_cast<const T*>(p.grad_output);
    const bool vectorizable = Vectorizable<kCount>(p.width, grad_output, p.grad_token_table);
    SAS_TRY((vectorizable ? TableGradient<kCount, T> : TableGradient<1, T>)(context, p));
    if (p.grad_position_table == nullptr) return {};
    const int64_t used = p.length * p.width;
    SAS_TRY(ColumnSums(context, p.batch, used, grad_output, p.grad_position_table));
    SAS_CUDA_TRY(cudaMemsetAsync(p.grad_position_table + used, 0, (p.positions * p.width - used) * sizeof(float),
                                 context.stream()));
    return {};
  });
}

}  // namespace sas::cuda
