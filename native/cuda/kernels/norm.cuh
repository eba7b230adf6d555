// The kernels of layer and RMS normalisation. kCentred: with mean and bias (layer normalisation); else they are absent,
// and their pointers null.
#pragma once

#include "cuda/device/column_sums.cuh"

namespace sas::cuda::norm {

// How a row is divided: kCount neighbouring elements at a time, over kWarps warps, in at most kHeld steps, which stay
// in registers; rows with kHeld = 0 may be of any width and are read again for every use.
template <int kCount_, int kWarps_, int kHeld_>
struct Layout {
  static constexpr int kCount = kCount_, kWarps = kWarps_, kHeld = kHeld_;
  static constexpr int kWidth = 32 * kCount * kWarps * kHeld;  // at most
  // Of the backward kernel, which has two rows and their sums in registers.
  static constexpr int kBackwardWarps = kWarps == 1 ? 4 : kWarps;  // per block
  using Group = RowGroup<kWarps>;

  // Calls body(step, column) for the thread's columns.
  template <class Body>
  static __device__ __forceinline__ void ForColumns(int width, const Body& body) {
    const int first = Group::Rank() * kCount;
    constexpr int kStride = Group::kThreads * kCount;
    if constexpr (kHeld > 0) {
#pragma unroll
      for (int step = 0; step < kHeld; ++step) {
        if (const int column = first + step * kStride; column < width) body(step, column);
      }
    } else {
      for (int column = first; column < width; column += kStride) body(0, column);
    }
  }
};

// sum += term, with what it cannot hold in `rest` where a thread has any number of terms of a row.
template <class Layout>
__device__ __forceinline__ void AddTerm(float term, float& sum, float& rest) {
  if constexpr (Layout::kHeld == 0) {
    AddCompensated(term, sum, rest);
  } else {
    static_assert(Layout::kHeld * Layout::kCount <= kLongestChain);
    sum += term;
  }
}

// Blocks of the backward kernel that a multiprocessor has room for.
template <class Layout, class T>
constexpr int kBackwardBlocks = Layout::kWarps > 1 ? 1
                                : sizeof(T) == 2   ? 3
                                                   : 2;

// A thread's part of a row [width]: read once and held, or read where it is needed.
template <class Layout, class T>
class Row {
 public:
  __device__ __forceinline__ Row(const T* row, int width) : row_(row) {
    if constexpr (Layout::kHeld > 0) {
      Layout::ForColumns(width, [&](int step, int column) { LoadWords(row_ + column, held_[step]); });
    }
  }
  // x = elements column .. column + kCount - 1.
  __device__ __forceinline__ void Get(int step, int column, float (&x)[Layout::kCount]) const {
    if constexpr (Layout::kHeld > 0) {
      Unpack(held_[step], x);
    } else {
      LoadElements(row_ + column, x);
    }
  }

