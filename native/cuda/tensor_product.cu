// The tensor product of factors (Tensor Product Attention, arXiv 2501.06425). Of each token, with head factors A [R, H]
// and feature factors B [R, D]: output = A^T B / R. Backward, with gradOutput G [H, D]: gradA = B G^T / R, gradB = A G
// / R.
#include <type_traits>

#include "cuda/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// Of each token: output [rows, width] = 1/R * W B, with B [depth, width] in rows and element (row, i) of W at
// weights[row * row_step + i * depth_step].
struct Product {
  int64_t tokens, rows, depth, width;
  int64_t row_step, depth_step;
  float share;  // 1/R
};

// A thread has kCount columns of kRows rows: B is read once for all of them.
constexpr int kRows = 4;

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads) ProductKernel(Product p, const T* weights, const T* b, T* output) {
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
Status Multiply(CudaContext& context, const Product& p, const void* weights, const void* b, void* output) {
  const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
    const int64_t items = p.tokens * CeilDiv(p.rows, kRows) * (p.width / kCount);
    return context.Launch(ProductKernel<kCount, T>, ElementGrid(context, items), p, static_cast<const T*>(weights),
                          static_cast<const T*>(b), static_cast<T*>(output));
  };
  return Vectorizable<kVector<T>>(p.width, static_cast<const T*>(b), static_cast<T*>(output))
             ? launch(std::integral_constant<int, kVector<T>>{})
             : launch(std::integral_constant<int, 1>{});
}

// gradA. A row of G belongs to `lanes` neighbouring lanes, a power of 2, and is read once for kRanks rows of B.
constexpr int kRanks = 4;

template <int kCount, class T>
__global__ void __launch_bounds__(kElementThreads) HeadFactorGradientsKernel(TensorProductBackwardParams p, int lanes) {
  const TensorProductShape& s = p.shape;
  const int64_t rows = s.tokens * s.heads;
  const int lane = LaneId() % lanes, rows_per_warp = 32 / lanes;
  const float share = 1.0f / static_cast<float>(s.rank);
  // Lanes beyond the last row compute it too: whole warps take part in the exchange.
  for (int64_t first = FirstItem() / 32 * rows_per_warp; first < rows; first += ItemStride() / 32 * rows_per_warp) {
    const int64_t row = min(first + LaneId() / lanes, rows - 1), token = row / s.heads, head = row % s.heads;
    const bool stores = lane == 0 && first + LaneId() / lanes < rows;
    const T* grad_output = static_cast<const T*>(p.grad_output) + row * s.width;
    for (int64_t rank = 0; rank < s.rank; rank += kRanks) {
      const int ranks = static_cast<int>(min(int64_t{kRanks}, s.rank - rank));
      const T* factors = static_cast<const T*>(p.feature_factors) + (token * s.rank + rank) * s.width;
      T* gradients = static_cast<T*>(p.grad_head_factors) + (token * s.rank + rank) * s.heads + head;
      float sums[kRanks] = {};
#pragma unroll 1
      for (int64_t column = lane * kCount; column < s.width; column += lanes * kCount) {
        float grad[kCount];
        LoadElements(grad_output + column, grad);
#pragma unroll
        for (int r = 0; r < kRanks; ++r) {
          if (r >= ranks) continue;
          float factor[kCount];
          LoadElements(factors + r * s.width + column, factor);
#pragma unroll
          for (int k = 0; k < kCount; ++k) sums[r] += grad[k] * factor[k];
        }
      }
#pragma unroll
      for (int r = 0; r < kRanks; ++r) {
        for (int distance = lanes / 2; distance > 0; distance /= 2) {
          sums[r] += __shfl_xor_sync(kFullWarp, sums[r], distance);
        }
        if (stores && r < ranks) Narrow(sums[r] * share, gradients + r * s.heads);
      }
    }
  }
}

template <class T>
Status HeadFactorGradients(CudaContext& context, const TensorProductBackwardParams& p) {
  const TensorProductShape& s = p.shape;
  const auto launch = [&]<int kCount>(std::integral_constant<int, kCount>) {
    int lanes = 1;
    while (lanes < 32 && lanes * kCount < s.width) lanes *= 2;
    return context.Launch(HeadFactorGradientsKernel<kCount, T>, ElementGrid(context, s.tokens * s.heads * lanes), p,
                          lanes);
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
    const Product product{s.tokens, s.heads, s.rank, s.width, 1, s.heads, share};
    return Multiply<T>(context, product, p.head_factors, p.feature_factors, p.output);
  });
}

Status TensorProductBackward(CudaContext& context, const TensorProductBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const TensorProductShape& s = p.shape;
    const float share = 1.0f / static_cast<float>(s.rank);
    SAS_TRY(HeadFactorGradients<T>(context, p));
    const Product product{s.tokens, s.rank, s.heads, s.width, s.heads, 1, share};
    return Multiply<T>(context, product, p.head_factors, p.grad_output, p.grad_feature_factors);
  });
}

}  // namespace sas::cuda
