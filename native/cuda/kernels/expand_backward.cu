// One file, although a long one, because the kernel's phases and the host's plan of their shared memory must agree.
// Fused head and feature expansion, backward: each persistent block takes tiles of tokens, recomputes C1, Y and Z1 in
// shared memory, and walks back through the four maps. With gradients written d:
//   dZ1 = dZ + [Z1 > 0] (dZ W4)          dW4 = dZ^T relu(Z1)      db4 = sum dZ
//   dY  = dZ1 W3                         dW3 = dZ1^T Y            db3 = sum dZ1
//   dC1 = dY + [C1 > 0] (W2^T * dY)      dW2 = dY^T relu(C1)      db2 = sum dY      (* transposed convolution)
//   dX  = W1^T * dC1                     dW1 = dC1^T X            db1 = sum dC1
// Gradients of weights accumulate in slabs of device memory, one for every kLongestChain tiles of a block, each element
// always by the same thread, and a second kernel adds the slabs in order: the result does not depend on timing.
#include <type_traits>

#include "cuda/kernels/expand.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace expand {
namespace {

constexpr int kReduceThreads = 128;

// Where a weight gradient accumulates within a block's slab, and what it becomes. Rows are output channels, columns
// tap * inner_padded + i. In the slab: float4 [row tile][column tile, the last for the bias][lane].
struct Gradient {
  int64_t at;  // in float4
  int row_tiles, column_tiles;
  Division division;
  int rows, inner, inner_padded;
  int64_t row_stride, inner_stride, tap_stride;
  float* weight;
  float* bias;  // null: not by a product

  __host__ __device__ int64_t size() const { return int64_t{row_tiles} * (column_tiles + 1) * 32; }
};

struct Gradients {
  Gradient feature_residual, feature, second, first;
  int64_t bias_at;  // of db4 in float4: floats [slice][width]
  int slices, width;
  float* last_bias;  // db4
  int64_t size;      // of a slab in float4
  float* slabs;
};

struct Arguments : TileArguments {
  bool grad_f32;                                                 // grad_output is f32, else T
  Weights first_back, second_back, feature_back, residual_back;  // transposed
  Gradients gradients;
  int c1_remainder_at, y_remainder_at, dz_at, dy_at, dc1_at, dx_at;  // bytes in shared memory
};

// gradient [rows, columns] += a^T b over `depth` rows (a multiple of 16), a[r * a_stride + row], b[r * b_stride +
// column]; the bias gradient is the product with a column of ones. `fresh`: starts from zero.
template <bool kRelu, class T>
__device__ __forceinline__ void OuterProduct(const T* a, int a_stride, const T* b, int b_stride, int depth,
                                             const Gradient& gradient, float4* slab, bool fresh) {
  const int lane = LaneId();
  FragmentB<T> ones;
  {
    const float one = lane / 4 == 0 ? 1.0f : 0.0f;
    uint32_t r[2];
    if constexpr (sizeof(T) == 2) {
      r[0] = r[1] = Pack<T>(one, one);
    } else {
      r[0] = r[1] = FloatBits(one);
    }
    fragment::Assign(ones, r);
  }
  const Division& division = gradient.division;
  for (int unit = static_cast<int>(threadIdx.x) / 32; unit < gradient.row_tiles * division.groups; unit += kWarps) {
    const int row_tile = unit / division.groups, first = unit % division.groups * division.columns;
    const int columns = min(division.columns, gradient.column_tiles - first);
    const bool with_bias = first == 0 && gradient.bias != nullptr;
    float4* const own = slab + gradient.at + int64_t{row_tile} * (gradient.column_tiles + 1) * 32 + lane;
    const auto used = [&](int j) { return j < kColumnTiles ? j < columns : with_bias; };
    const auto place = [&](int j) { return own + (j < kColumnTiles ? first + j : gradient.column_tiles) * 32; };
    const auto earlier = [&](int j) { return fresh || !used(j) ? make_float4(0, 0, 0, 0) : *place(j); };
    // 16-bit types leave registers for reading four early, since they come from far, and the others at once.
    constexpr bool kReadAhead = sizeof(T) == 2;
    constexpr int kEarly = kReadAhead ? 4 : 0;
    float4 before[kColumnTiles + 1];
#pragma unroll
    for (int j = 0; j < kEarly; ++j) before[j] = earlier(j);
    Accumulator sum[kColumnTiles + 1] = {};  // of this tile of tokens alone: a short sum rounds less
#pragma unroll 1
    for (int step = 0; step < depth; step += kDepth<T>) {
      FragmentA<T> left;
      LoadATransposed(left, a + step * a_stride + row_tile * 16, a_stride);
      FragmentB<T> right[kColumnTiles];  // the last may be one too many
#pragma unroll
      for (int j = 0; j < kColumnTiles; j += 2) {
        if (j < columns) {
          LoadBTransposed<false, kRelu>(right[j], right[j + 1], b + step * b_stride + (first + j) * 8, b_stride);
        }
      }
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        if (j < columns) Multiply(sum[j], left, right[j]);
      }
      if (with_bias) Multiply(sum[kColumnTiles], left, ones);
    }
    if constexpr (std::is_same_v<T, float>) {
      RetakeOverflows<kColumnTiles + 1>(
          sum, depth, [&](int64_t k, int row, int half) { return a[k * a_stride + row_tile * 16 + row + 8 * half]; },
          [&](int64_t k, int column) {
            if (column >= 8 * kColumnTiles) return with_bias && column == 8 * kColumnTiles ? 1.0f : 0.0f;
            const float value = column < 8 * columns ? b[k * b_stride + first * 8 + column] : 0.0f;
            return kRelu && value < 0 ? 0.0f : value;
          });
    }
    if constexpr (kReadAhead) {
#pragma unroll
      for (int j = kEarly; j <= kColumnTiles; ++j) before[j] = earlier(j);
    }
#pragma unroll
    for (int j = 0; j <= kColumnTiles; ++j) {
      if (!used(j)) continue;
      if constexpr (!kReadAhead) before[j] = earlier(j);
      *place(j) = make_float4(before[j].x + sum[j].c[0], before[j].y + sum[j].c[1], before[j].z + sum[j].c[2],
                              before[j].w + sum[j].c[3]);
    }
  }
}