 private:
  const T* row_;
  Words<Layout::kCount, T> held_[Layout::kHeld > 0 ? Layout::kHeld : 1];
};

// 1 / sqrt(variance + eps), variance = the mean over x [width] of (x - mean)^2 minus rest^2; `squares` is the plain sum
// of the squares. Where that has overflowed, or has vanished and eps does not hide it, the differences are scaled by a
// power of two before they are squared; x is read again for it. By the whole group.
template <class Group, class T>
__device__ __forceinline__ float InverseDeviation(const T* x, int width, float mean, float squares, float rest,
                                                  float eps, float* shared) {
  float factor = 1;
  if (squares == INFINITY || (squares < 0x1p-100f && eps < 0x1p-60f)) {
    float largest = 0;
#pragma unroll 1
    for (int i = Group::Rank(); i < width; i += Group::kThreads) largest = fmaxf(largest, fabsf(Widen(x[i]) - mean));
    largest = Group::Max(largest, shared);
    if (largest > 0 && largest < INFINITY) {
      const int exponent = static_cast<int>(FloatBits(largest) >> 23) - 127;
      factor = BitsToFloat(static_cast<uint32_t>(127 - max(-75, min(exponent, 126))) << 23);
      float sum = 0, surplus = 0;
#pragma unroll 1
      for (int i = Group::Rank(); i < width; i += Group::kThreads) {
        const float scaled = (Widen(x[i]) - mean) * factor;
        AddCompensated(scaled * scaled, sum, surplus);
      }
      squares = Group::Sum(sum, shared);
      rest *= factor;
    }
  }
  const float variance = squares / static_cast<float>(width) - rest * rest;
  return factor / sqrtf((variance < 0 ? 0.0f : variance) + eps * factor * factor);
}

// With any number of blocks at a time: ptxas else spills for the sake of one more.
template <bool kCentred, class Layout, class T>
__global__ void __launch_bounds__(kElementThreads > 32 * Layout::kWarps ? kElementThreads : 32 * Layout::kWarps, 1)
    Kernel(LayerNormParams p) {
  using Group = typename Layout::Group;
  constexpr int kCount = Layout::kCount;
  float* shared = reinterpret_cast<float*>(SharedMemory());
  const int width = static_cast<int>(p.width);
  const float size = static_cast<float>(width);
  for (int64_t row = Group::FirstRow(); row < p.rows; row += Group::RowStride()) {
    const T* const data = static_cast<const T*>(p.x) + row * p.width;
    const Row<Layout, T> x(data, width);
    const auto for_values = [&](const auto& body) {
      Layout::ForColumns(width, [&](int step, int column) {
        float value[kCount];
        x.Get(step, column, value);
#pragma unroll
        for (int k = 0; k < kCount; ++k) body(value[k]);
      });
    };
    // Rounded to f32, a mean far from 0 is off by too much of the deviation: what is measured from it has a mean of its
    // own, `rest`, that is taken off as well.
    float mean = 0, rest = 0, moments[kCentred ? 2 : 1] = {}, surplus[2] = {};  // squares, values
    if constexpr (kCentred) {
      float sum = 0, left = 0;
      for_values([&](float value) { AddTerm<Layout>(value, sum, left); });
      mean = Group::Sum(sum, shared) / size;
    }
    for_values([&](float value) {
      AddTerm<Layout>((value - mean) * (value - mean), moments[0], surplus[0]);
      if constexpr (kCentred) AddTerm<Layout>(value - mean, moments[1], surplus[1]);
    });
    Group::Sum(moments, shared);
    if constexpr (kCentred) rest = moments[1] / size;
    const float rstd = InverseDeviation<Group>(data, width, mean, moments[0], rest, p.eps, shared);
    const float normal_rest = rest * rstd;
    T* output = static_cast<T*>(p.output) + row * p.width;
    Layout::ForColumns(width, [&](int step, int column) {
      float value[kCount], weight[kCount], bias[kCount] = {};
      x.Get(step, column, value);
      LoadElements(p.weight + column, weight);
      if constexpr (kCentred) LoadElements(p.bias + column, bias);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        value[k] = ((value[k] - mean) * rstd - normal_rest) * weight[k] + bias[k];
      }
      StoreElements(output + column, value);
    });
    if (Group::Rank() == 0) {
      if constexpr (kCentred) p.mean[row] = rest == rest ? mean + rest : mean;  // an infinite mean has none
      p.rstd[row] = rstd;
    }
  }
}

// Blocks of the backward kernel are summed in groups: of how many blocks, for `blocks` of them.
__host__ __device__ __forceinline__ unsigned GroupSize(unsigned blocks) {
  unsigned size = 1;
  while (size * size < blocks) ++size;
  return size;
}

// By the last block: out(column, sums of x [rows, width]), kCount columns at a time. At most 64 rows: one sum each.
template <int kCount, class Out>
__device__ __forceinline__ void AddRows(const float* x, unsigned rows, int width, const Out& out) {
  for (int column = static_cast<int>(threadIdx.x) * kCount; column < width;
       column += static_cast<int>(blockDim.x) * kCount) {
    float sum[kCount];
    SumRows(x + column, 0, rows, 1, width, sum);
    out(column, sum);
  }
}

// Of a thread, for OwnTotals: its sums over rows.
template <bool kCentred, class Layout>
constexpr int kSumTotals = (kCentred ? 2 : 1) * Layout::kHeld* Layout::kCount / 4;

