// The tensor product of factors (Tensor Product Attention, arXiv 2501.06425). Of each token, with head factors A [R, H]
// and feature factors B [R, D]: output = A^T B / R. Backward, with gradOutput G [H, D]: gradA = B G^T / R, gradB = A G
// / R.
#include <type_traits>

#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// Of each token: output [rows, width] = 1/R * W B, with B [depth, width] in rows and element (row, i) of W at
// weights[row * row_step + i * depth_step].
struct FactorSum {
  int64_t tokens, rows, depth, width;
  int64_t row_step, depth_step;
  float share;  // 1/R
};

// A thread has kCount columns of kRows rows: B is read once for all of them.
constexpr int kRows = 4;

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    FactorSumKernel(FactorSum p, const T* weights, const T* b, T* output) {
  const int64_t parts = p.width / kCount, tiles = CeilDiv(p.rows, kRows);
  for (int64_t item = FirstItem(); item < p.tokens * tiles * parts; item += ItemStride()) {
    const int64_t column = item % parts * kCount, row = item / parts % tiles * kRows, token = item / parts / tiles;
    const int rows = static_cast<int>(min(int64_t{kRows}, p.rows - row));
    const T* left = weights + token * p.rows * p.depth + row * p.row_step;
    const T* right = b + token * p.depth * p.width + column;
    float sums[kRows][kCount] = {};
#pragma unroll 2
    for (int64_t i = 0; i < p.depth; ++i) {
      float x[kCount];
      LoadElements(right + i * p.width, x);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float weight = r < rows ? Widen(left[r * p.row_step + i * p.depth_step]) : 0.0f;
#pragma unroll
        for (int k = 0; k < kCount; ++k) sums[r][k] += weight * x[k];
      }
    }
    T* target = output + (token * p.rows + row) * p.width + column;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < kCount; ++k) sums[r][k] *= p.share;
      if (r < rows) StoreElements(target + r * p.width, sums[r]);
    }
  }
}

template <class T>
Status SumProducts(CudaContext& context, const FactorSum& p, const void* weights, const void* b, void* output) {
  const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
    const int64_t items = p.tokens * CeilDiv(p.rows, kRows) * (p.width / kCount);
    return context.Launch(FactorSumKernel<kCount, T>, ElementGrid(context, items), p, static_cast<const T*>(weights),
                          static_cast<const T*>(b), static_cast<T*>(output));
  };
  return Vectorizable<kVector<T>>(p.width, static_cast<const T*>(b), static_cast<T*>(output))
             ? launch(std::integral_constant<int, kVector<T>>{})
             : launch(std::integral_constant<int, 1>{});
}

// gradA. A warp has a token, each 2^shift lanes of it a row of G at a time, which is read once for kRanks rows of B.
constexpr int kRanks = 4;

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads)
    HeadFactorGradientsKernel(TensorProductBackwardParams p, int shift, float share) {
  const int rank = static_cast<int>(p.shape.rank), heads = static_cast<int>(p.shape.heads);
  const int width = static_cast<int>(p.shape.width), lane = LaneId() & ((1 << shift) - 1);
  for (int64_t token = FirstItem() / 32; token < p.shape.tokens; token += ItemStride() / 32) {
    const T* factors = static_cast<const T*>(p.feature_factors) + token * rank * width;
    T* gradients = static_cast<T*>(p.grad_head_factors) + token * rank * heads;
#pragma unroll 1
    for (int begin = 0; begin < heads; begin += 32 >> shift) {
      const int head = begin + (LaneId() >> shift);
      // Whole warps take part in the exchange: lanes beyond the last head compute it too.
      const T* row = static_cast<const T*>(p.grad_output) + (token * heads + min(head, heads - 1)) * width;
#pragma unroll 1
      for (int first = 0; first < rank; first += kRanks) {
        float sums[kRanks] = {};
#pragma unroll 1
        for (int column = lane * kCount; column < width; column += kCount << shift) {
          float grad[kCount];
          LoadElements(row + column, grad);
#pragma unroll
          for (int r = 0; r < kRanks; ++r) {
            if (first + r >= rank) continue;
            float factor[kCount];
            LoadElements(factors + (first + r) * int64_t{width} + column, factor);
#pragma unroll
            for (int k = 0; k < kCount; ++k) sums[r] += grad[k] * factor[k];
          }
        }
        for (int distance = 1 << shift >> 1; distance > 0; distance /= 2) {
#pragma unroll
          for (int r = 0; r < kRanks; ++r) sums[r] += __shfl_xor_sync(kFullWarp, sums[r], distance);
        }
#pragma unroll
        for (int r = 0; r < kRanks; ++r) {
          if (lane == 0 && head < heads && first + r < rank) {
            Narrow(sums[r] * share, gradients + (first + r) * int64_t{heads} + head);
          }
        }
      }
    }
  }
}

template <class T>
Status HeadFactorGradients(CudaContext& context, const TensorProductBackwardParams& p, float share) {
  const TensorProductShape& s = p.shape;
  const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
    int shift = 0;
    while (shift < 5 && kCount << shift < s.width) ++shift;
    return context.Launch(HeadFactorGradientsKernel<kCount, T>, ElementGrid(context, s.tokens * 32), p, shift, share);
  };
  const auto* grad_output = static_cast<const T*>(p.grad_output);
  return Vectorizable<kVector<T>>(s.width, grad_output, static_cast<const T*>(p.feature_factors))
             ? launch(std::integral_constant<int, kVector<T>>{})
             : launch(std::integral_constant<int, 1>{});
}

}  // namespace

Status TensorProduct(CudaContext& context, const TensorProductParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const TensorProductShape& s = p.shape;
    const float share = 1.0f / static_cast<float>(s.rank);
    const FactorSum sum{s.tokens, s.heads, s.rank, s.width, 1, s.heads, share};
    return SumProducts<T>(context, sum, p.head_factors, p.feature_factors, p.output);
  });
}

Status TensorProductBackward(CudaContext& context, const TensorProductBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const TensorProductShape& s = p.shape;
    const float share = 1.0f / static_cast<float>(s.rank);
    SAS_TRY(HeadFactorGradients<T>(context, p, share));
    const FactorSum sum{s.tokens, s.rank, s.heads, s.width, s.heads, 1, share};
    return SumProducts<T>(context, sum, p.head_factors, p.grad_output, p.grad_feature_factors);
  });
}

}  // namespace sas::cuda