// How many neighbouring features of dZ a thread takes: 16 bytes where rows divide, else one, or a pair if pairs rotate.
template <class G>
__host__ __device__ __forceinline__ int GradientUnit(const G* source, int width, bool rotated) {
  return Vectorised(source, width) ? kVector<G> : rotated ? 2 : 1;
}

// Threads stand side by side over the units of dZ's features: how many slices of the items they form.
__host__ __device__ __forceinline__ int BiasSlices(int width, int unit, int threads) {
  const int chunks = width / unit;
  return threads / (chunks < threads ? chunks : threads);
}

// 4 or 8 neighbouring elements, `to` aligned to all of them or to 16 bytes.
template <class T, int kCount>
__device__ __forceinline__ void StoreVector(const float (&values)[kCount], T* to) {
  constexpr int kWords = kCount * static_cast<int>(sizeof(T)) / 4;
  uint32_t words[kWords];
#pragma unroll
  for (int i = 0; i < kWords; ++i) {
    if constexpr (sizeof(T) == 2) {
      words[i] = Pack<T>(values[2 * i], values[2 * i + 1]);
    } else {
      words[i] = FloatBits(values[i]);
    }
  }
  if constexpr (kWords == 2) {
    Store8(to, uint2{words[0], words[1]});
  } else {
#pragma unroll
    for (int i = 0; i < kWords; i += 4) {
      Store16(to + i * 4 / static_cast<int>(sizeof(T)), make_uint4(words[i], words[i + 1], words[i + 2], words[i + 3]));
    }
  }
}