// gradX of every row, and the block's sums over rows, partials [gridDim.x, kSums, width]: gradWeight and with kCentred
// gradBias. Each thread keeps the sums of its columns in registers from row to row, and kSumTotals of them if it has
// more rows than kLongestChain. The last of every group of blocks adds up the group, group_sums [groups, kSums, width],
// and the last of all the groups; arrived [1 + groups].
//
// With kHeld = 0 there are no sums, and with kCentred `partials` [rows] is what SumsKernel needs of a row: the mean of
// what is measured from p.mean.
template <bool kCentred, class Layout, class T>
__global__ void __launch_bounds__(32 * Layout::kBackwardWarps, (kBackwardBlocks<Layout, T>))
    BackwardKernel(LayerNormBackwardParams p, float4* totals, float* partials, float* group_sums, unsigned* arrived) {
  using Group = typename Layout::Group;
  constexpr int kCount = Layout::kCount, kHeld = Layout::kHeld, kSums = kCentred ? 2 : 1;
  float* shared = reinterpret_cast<float*>(SharedMemory());
  const int width = static_cast<int>(p.width);
  const float size = static_cast<float>(width);
  constexpr int kFours = kSumTotals<kCentred, Layout>, kThreads = 32 * Layout::kBackwardWarps;
  float sums[kFours > 0 ? kFours : 1][4] = {};
  const auto sum_of = [&](int step, int sum, int k) -> float& {
    const int i = (step * kSums + sum) * kCount + k;
    return sums[i / 4][i % 4];
  };
  const int group_rows = static_cast<int>((p.rows - Group::FirstRow() + Group::RowStride() - 1) / Group::RowStride());
  int added = 0;  // rows
  for (int64_t row = Group::FirstRow(); row < p.rows; row += Group::RowStride(), ++added) {
    const Row<Layout, T> grad_output(static_cast<const T*>(p.grad_output) + row * p.width, width);
    const Row<Layout, T> x(static_cast<const T*>(p.x) + row * p.width, width);
    const float mean = kCentred ? p.mean[row] : 0.0f, rstd = p.rstd[row];
    // Of g * xhat, of g = gradOutput * weight, and of xhat: what the mean, rounded to f32, has left.
    float means[kCentred ? 3 : 1] = {}, surplus[3] = {};
    Layout::ForColumns(width, [&](int step, int column) {
      float grad[kCount], value[kCount], weight[kCount];
      grad_output.Get(step, column, grad);
      x.Get(step, column, value);
      LoadElements(p.weight + column, weight);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        const float normal = (value[k] - mean) * rstd, weighted = grad[k] * weight[k];
        AddTerm<Layout>(weighted * normal, means[0], surplus[0]);
        if constexpr (kCentred) {
          AddTerm<Layout>(weighted, means[1], surplus[1]);
          AddTerm<Layout>(normal, means[2], surplus[2]);
        }
      }
    });
    Group::Sum(means, shared);
#pragma unroll
    for (float& mean_of_row : means) mean_of_row /= size;
    float mean_grad = 0, rest = 0;
    if constexpr (kCentred) {
      mean_grad = means[1];
      rest = means[2];
      means[0] -= rest * mean_grad;
      if (kHeld == 0 && Group::Rank() == 0) partials[row] = rest;
    }
    T* grad_x = static_cast<T*>(p.grad_x) + row * p.width;
    Layout::ForColumns(width, [&](int step, int column) {
      float grad[kCount], value[kCount], weight[kCount];
      grad_output.Get(step, column, grad);
      x.Get(step, column, value);
      LoadElements(p.weight + column, weight);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        const float normal = (value[k] - mean) * rstd - rest;
        value[k] = (grad[k] * weight[k] - mean_grad - normal * means[0]) * rstd;
        if constexpr (kHeld > 0) {
          sum_of(step, 0, k) += grad[k] * normal;
          if constexpr (kCentred) sum_of(step, 1, k) += grad[k];
        }
      }
      if constexpr (kCentred) {
        if (p.residual != nullptr) {
          LoadElements(static_cast<const T*>(p.residual) + row * p.width + column, grad);
#pragma unroll
          for (int k = 0; k < kCount; ++k) value[k] += grad[k];
        }
      }
      StoreElements(grad_x + column, value);
    });
    if (const TotalStep step(totals, added, group_rows); kHeld > 0 && step.moves) {
      float4* const own = OwnTotals<kThreads>(totals, kFours);
      const auto four_of = [&](int i) -> float(&)[4] { return sums[i]; };
      MoveFoursIntoTotals<kThreads, kFours>(step, four_of, own);
    }
  }
  if constexpr (kHeld > 0) {
    float* target = partials + int64_t{blockIdx.x} * kSums * width;
    // Where every warp has rows of its own, they add up in shared memory [kSums, width], one after another.
    constexpr int kTurns = Layout::kWarps == 1 ? Layout::kBackwardWarps : 1;
    const int own_turn = kTurns == 1 ? 0 : static_cast<int>(threadIdx.x) / 32;
    for (int turn = 0; turn < kTurns; ++turn) {
      if (turn == own_turn) {
        Layout::ForColumns(width, [&](int step, int column) {
#pragma unroll
          for (int sum = 0; sum < kSums; ++sum) {
            float* so_far = shared + sum * width + column;
            float value[kCount];
#pragma unroll
            for (int k = 0; k < kCount; ++k) value[k] = sum_of(step, sum, k) + (turn > 0 ? so_far[k] : 0.0f);
            StoreElements(turn == kTurns - 1 ? target + sum * width + column : so_far, value);
          }
        });
      }
      if constexpr (kTurns > 1) __syncthreads();
    }
    auto* const flag = reinterpret_cast<unsigned*>(shared);
    const int all = kSums * width;
    const unsigned size = GroupSize(gridDim.x), groups = (gridDim.x + size - 1) / size, group = blockIdx.x / size;
    const unsigned members = min(size, gridDim.x - group * size);
    if (!LastToArrive(arrived + 1 + group, members, flag)) return;
    AddRows<kCount>(partials + int64_t{group} * size * all, members, all, [&](int column, const float(&sum)[kCount]) {
      StoreElements(group_sums + int64_t{group} * all + column, sum);
    });
    if (!LastToArrive(arrived, groups, flag)) return;
    AddRows<kCount>(group_sums, groups, all, [&](int column, const float(&sum)[kCount]) {
      StoreElements(column < width ? p.grad_weight + column : p.grad_bias + (column - width), sum);
    });
  }
}

