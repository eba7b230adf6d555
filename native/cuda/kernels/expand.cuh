// One file, although a long one, because the host's plan and the device's loads must agree: what the expansion's
// forward and backward kernels share. How a tile of tokens lies in shared memory, weights packed as fragments, and the
// two products everything is made of.
//
// A tile holds some tokens of X in "rows": [feature row][head], heads contiguous and padded to a multiple of 8. Token i
// has rows from margin + i * token_rows on, with zero rows (at least the convolution's margin) before, between and
// after. A tap of the convolution is then a row offset, and taps x heads is one contiguous K axis over overlapping
// rows:
//   C[r, o] = sum over j < k * heads_padded of A[r * heads_padded + j] * W[o, j],
// a plain product with no copy per tap. Rows between tokens give results that are dropped. What comes after the
// convolutions lies in "items": [token, simulated head][feature], one item per row.
#pragma once

#include <algorithm>
#include <string>
#include <type_traits>

#include "cuda/context.h"
#include "cuda/device/elementwise.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/kernels/rope.cuh"

namespace sas::cuda::expand {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kColumnTiles = 6;  // 8 columns each, per warp and pass
// 16 rows each. Registers: kRowTiles * kColumnTiles * 4 accumulators.
template <class T>
constexpr int kRowTiles = sizeof(T) == 2 ? 4 : 2;

constexpr int Ceil(int a, int b) { return (a + b - 1) / b; }
constexpr int Round(int a, int b) { return Ceil(a, b) * b; }
// A row length of at least `width` elements whose rows fall into different banks: an odd number of 16-byte units.
template <class T>
int PaddedStride(int width) {
  const int units = Ceil(width, kVector<T>);
  return (units % 2 == 1 ? units : units + 1) * kVector<T>;
}

// ---- weights

// A matrix B [depth, columns] as fragments in the order in which lanes load them: uint2 [column tile][step][lane].
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

constexpr int kMostMatrices = 10;
struct PackedMatrices {
  PackedMatrix matrices[kMostMatrices];
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

// Rounds the weights to T and packs them; scratch memory of the operation. Defined in expand.cu for every type of
// products.
template <class T>
Status PackWeights(CudaContext& context, const PackedMatrices& matrices, uint2** packed);

// What a kernel needs of a packed matrix.
struct Weights {
  int64_t target;
  int64_t remainder_target;  // of the remainder's, if it is packed
  int column_tiles, depth, steps;

  Weights() = default;
  explicit Weights(const PackedMatrix& m)
      : target(m.target), remainder_target(0), column_tiles(m.column_tiles), depth(m.depth), steps(m.steps) {}
};

template <class T>
__device__ __forceinline__ void LoadPackedB(FragmentB<T>& b, const uint2* packed) {
  const uint2 pair = *packed;
  const uint32_t r[2] = {pair.x, pair.y};
  fragment::Assign(b, r);
}

// ---- the tile

struct Tile {
  int tokens;                          // per tile
  int heads, sim_heads, dim, width;    // H, H', D, D'
  int margin;                          // (k - 1) / 2
  int heads_padded, sim_heads_padded;  // multiples of 8
  int dim_padded, width_padded;        // multiples of 8
  int token_rows;                      // dim_padded + margin
  int rows;                            // tokens * token_rows, a multiple of 16
  int all_rows;                        // with the margins, and one more that fragments may touch
  int items, all_items;                // tokens * sim_heads_padded; a multiple of 16, and likewise
  int narrow_stride, wide_stride;      // of items of dim and width