// Loads dZ [tokens, H', width], rotated if asked, into items, zeros in the padding, and adds its column sums, in f32
// before any rounding, to the block's share of db4: that of the key's expansion vanishes (softmax ignores what all keys
// share) only if the sum is not taken of rounded terms.
template <class T, class G>
__device__ __forceinline__ void LoadGradient(const Tile& tile, const G* source, int valid, const Rotation& rotation,
                                             T* items, float* sums, bool fresh) {
  const bool vectorised = Vectorised(source, tile.width);
  const int unit = GradientUnit(source, tile.width, static_cast<bool>(rotation)), chunks = tile.width / unit;
  const int lanes = min(chunks, kThreads), slices = BiasSlices(tile.width, unit, kThreads);
  const int thread = static_cast<int>(threadIdx.x), slice = thread / lanes;
  if (slice >= slices) return;
  for (int chunk = thread % lanes; chunk < chunks; chunk += lanes) {
    float sum[kVector<G>] = {};
    for (int item = slice; item < tile.items; item += slices) {
      const int token = item / tile.sim_heads_padded, head = item % tile.sim_heads_padded;
      const bool present = token < valid && head < tile.sim_heads;
      const G* from = source + (int64_t{token} * tile.sim_heads + head) * tile.width + chunk * unit;
      T* to = items + item * tile.wide_stride + chunk * unit;
      Vector<G> vector;
      if (present && vectorised) vector.bits = Load16(from);
      float values[kVector<G>] = {};
#pragma unroll
      for (int e = 0; e < kVector<G>; ++e) {
        if (present && e < unit) values[e] = vectorised ? Widen(vector.elements[e]) : Widen(from[e]);
      }
      if (rotation && present) rotation(token, chunk * unit, unit, values);
#pragma unroll
      for (int e = 0; e < kVector<G>; ++e) sum[e] += values[e];
      if (unit == kVector<G>) {
        StoreVector(values, to);
      } else {
        Narrow(values[0], to);
        if (unit == 2) Narrow(values[1], to + 1);
      }
      if (chunk == chunks - 1) {
        for (int e = tile.width; e < tile.width_padded; ++e) Narrow(0.0f, items + item * tile.wide_stride + e);
      }
    }
    float* own = sums + slice * tile.width + chunk * unit;
#pragma unroll
    for (int e = 0; e < kVector<G>; ++e) {
      if (e < unit) own[e] = fresh ? sum[e] : own[e] + sum[e];
    }
  }
}