// The sums for rows too wide for registers: a thread has one column of one of gridDim.y partitions of the rows, at most
// 64; partials [gridDim.y, kSums, width], arrived [gridDim.x]. rests [rows] with kCentred.
template <bool kCentred, class T>
__global__ void __launch_bounds__(kElementThreads)
    SumsKernel(LayerNormBackwardParams p, const float* rests, float* partials, unsigned* arrived) {
  constexpr int kSums = kCentred ? 2 : 1;
  const int64_t column = FirstItem();
  const bool present = column < p.width;
  float sums[2] = {}, surplus[2] = {};
  const int64_t end = present ? p.rows * (blockIdx.y + 1) / gridDim.y : 0;
#pragma unroll 4
  for (int64_t row = p.rows * blockIdx.y / gridDim.y; row < end; ++row) {
    const float grad = Widen(static_cast<const T*>(p.grad_output)[row * p.width + column]);
    const float value = Widen(static_cast<const T*>(p.x)[row * p.width + column]);
    const float mean = kCentred ? p.mean[row] : 0.0f, rest = kCentred ? rests[row] : 0.0f;
    AddCompensated(grad * ((value - mean) * p.rstd[row] - rest), sums[0], surplus[0]);
    if constexpr (kCentred) AddCompensated(grad, sums[1], surplus[1]);
  }
#pragma unroll
  for (int sum = 0; sum < kSums; ++sum) {
    if (present) partials[(int64_t{blockIdx.y} * kSums + sum) * p.width + column] = sums[sum];
  }
  if (!LastToArrive(arrived + blockIdx.x, gridDim.y, reinterpret_cast<unsigned*>(SharedMemory())) || !present) return;
#pragma unroll
  for (int sum = 0; sum < kSums; ++sum) {
    float total[1];
    SumRows(partials + sum * p.width + column, 0, gridDim.y, 1, kSums * p.width, total);
    (sum == 0 ? p.grad_weight : p.grad_bias)[column] = total[0];
  }
}