  // The feature of a row, and its token; not a feature (>= dim) between tokens.
  __device__ int Feature(int row) const { return row % token_rows; }
  __device__ int Token(int row) const { return row / token_rows; }
};

template <class T>
Tile MakeTile(const ExpandShape& s, int tokens) {
  Tile tile{};
  tile.tokens = tokens;
  tile.heads = static_cast<int>(s.heads);
  tile.sim_heads = static_cast<int>(s.sim_heads);
  tile.dim = static_cast<int>(s.head_dim);
  tile.width = static_cast<int>(s.sim_head_dim);
  tile.margin = static_cast<int>(s.kernel_size - 1) / 2;
  tile.heads_padded = Round(tile.heads, 8);
  tile.sim_heads_padded = Round(tile.sim_heads, 8);
  tile.dim_padded = Round(tile.dim, 8);
  tile.width_padded = Round(tile.width, 8);
  tile.token_rows = tile.dim_padded + tile.margin;
  tile.rows = Round(tokens * tile.token_rows, 16);
  tile.all_rows = tile.rows + 2 * tile.margin + 1;
  tile.items = Round(tokens * tile.sim_heads_padded, 16);
  tile.all_items = tile.items + 1;
  tile.narrow_stride = PaddedStride<T>(tile.dim_padded);
  tile.wide_stride = PaddedStride<T>(tile.width_padded);
  return tile;
}

// What both kernels take.
struct TileArguments {
  Tile tile;
  int64_t tokens;
  const uint2* packed;
  int64_t packed_size;
  bool resident;                   // the packed weights lie in shared memory
  AngleTable angles;               // of the rotation of the output; cosines null: none
  Weights first, second, feature;  // W1, W2, W3
  const float *first_bias, *second_bias, *feature_bias;
  int zeros_at, weights_at, x_at, c1_at, y_at, z1_at;  // bytes in shared memory
};

// Hands out shared memory, 16-byte aligned.
class SharedLayout {
 public:
  int Take(int64_t bytes) {
    const int64_t at = bytes_;
    bytes_ += (bytes + 15) / 16 * 16;
    return static_cast<int>(at);
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_ = 0;
};

// The work of one warp-wide product phase, for choosing the tile.
struct Phase {
  int rows, column_tiles, depth;
};

// The number of tokens per tile, at most `most`, that costs the least time per token: phases leave warps idle where
// their units do not divide evenly. 0 if not even one token fits into `limit` bytes. `bytes(tokens)` is the shared
// memory, and `phases(tokens, visit)` calls visit with each Phase.
template <class T, class Bytes, class Phases>
int ChooseTokens(int64_t limit, int64_t most, Bytes&& bytes, Phases&& phases) {
  int best = 0;
  double best_cost = 0;
  for (int tokens = 1; tokens <= std::min<int64_t>(most, 32) && bytes(tokens) <= limit; ++tokens) {
    double cost = 0;
    phases(tokens, [&](const Phase& phase) {
      const int units = Ceil(phase.rows, 16 * kRowTiles<T>) * Ceil(phase.column_tiles, kColumnTiles);
      cost += double{1} * Ceil(units, kWarps) * std::min(phase.column_tiles, kColumnTiles) * phase.depth;
    });
    cost /= tokens;
    if (best == 0 || cost < best_cost) {
      best = tokens;
      best_cost = cost;
    }
  }
  return best;
}

// ---- device code

// Two neighbouring elements, `to` aligned to both.
template <class T>
__device__ __forceinline__ void StorePair(T* to, float2 value) {
  if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<uint32_t*>(to) = Pack<T>(value.x, value.y);
  } else {
    *reinterpret_cast<float2*>(to) = value;
  }
}
template <class T>
__device__ __forceinline__ float2 LoadPair(const T* from) {
  return make_float2(Widen(from[0]), Widen(from[1]));
}

// A matrix in shared memory. Where results must keep their sign, 16-bit types carry in `remainder` what rounding left
// of each element.
template <class T>
struct Operand {
  T* rounded;
  T* remainder = nullptr;
};

// max(x, 0) of packed pairs and their remainders: both go where the rounded value is negative.
__device__ __forceinline__ void ReluSplit(uint32_t& rounded, uint32_t& remainder) {
  const uint32_t negative = (rounded >> 15 & 0x00010001u) * 0xffffu;
  rounded &= ~negative;
  remainder &= ~negative;
}

// How exact a product of 16-bit operands is: both rounded; weights with remainders; both with remainders, to about
// 2^-17 (bf16) or 2^-22 (f16). Other types are as exact as they are.
enum class Exactness { kRounded, kExactWeights, kExact };

// result[row, column] = sum over j < depth of a[row * stride + j] * B[j, column], for row < rows (a multiple of 16) and
// all columns of B: store(row, column, pair) takes columns (column, column + 1), each once. With kRelu the elements of
// `a` pass through max(., 0). `zeros` are 16 bytes of zeros in shared memory: what lies beyond `depth` within a step.
template <bool kRelu, Exactness kExactness = Exactness::kRounded, class T, class Store>
__device__ __forceinline__ void RowProduct(const Operand<T>& a, int stride, int rows, const uint2* weights,
                                           const Weights& b, const T* zeros, Store&& store) {
  constexpr bool kWeightRemainders = sizeof(T) == 2 && kExactness != Exactness::kRounded;
  constexpr bool kRemainders = sizeof(T) == 2 && kExactness == Exactness::kExact;
  constexpr int kRows = kRowTiles<T>, kColumns = kColumnTiles;
  const int lane = LaneId(), warp = static_cast<int>(threadIdx.x) / 32;
  const int row_tiles = rows / 16, row_groups = (row_tiles + kRows - 1) / kRows;
  const int column_groups = (b.column_tiles + kColumns - 1) / kColumns;
  const bool ragged = b.depth % kDepth<T> != 0;
  for (int unit = warp; unit < row_groups * column_groups; unit += kWarps) {
    const int first_row = unit / column_groups * kRows, first_column = unit % column_groups * kColumns;
    const int columns = min(kColumns, b.column_tiles - first_column);
    Accumulator sum[kRows][kColumns] = {};
    const T* lane_a[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int row = min(first_row + i, row_tiles - 1) * 16;  // a tile too many is computed and not stored
      lane_a[i] = a.rounded + (row + RowOfA<T>()) * stride + DepthOfA<T>();
    }
    const uint2* lane_b = weights + b.target + int64_t{first_column} * b.steps * 32 + lane;
#pragma unroll 1  // one step is 24 products already
    for (int step = 0; step < b.steps; ++step) {
      FragmentA<T> left[kRows];
      FragmentA<T> left_remainder[kRemainders ? kRows : 1];
      const bool beyond = ragged && step * kDepth<T> + DepthOfA<T>() >= b.depth;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const T* at = beyond ? zeros : lane_a[i] + step * kDepth<T>;
        if constexpr (kRemainders) {
          LoadA(left[i], at);
          LoadA(left_remainder[i], beyond ? zeros : at + (a.remainder - a.rounded));
          if constexpr (kRelu) {
#pragma unroll
            for (int r = 0; r < 4; ++r) ReluSplit(left[i].r[r], left_remainder[i].r[r]);
          }
        } else {
          LoadA<kRelu>(left[i], at);
        }
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (j >= columns) continue;
        FragmentB<T> right;
        LoadPackedB(right, lane_b + (j * b.steps + step) * 32);
#pragma unroll
        for (int i = 0; i < kRows; ++i) Multiply(sum[i][j], left[i], right);
        if constexpr (kRemainders) {
#pragma unroll
          for (int i = 0; i < kRows; ++i) Multiply(sum[i][j], left_remainder[i], right);
        }
        if constexpr (kWeightRemainders) {
          LoadPackedB(right, lane_b + (b.remainder_target - b.target) + (j * b.steps + step) * 32);
#pragma unroll
          for (int i = 0; i < kRows; ++i) Multiply(sum[i][j], left[i], right);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (first_row + i >= row_tiles) continue;
      const int row = (first_row + i) * 16 + lane / 4;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        if (j >= columns) continue;
        const int column = (first_column + j) * 8 + lane % 4 * 2;
        store(row, column, make_float2(sum[i][j].c[0], sum[i][j].c[1]));
        store(row + 8, column, make_float2(sum[i][j].c[2], sum[i][j].c[3]));
      }
    }
  }
}

// rows [.., columns] = 0 where no token has a feature: the margins and the gaps.
template <class T>
__device__ __forceinline__ void ZeroGaps(const Tile& tile, T* rows, int columns) {
  const int vectors = columns / kVector<T>;
  for (int i = static_cast<int>(threadIdx.x); i < tile.all_rows * vectors; i += kThreads) {
    const int row = i / vectors - tile.margin;
    const bool feature = row >= 0 && row < tile.tokens * tile.token_rows && tile.Feature(row) < tile.dim;
    if (!feature) Store16(rows + int64_t{i} * kVector<T>, make_uint4(0, 0, 0, 0));
  }
}

template <class T>
__device__ __forceinline__ void ZeroFill(T* data, int elements) {
  for (int i = static_cast<int>(threadIdx.x) * kVector<T>; i < elements; i += kThreads * kVector<T>) {
    Store16(data + i, make_uint4(0, 0, 0, 0));
  }
}

// Whether every run of `width` elements of Source from `data` on can be moved in units of 16 bytes.
template <class Source>
__host__ __device__ __forceinline__ bool Vectorised(const Source* data, int width) {
  return width % kVector<Source> == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

template <class T>
union Vector {
  uint4 bits;
  T elements[kVector<T>];
  __device__ Vector() {}
};

// Reads [tokens, heads, dim] of device memory into rows [feature][head], turned if asked, columns up to `heads_padded`
// zero. Tokens from `valid` on are zeros.
template <class T, class Source>
__device__ __forceinline__ void LoadRows(const Tile& tile, const Source* source, int valid, int heads, int heads_padded,
                                         T* rows, const Turn& turn = {}) {
  constexpr int kUnit = kVector<Source>;
  const int chunks = (tile.dim + kUnit - 1) / kUnit;
  const bool vectorised = Vectorised(source, tile.dim);
  // Heads vary fastest: neighbouring threads write neighbouring elements of a row.
  for (int i = static_cast<int>(threadIdx.x); i < tile.tokens * chunks * heads_padded; i += kThreads) {
    const int head = i % heads_padded, chunk = i / heads_padded % chunks, token = i / heads_padded / chunks;
    const int count = min(kUnit, tile.dim - chunk * kUnit);
    const bool present = head < heads && token < valid;
    const Source* from = source + (int64_t{token} * heads + head) * tile.dim + chunk * kUnit;
    T* to = rows + (tile.margin + token * tile.token_rows + chunk * kUnit) * heads_padded + head;
    Vector<Source> vector;
    if (present && vectorised) vector.bits = Load16(from);
    float values[kUnit] = {};
#pragma unroll
    for (int e = 0; e < kUnit; ++e) {
      if (present && e < count) values[e] = vectorised ? Widen(vector.elements[e]) : Widen(from[e]);
    }
    if (turn && present) turn(token, chunk * kUnit, count, values);
#pragma unroll
    for (int e = 0; e < kUnit; ++e) {
      if (e < count) to[e * heads_padded] = Narrowed<T>(values[e]);
    }
  }
}

// Writes items [token, head][feature] of shared memory to [tokens, heads, dim] of device memory.
template <class T, class S>
__device__ __forceinline__ void StoreItems(const T* items, int stride, int valid, int heads, int heads_padded, int dim,
                                           S* target) {
  constexpr int kUnit = kVector<T>;
  const bool vectorised = std::is_same_v<T, S> && Vectorised(target, dim);
  const int unit = vectorised ? kUnit : 1, chunks = dim / unit;
  for (int i = static_cast<int>(threadIdx.x); i < valid * heads * chunks; i += kThreads) {
    const int chunk = i % chunks, head = i / chunks % heads, token = i / chunks / heads;
    const T* from = items + (token * heads_padded + head) * stride + chunk * unit;
    S* to = target + int64_t{i} * unit;
    if (vectorised) {
      Store16(to, Load16(from));
    } else {
      Narrow(Widen(*from), to);
    }
  }
}

// The packed weights, copied to shared memory or, where that is too small (null), left in device memory.
__device__ __forceinline__ const uint2* PlaceWeights(const uint2* packed, int64_t size, uint2* shared) {
  if (shared == nullptr) return packed;
  for (int64_t i = threadIdx.x * 2; i < size; i += kThreads * 2) CopyAsync16(shared + i, packed + i, true);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  return shared;  // visible after the next barrier
}

// The pair bias[i], bias[i + 1], zeros from `size` on.
__device__ __forceinline__ float2 BiasPair(const float* bias, int i, int size) {
  return make_float2(i < size ? bias[i] : 0.0f, i + 1 < size ? bias[i + 1] : 0.0f);
}
__device__ __forceinline__ float2 Add(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

// Two neighbouring elements, with their remainders if those are kept.
template <bool kKept, class T>
__device__ __forceinline__ void StoreSplit(const Operand<T>& to, int64_t at, int64_t second, float2 value) {
  const T rounded[2] = {Narrowed<T>(value.x), Narrowed<T>(value.y)};
  to.rounded[at] = rounded[0];
  to.rounded[at + second] = rounded[1];
  if constexpr (kKept && sizeof(T) == 2) {
    Narrow(value.x - Widen(rounded[0]), to.remainder + at);
    Narrow(value.y - Widen(rounded[1]), to.remainder + at + second);
  }
}

// First half of both directions: rows of C1 = b1 + W1 * X (spec section 1). With kExact the result keeps its remainders
// and has the sign that f32 arithmetic gives it: the backward pass needs to know where C1 and Z1 are positive, and one
// sign that rounding has turned costs more than all other rounding.
template <bool kExact, class T>
__device__ __forceinline__ void FirstConvolution(const Tile& tile, T* x, const uint2* weights, const Weights& matrix,
                                                 const float* bias, const T* zeros, const Operand<T>& c1) {
  constexpr auto kExactness = kExact ? Exactness::kExactWeights : Exactness::kRounded;  // X itself is exact
  RowProduct<false, kExactness>(Operand<T>{x}, tile.heads_padded, tile.rows, weights, matrix, zeros,
                                [&](int row, int o, float2 value) {
                                  if (row >= tile.tokens * tile.token_rows || tile.Feature(row) >= tile.dim) return;
                                  StoreSplit<kExact>(c1, (row + tile.margin) * tile.sim_heads_padded + o, 1,
                                                     Add(value, BiasPair(bias, o, tile.sim_heads)));
                                });
}

// Items of Y = C1 + b2 + W2 * relu(C1).
template <bool kExact, class T>
__device__ __forceinline__ void SecondConvolution(const Tile& tile, const Operand<T>& c1, const uint2* weights,
                                                  const Weights& matrix, const float* bias, const T* zeros,
                                                  const Operand<T>& y) {
  constexpr auto kExactness = kExact ? Exactness::kExact : Exactness::kRounded;
  const int columns = tile.sim_heads_padded;
  RowProduct<true, kExactness>(c1, columns, tile.rows, weights, matrix, zeros, [&](int row, int o, float2 value) {
    const int feature = tile.Feature(row);
    if (row >= tile.tokens * tile.token_rows || feature >= tile.dim_padded) return;
    const int at = (row + tile.margin) * columns + o;
    float2 sum = Add(Add(value, LoadPair(c1.rounded + at)), BiasPair(bias, o, tile.sim_heads));
    if constexpr (kExact && sizeof(T) == 2) sum = Add(sum, LoadPair(c1.remainder + at));
    if (feature >= tile.dim) sum = make_float2(0, 0);  // padded features are part of the K axis of what follows
    StoreSplit<kExact>(y, (tile.Token(row) * columns + o) * tile.narrow_stride + feature, tile.narrow_stride, sum);
  });
}

// Items of Z1 = b3 + Y W3^T (section 2).
template <bool kExact, class T>
__device__ __forceinline__ void FirstFeatures(const Tile& tile, const Operand<T>& y, const uint2* weights,
                                              const Weights& matrix, const float* bias, const T* zeros, T* z1) {
  constexpr auto kExactness = kExact ? Exactness::kExact : Exactness::kRounded;
  RowProduct<false, kExactness>(
      y, tile.narrow_stride, tile.items, weights, matrix, zeros, [&](int item, int e, float2 value) {
        if (item >= tile.tokens * tile.sim_heads_padded) return;
        StorePair(z1 + item * tile.wide_stride + e, Add(value, BiasPair(bias, e, tile.width)));
      });
}

// A matrix and, if wanted, its remainders.
template <class T>
Weights AddWeights(PackedMatrices* packed, PackedMatrix matrix, int taps, bool remainders) {
  Weights weights(packed->Add<T>(matrix, taps));
  if (remainders && sizeof(T) == 2) {
    matrix.remainder = true;
    weights.remainder_target = packed->Add<T>(matrix, taps).target;
  }
  return weights;
}

// The forward weights W1, W2, W3 and their biases.
template <class T>
void AddForwardWeights(const ExpandShape& s, const ExpandWeights& w, bool remainders, PackedMatrices* packed,
                       TileArguments* arguments) {
  const int heads = static_cast<int>(s.heads), sim_heads = static_cast<int>(s.sim_heads);
  const int taps = static_cast<int>(s.kernel_size);
  arguments->first_bias = w.head_bias;
  arguments->second_bias = w.head_residual_bias;
  arguments->feature_bias = w.feature_bias;
  PackedMatrix matrix{};
  matrix.source = w.head_weight;  // [o][h][t]
  matrix.columns = sim_heads;
  matrix.column_stride = s.heads * taps;
  matrix.inner = heads;
  matrix.inner_stride = taps;
  matrix.tap_stride = 1;
  arguments->first = AddWeights<T>(packed, matrix, taps, remainders);
  matrix.source = w.head_residual_weight;  // [o][p][t]
  matrix.column_stride = s.sim_heads * taps;
  matrix.inner = sim_heads;
  arguments->second = AddWeights<T>(packed, matrix, taps, remainders);
  if (!s.features) return;
  PackedMatrix plain{};
  plain.source = w.feature_weight;  // [e][d]
  plain.columns = static_cast<int>(s.sim_head_dim);
  plain.column_stride = s.head_dim;
  plain.inner = static_cast<int>(s.head_dim);
  plain.inner_stride = 1;
  arguments->feature = AddWeights<T>(packed, plain, 1, remainders);
}

// Chooses the tile, lays the block's shared memory out and packs the weights. `layout(arguments, tokens)` gives tiles
// of so many tokens their places and returns the bytes; `phases(tokens, visit)` as for ChooseTokens.
template <class T, class Arguments, class Layout, class Phases>
Status Prepare(CudaContext& context, const ExpandShape& s, const PackedMatrices& packed, const Layout& layout,
               const Phases& phases, Arguments* arguments, Grid* grid) {
  const auto limit = static_cast<int64_t>(context.shared_limit());
  const auto bytes = [&](int tokens) {
    Arguments trial = *arguments;
    return layout(&trial, tokens);
  };
  int tokens = 0;
  for (const bool resident : {true, false}) {  // else the weights stay in device memory and the caches
    arguments->resident = resident;
    tokens = ChooseTokens<T>(limit, CeilDiv(s.tokens, context.multiprocessors()), bytes, phases);
    if (tokens > 0) break;
  }
  if (tokens == 0) {
    return Status(StatusCode::kShape, "one token needs " + std::to_string(bytes(1)) +
                                          " bytes of shared memory, this GPU has " + std::to_string(limit));
  }
  uint2* weights = nullptr;
  SAS_TRY(PackWeights<T>(context, packed, &weights));
  arguments->tokens = s.tokens;
  arguments->packed = weights;
  arguments->packed_size = packed.size;
  const int64_t blocks = std::min<int64_t>(CeilDiv(s.tokens, tokens), context.multiprocessors());
  *grid = {dim3(static_cast<unsigned>(blocks)), kThreads, static_cast<size_t>(layout(arguments, tokens))};
  return {};
}

// Calls `body` with a null pointer of the type that products are done in.
template <class Body>
Status DispatchProducts(const CudaContext& context, DType dtype, Body&& body) {
  if (dtype == DType::kF32 && context.tf32()) return body(static_cast<Tf32*>(nullptr));
  return DispatchFloat(dtype, body);
}

}  // namespace sas::cuda::expand