// Products in T, tensors in S.
template <class T, class S, bool kFeatures>
__global__ void __launch_bounds__(kThreads, 1)
    ExpandBackwardKernel(const Arguments p, const void* grad_output, const S* x, S* grad_x) {
  using Exact = std::conditional_t<std::is_same_v<T, Tf32>, float, T>;  // for what decides signs
  unsigned char* const shared = SharedMemory();
  const auto at = [&](int offset) { return reinterpret_cast<T*>(shared + offset); };
  const Tile& tile = p.tile;
  const Gradients& gradients = p.gradients;
  T *const zeros = at(p.zeros_at), *const x_rows = at(p.x_at), *const c1 = at(p.c1_at), *const y = at(p.y_at);
  T *const z1 = at(p.z1_at), *const dz = at(p.dz_at), *const dy = at(p.dy_at);
  T *const dc1 = at(p.dc1_at), *const dx = at(p.dx_at);
  const auto exact = [](T* pointer) { return reinterpret_cast<Exact*>(pointer); };
  const Operand<Exact> exact_c1{exact(c1), exact(at(p.c1_remainder_at))};
  const Operand<Exact> exact_y{exact(y), exact(at(p.y_remainder_at))};
  const int row_stride = tile.sim_heads_padded, item_count = tile.tokens * tile.sim_heads_padded;
  const uint2* const weights =
      PlaceWeights(p.packed, p.packed_size, p.resident ? reinterpret_cast<uint2*>(shared + p.weights_at) : nullptr);
  float* const biases = reinterpret_cast<float*>(shared + p.biases_at);
  float *const second_bias = biases + tile.sim_heads_padded, *const feature_bias = second_bias + tile.sim_heads_padded;
  PlaceBias(p.first_bias, tile.sim_heads, tile.sim_heads_padded, biases);
  ZeroFill(zeros, kVector<T>);
  ZeroGaps(tile, x_rows, tile.heads_padded);
  if constexpr (kFeatures) {
    PlaceBias(p.second_bias, tile.sim_heads, tile.sim_heads_padded, second_bias);
    PlaceBias(p.feature_bias, tile.width, tile.width_padded, feature_bias);
    ZeroFill(y, tile.all_items * tile.narrow_stride);
  } else {
    ZeroGaps(tile, dy, row_stride);
    ZeroGaps(tile, dc1, row_stride);
  }

  float4* slab = reinterpret_cast<float4*>(gradients.slabs) + int64_t{blockIdx.x} * gradients.size;
  int added = 0;  // tiles
  for (int64_t first = int64_t{blockIdx.x} * tile.tokens; first < p.tokens; first += int64_t{gridDim.x} * tile.tokens) {
    const int valid = static_cast<int>(min(int64_t{tile.tokens}, p.tokens - first));
    const Rotation rotation(p.angles, first);
    const bool fresh = added == 0;
    const int64_t from = first * tile.sim_heads * (kFeatures ? tile.width : tile.dim);
    const auto load_gradient = [&](const auto* gradient) {
      if constexpr (kFeatures) {
        LoadGradient(tile, gradient + from, valid, rotation, dz, reinterpret_cast<float*>(slab + gradients.bias_at),
                     fresh);
      } else {
        LoadRows(tile, gradient + from, valid, tile.sim_heads, row_stride, dy, rotation);
      }
    };
    const auto load_gradient_as_stored = [&] {
      if (p.grad_f32) {
        load_gradient(static_cast<const float*>(grad_output));
      } else {
        load_gradient(static_cast<const S*>(grad_output));
      }
    };
    // No barrier before: the tile before still reads only dX, which is not written until after the next barrier.
    LoadRows(tile, x + first * tile.heads * tile.dim, valid, tile.heads, tile.heads_padded, x_rows);
    if constexpr (!kFeatures) load_gradient_as_stored();
    if constexpr (kFeatures && sizeof(T) == 2) {
      ZeroGaps(tile, at(p.c1_remainder_at), row_stride);
      ZeroFill(at(p.y_remainder_at) + item_count * tile.narrow_stride,
               (tile.all_items - item_count) * tile.narrow_stride);
    }
    __syncthreads();
    ZeroGaps(tile, c1, row_stride);
    FirstConvolution<true, kFeatures>(tile, exact(x_rows), weights, p.first, biases, exact(zeros), exact_c1);
    __syncthreads();
    if constexpr (kFeatures) {
      SecondConvolution<true>(tile, exact_c1, weights, p.second, second_bias, exact(zeros), exact_y);
      __syncthreads();
      FirstFeatures<true>(tile, exact_y, weights, p.feature, feature_bias, exact(zeros), exact(z1));
      __syncthreads();
      load_gradient_as_stored();
      __syncthreads();
      OuterProduct<true>(dz, tile.wide_stride, z1, tile.wide_stride, tile.items, gradients.feature_residual, slab,
                         fresh);
      __syncthreads();
      // dZ1 takes the place of Z1, each pair by the thread that has just read its sign.
      RowProduct<false>(
          Operand<T>{dz}, tile.wide_stride, tile.items, weights, p.residual_back, zeros,
          [&](int item) { return Place{item * tile.wide_stride}; },
          [&](const Place& place, int e, float2 value) {
            T* to = z1 + place.to + e;
            const float2 mask = LoadPair(to), direct = LoadPair(dz + place.to + e);
            StorePair(to,
                      make_float2(direct.x + (mask.x > 0 ? value.x : 0.0f), direct.y + (mask.y > 0 ? value.y : 0.0f)));
          });
      __syncthreads();
      OuterProduct<false>(z1, tile.wide_stride, y, tile.narrow_stride, tile.items, gradients.feature, slab, fresh);
      ZeroGaps(tile, dy, row_stride);
      RowProduct<false>(
          Operand<T>{z1}, tile.wide_stride, tile.items, weights, p.feature_back, zeros,
          [&](int item) {
            const int token = item / row_stride, head = item % row_stride;
            return Place{item < item_count ? (tile.margin + token * tile.token_rows) * row_stride + head : -1};
          },
          [&](const Place& place, int d, float2 value) {
            T* to = dy + place.to + d * row_stride;
            if (d < tile.dim) Narrow(value.x, to);
            if (d + 1 < tile.dim) Narrow(value.y, to + row_stride);
          });
      __syncthreads();
      ZeroGaps(tile, dc1, row_stride);
    }
    OuterProduct<true>(dy + tile.margin * row_stride, row_stride, c1, row_stride, tile.rows, gradients.second, slab,
                       fresh);
    RowProduct<false>(
        Operand<T>{dy}, row_stride, tile.rows, weights, p.second_back, zeros,
        [&](int row) { return Place{tile.IsFeature(row) ? (row + tile.margin) * row_stride : -1}; },
        [&](const Place& place, int o, float2 value) {
          const int at = place.to + o;
          const float2 mask = LoadPair(c1 + at), direct = LoadPair(dy + at);
          StorePair(dc1 + at,
                    make_float2(direct.x + (mask.x > 0 ? value.x : 0.0f), direct.y + (mask.y > 0 ? value.y : 0.0f)));
        });
    __syncthreads();
    OuterProduct<false>(dc1 + tile.margin * row_stride, row_stride, x_rows, tile.heads_padded, tile.rows,
                        gradients.first, slab, fresh);
    RowProduct<false>(
        Operand<T>{dc1}, row_stride, tile.rows, weights, p.first_back, zeros,
        [&](int row) {
          const int at = tile.Token(row) * tile.heads_padded * tile.narrow_stride + tile.Feature(row);
          return Place{tile.IsFeature(row) ? at : -1};
        },
        [&](const Place& place, int h, float2 value) {
          T* to = dx + place.to + h * tile.narrow_stride;
          Narrow(value.x, to);
          Narrow(value.y, to + tile.narrow_stride);
        });
    __syncthreads();
    StoreItems(dx, tile.narrow_stride, valid, tile.heads, tile.heads_padded, tile.dim,
               grad_x + first * tile.heads * tile.dim);
    if (++added == kLongestChain) {
      slab += int64_t{gridDim.x} * gradients.size;
      added = 0;
    }
  }
}