// Calls body with the Layout for rows of `width`.
template <class Body>
Status DispatchLayout(int64_t width, bool vectorizable, const Body& body) {
  using Short = Layout<4, 1, 8>;
  using Long = Layout<4, 16, 4>;
  using ShortScalar = Layout<1, 1, 8>;
  using Any = Layout<1, 16, 0>;
  if (width > INT32_MAX) return Status(StatusCode::kShape, "rows of up to 2147483647 elements are supported");
  if (vectorizable && width <= Short::kWidth) return body(Short{});
  if (vectorizable && width <= Long::kWidth) return body(Long{});
  if (width <= ShortScalar::kWidth) return body(ShortScalar{});
  return body(Any{});
}

template <bool kCentred>
Status Forward(CudaContext& context, const LayerNormParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const bool vectorizable =
        Vectorizable<4>(p.width, static_cast<const T*>(p.x), static_cast<const T*>(p.output), p.weight, p.bias);
    return DispatchLayout(p.width, vectorizable, [&]<class Layout>(Layout) {
      return context.Launch(Kernel<kCentred, Layout, T>, RowGrid<Layout::kWarps>(p.rows), p);
    });
  });
}

template <bool kCentred>
Status Backward(CudaContext& context, const LayerNormBackwardParams& p) {
  constexpr int64_t kSums = kCentred ? 2 : 1;
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const bool vectorizable = Vectorizable<4>(p.width, static_cast<const T*>(p.grad_output), static_cast<const T*>(p.x),
                                              static_cast<const T*>(p.grad_x), static_cast<const T*>(p.residual),
                                              p.weight, p.grad_weight, p.grad_bias);
    return DispatchLayout(p.width, vectorizable, [&]<class Layout>(Layout) -> Status {
      if constexpr (Layout::kHeld > 0) {
        constexpr int kWarps = Layout::kBackwardWarps;
        constexpr int64_t kRows = Layout::kWarps == 1 ? kWarps : 1;  // of a block at a time
        const auto blocks = static_cast<unsigned>(
            std::min<int64_t>(CeilDiv(p.rows, kRows), kBackwardBlocks<Layout, T> * context.multiprocessors()));
        auto* partials = context.Take<float>(blocks * kSums * p.width);
        const bool many = CeilDiv(p.rows, int64_t{blocks} * kRows) > kLongestChain;
        constexpr int64_t kTotals = 32 * kWarps * kTotalParts * kSumTotals<kCentred, Layout>;  // of a block
        auto* totals = many ? context.Take<float4>(blocks * kTotals) : nullptr;
        auto* group_sums = context.Take<float>(CeilDiv(blocks, GroupSize(blocks)) * kSums * p.width);
        const size_t shared_bytes = (kRows > 1 ? kSums * p.width : 3 * kWarps) * sizeof(float);
        return context.Launch(BackwardKernel<kCentred, Layout, T>, Grid{dim3(blocks), 32 * kWarps, shared_bytes}, p,
                              totals, partials, group_sums, context.arrivals());
      } else {
        float* rests = kCentred ? context.Take<float>(p.rows) : nullptr;
        Grid grid = RowGrid<Layout::kWarps>(p.rows);
        grid.shared_bytes = 3 * Layout::kWarps * sizeof(float);
        SAS_TRY(context.Launch(BackwardKernel<kCentred, Layout, T>, grid, p, nullptr, rests, nullptr, nullptr));
        const int64_t blocks = CeilDiv(p.width, kElementThreads);
        const int64_t partitions = blocks > CudaContext::kArrivals ? 1 : std::clamp<int64_t>(p.rows / 16, 1, 64);
        auto* partials = context.Take<float>(partitions * kSums * p.width);
        const Grid sums{dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(partitions)), kElementThreads,
                        sizeof(unsigned)};
        return context.Launch(SumsKernel<kCentred, T>, sums, p, rests, partials, context.arrivals());
      }
    });
  });
}

}  // namespace sas::cuda::norm