// Slabs that so many tiles of tokens fill: the last round of blocks may not reach all of them.
int64_t CountSlabs(int64_t tiles, int64_t blocks) {
  const int64_t round = blocks * kLongestChain;
  return tiles / round * blocks + std::min(tiles % round, blocks);
}

// db4 [width]: one warp per column adds the slices of all slabs.
__device__ __forceinline__ void ReduceBias(const Gradients& all, int64_t slabs) {
  const int column = static_cast<int>(FirstItem() / 32), lane = LaneId();
  if (column >= all.width) return;
  float sum = 0, rest = 0;
  for (int64_t i = lane; i < slabs * all.slices; i += 32) {
    const float4* slab = reinterpret_cast<const float4*>(all.slabs) + i / all.slices * all.size + all.bias_at;
    AddCompensated(reinterpret_cast<const float*>(slab)[i % all.slices * all.width + column], sum, rest);
  }
  sum = WarpSum(sum);
  if (lane == 0) all.last_bias[column] = sum;
}

// Adds the slabs and writes the gradients in the parameters' layout. blockIdx.y says which: first, second, and
// with features those of features and db4.
__global__ void __launch_bounds__(kReduceThreads) ReduceKernel(const __grid_constant__ Gradients all, int64_t slabs) {
  if (blockIdx.y == 4) return ReduceBias(all, slabs);
  const Gradient& g = blockIdx.y == 0   ? all.first
                      : blockIdx.y == 1 ? all.second
                      : blockIdx.y == 2 ? all.feature
                                        : all.feature_residual;
  const int64_t at = FirstItem();
  if (at >= g.size()) return;
  const float4* slab = reinterpret_cast<const float4*>(all.slabs) + g.at + at;
  float4 sum{}, rest{};
#pragma unroll 4
  for (int64_t i = 0; i < slabs; ++i) {
    const float4 value = slab[i * all.size];
    AddCompensated(value.x, sum.x, rest.x);
    AddCompensated(value.y, sum.y, rest.y);
    AddCompensated(value.z, sum.z, rest.z);
    AddCompensated(value.w, sum.w, rest.w);
  }
  const int lane = static_cast<int>(at % 32), tile = static_cast<int>(at / 32 % (g.column_tiles + 1));
  const int row = static_cast<int>(at / 32 / (g.column_tiles + 1)) * 16 + lane / 4;
  const auto store = [&](int row, int column, float value) {
    const int tap = column / g.inner_padded, inner = column % g.inner_padded;
    if (row >= g.rows || inner >= g.inner) return;
    g.weight[row * g.row_stride + inner * g.inner_stride + tap * g.tap_stride] = value;
  };
  if (tile < g.column_tiles) {
    const int column = tile * 8 + lane % 4 * 2;
    store(row, column, sum.x);
    store(row, column + 1, sum.y);
    store(row + 8, column, sum.z);
    store(row + 8, column + 1, sum.w);
  } else if (lane % 4 == 0 && g.bias != nullptr) {  // the column of ones
    if (row < g.rows) g.bias[row] = sum.x;
    if (row + 8 < g.rows) g.bias[row + 8] = sum.z;
  }
}

// The transposed weights, in which a tap of the convolution runs the other way.
template <class T>
void AddBackwardWeights(const ExpandShape& s, const ExpandWeights& w, PackedMatrices* packed, Arguments* a) {
  const int heads = static_cast<int>(s.heads), sim_heads = static_cast<int>(s.sim_heads);
  const int taps = static_cast<int>(s.kernel_size);
  PackedMatrix matrix{};
  matrix.source = w.head_weight;  // [o][h][t], columns h, inner o
  matrix.offset = taps - 1;
  matrix.columns = heads;
  matrix.column_stride = taps;
  matrix.inner = sim_heads;
  matrix.inner_stride = s.heads * taps;
  matrix.tap_stride = -1;
  a->first_back = Weights(packed->Add<T>(matrix, taps));
  matrix.source = w.head_residual_weight;  // [o][p][t], columns p, inner o
  matrix.columns = sim_heads;
  matrix.inner_stride = s.sim_heads * taps;
  a->second_back = Weights(packed->Add<T>(matrix, taps));
  if (!s.features) return;
  PackedMatrix plain{};
  plain.source = w.feature_weight;  // [e][d], columns d, inner e
  plain.columns = static_cast<int>(s.head_dim);
  plain.column_stride = 1;
  plain.inner = static_cast<int>(s.sim_head_dim);
  plain.inner_stride = s.head_dim;
  a->feature_back = Weights(packed->Add<T>(plain, 1));
  plain.source = w.feature_residual_weight;  // [e][f], columns f, inner e
  plain.columns = static_cast<int>(s.sim_head_dim);
  plain.inner_stride = s.sim_head_dim;
  a->residual_back = Weights(packed->Add<T>(plain, 1));
}

// Where the weight gradients accumulate.
Gradients MakeGradients(const ExpandBackwardParams& p, int threads) {
  const ExpandShape& s = p.shape;
  const int heads = static_cast<int>(s.heads), sim_heads = static_cast<int>(s.sim_heads);
  const int dim = static_cast<int>(s.head_dim), width = static_cast<int>(s.sim_head_dim);
  const int taps = static_cast<int>(s.kernel_size);
  Gradients all{};
  const auto add = [&](int rows, int inner, int taps, float* weight, float* bias) {
    Gradient g{};
    g.at = all.size;
    g.rows = rows;
    g.row_tiles = Ceil(rows, 16);
    g.inner = inner;
    g.inner_padded = Round(inner, 8);
    g.column_tiles = taps * g.inner_padded / 8;
    g.division = Divide(g.row_tiles, g.column_tiles, threads / 32);
    g.row_stride = int64_t{inner} * taps;
    g.inner_stride = taps;
    g.tap_stride = 1;
    g.weight = weight;
    g.bias = bias;
    all.size += g.size();
    return g;
  };
  const ExpandGradients& out = p.gradients;
  all.first = add(sim_heads, heads, taps, out.head_weight, out.head_bias);
  all.second = add(sim_heads, sim_heads, taps, out.head_residual_weight, out.head_residual_bias);
  if (s.features) {
    all.feature = add(width, dim, 1, out.feature_weight, out.feature_bias);
    all.feature_residual = add(width, width, 1, out.feature_residual_weight, nullptr);
    all.bias_at = all.size;
    all.size += CeilDiv(int64_t{threads} * 8 + width, 4);  // slices * width is at most threads * kVector<G> + width
  }
  return all;
}

template <class T, class S>
Status Run(CudaContext& context, const ExpandBackwardParams& p) {
  const ExpandShape& s = p.shape;
  const auto kernel = s.features ? ExpandBackwardKernel<T, S, true> : ExpandBackwardKernel<T, S, false>;
  int threads = 0;
  SAS_TRY(context.ThreadsOf(kernel, kMaxThreads, &threads));
  Arguments arguments{};
  if (p.rope) SAS_TRY(MakeAngles(context, *p.rope, true, &arguments.angles));
  PackedMatrices packed;
  AddForwardWeights<T>(s, p.weights, true, &packed, &arguments);
  AddBackwardWeights<T>(s, p.weights, &packed, &arguments);

  // A tile adds up its rows, its items, and a slice of its items for db4, in one chain each.
  const auto longest_chain = [](const Tile& tile, int slices) {
    return std::max(std::max(tile.rows, tile.items) / kDepth<T>, Ceil(tile.items, slices));
  };
  // What lies in one place: dX where Y or, without features, C1 was; the remainders of C1, then Z1, then dZ1, then dC1;
  // the remainders of Y, then dZ, then dY.
  const auto layout = [&](Arguments* a, int tokens) {
    const Tile tile = MakeTile<T>(s, tokens);
    if (tokens > 1 && longest_chain(tile, a->gradients.slices) > kLongestChain) return INT64_MAX;
    const int64_t item = sizeof(T), rows = int64_t{tile.all_rows} * tile.sim_heads_padded * item;
    const int64_t narrow = int64_t{tile.all_items} * tile.narrow_stride * item;
    const int64_t wide = int64_t{tile.all_items} * tile.wide_stride * item;
    SharedLayout shared;
    a->tile = tile;
    a->zeros_at = shared.Take(16);
    a->biases_at = shared.Take(BiasBytes(tile));
    a->weights_at = a->resident ? shared.Take(packed.bytes()) : 0;
    a->x_at = shared.Take(int64_t{tile.all_rows} * tile.heads_padded * item);
    if (s.features) {
      a->c1_at = shared.Take(rows);
      a->y_at = a->dx_at = shared.Take(narrow);
      a->c1_remainder_at = a->z1_at = a->dc1_at = shared.Take(std::max(wide, rows));
      a->y_remainder_at = a->dz_at = a->dy_at = shared.Take(std::max({wide, rows, narrow}));
    } else {
      a->c1_at = a->dx_at = shared.Take(std::max(rows, narrow));
      a->dc1_at = shared.Take(rows);
      a->dy_at = shared.Take(rows);
    }
    return shared.bytes();
  };
  const auto phases = [&](Arguments* a, int tokens, const auto& visit) {
    const Tile tile = MakeTile<T>(s, tokens);
    for (Weights* w : {&a->first, &a->first_back, &a->second_back}) visit(w, tile.rows);
    if (!s.features) return;
    visit(&a->second, tile.rows);
    for (Weights* w : {&a->feature, &a->feature_back, &a->residual_back}) visit(w, tile.items);
  };
  arguments.grad_f32 = p.grad_dtype == DType::kF32;
  arguments.gradients = MakeGradients(p, threads);
  Gradients& gradients = arguments.gradients;
  gradients.width = static_cast<int>(s.sim_head_dim);
  gradients.last_bias = p.gradients.feature_residual_bias;
  const bool rotated = p.rope.has_value();
  const int unit = arguments.grad_f32 ? GradientUnit(static_cast<const float*>(p.grad_output), gradients.width, rotated)
                                      : GradientUnit(static_cast<const S*>(p.grad_output), gradients.width, rotated);
  gradients.slices = BiasSlices(gradients.width, unit, threads);
  Grid grid;
  SAS_TRY(Prepare<T>(context, s, KeyOf<T>(Form::kExpandBackward, s, p.weights), packed, layout, phases, gradients.size,
                     threads, &arguments, &grid));
  const int64_t slabs = CountSlabs(CeilDiv(s.tokens, arguments.tile.tokens), grid.blocks.x);
  gradients.slabs = context.Take<float>(slabs * gradients.size * 4);
  SAS_TRY(
      context.Launch(kernel, grid, arguments, p.grad_output, static_cast<const S*>(p.x), static_cast<S*>(p.grad_x)));

  int64_t items = std::max(gradients.first.size(), gradients.second.size());
  if (s.features) {
    const int64_t bias_items = int64_t{gradients.width} * 32;
    items = std::max({items, gradients.feature.size(), gradients.feature_residual.size(), bias_items});
  }
  const Grid reduce{dim3(static_cast<unsigned>(CeilDiv(items, kReduceThreads)), s.features ? 5u : 2u), kReduceThreads};
  return context.Launch(ReduceKernel, reduce, gradients, slabs);
}

}  // namespace
}  // namespace expand

Status ExpandBackward(CudaContext& context, const ExpandBackwardParams& p) {
  if (p.kept.head_relu != nullptr || p.kept.heads != nullptr) {
    return Status(StatusCode::kInternal, "nothing is kept for the backward pass on this device");
  }
  // Fewer heads than the columns of one tensor-core tile: f32 costs nothing that shows, and sums of so few terms would
  // not average the rounding of 16-bit operands out.
  const bool few_heads = p.shape.sim_heads < 8;
  return expand::DispatchProducts(context, p.dtype, [&]<class T>(T*) {
    if constexpr (sizeof(T) == 2) {
      if (few_heads) return expand::Run<float, T>(context, p);
    }
    return expand::Run<T, T>(context, p);
  });
}

}  // namespace sas::cuda
