// One file, although a long one, because the host's plan and the device's loads must agree: what the expansion's
// forward and backward kernels share. How a tile of tokens lies in shared memory, and the product that both are made
// of.
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
#include "cuda/kernels/expand_weights.cuh"
#include "cuda/kernels/rope.cuh"

namespace sas::cuda::expand {

// A row length of at least `width` elements whose rows fall into different banks: an odd number of 16-byte units.
template <class T>
int PaddedStride(int width) {
  const int units = Ceil(width, kVector<T>);
  return (units % 2 == 1 ? units : units + 1) * kVector<T>;
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
  __device__ bool IsFeature(int row) const { return Token(row) < tokens && Feature(row) < dim; }
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
  int zeros_at, biases_at, weights_at, x_at, c1_at, y_at, z1_at;  // bytes in shared memory
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

// The number of tokens per tile, for `tokens` per block, that costs the least time: phases leave warps idle where their
// units do not divide evenly. 0 if not even one token fits into `limit` bytes. `bytes(count)` is the shared memory,
// `phases(count, visit)` calls visit(weights, rows) for each product, and `fixed` is what a tile costs whatever its
// size, in the unit of the rest: about a cycle.
template <class Bytes, class Phases>
int ChooseTokens(int64_t limit, int64_t tokens, int64_t fixed, int warps, Bytes&& bytes, Phases&& phases) {
  constexpr int kPhaseCost = 500;  // barriers, first loads
  constexpr int kStoreCost = 100;  // of a unit's results, per column tile, as depth
  int best = 0;
  double best_cost = 0;
  for (int count = 1; count <= std::min<int64_t>(tokens, 32) && bytes(count) <= limit; ++count) {
    auto cost = static_cast<double>(fixed);
    phases(count, [&](const Weights* w, int rows) {
      cost += kPhaseCost + double{1} * Divide(rows / 16, w->column_tiles, warps).cost * (w->depth + kStoreCost);
    });
    cost *= static_cast<double>(CeilDiv(tokens, int64_t{count}));
    if (best == 0 || cost <= best_cost) {
      best = count;
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
  if constexpr (sizeof(T) == 2) {
    const uint32_t bits = *reinterpret_cast<const uint32_t*>(from);
    return make_float2(Widen(T{static_cast<uint16_t>(bits)}), Widen(T{static_cast<uint16_t>(bits >> 16)}));
  } else {
    return *reinterpret_cast<const float2*>(from);
  }
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

// Where a row of a product goes, as offsets in elements whose meaning is the caller's. Negative `to`: nowhere.
struct Place {
  int to, from = 0, token = 0;
};

// result[row, column] = sum over j < depth of a[row * stride + j] * B[j, column], for row < rows (a multiple of 16) and
// all columns of B: store(place(row), column, pair) takes columns (column, column + 1), each once. With kRelu the
// elements of `a` pass through max(., 0). `zeros` are 16 bytes of zeros in shared memory: what lies beyond `depth`
// within a step.
template <bool kRelu, Exactness kExactness = Exactness::kRounded, class T, class PlaceOf, class Store>
__device__ __forceinline__ void RowProduct(const Operand<T>& a, int stride, int rows, const uint2* weights,
                                           const Weights& b, const T* zeros, PlaceOf&& place, Store&& store) {
  constexpr bool kWeightRemainders = sizeof(T) == 2 && kExactness != Exactness::kRounded;
  constexpr bool kRemainders = sizeof(T) == 2 && kExactness == Exactness::kExact;
  const int lane = LaneId(), warp = static_cast<int>(threadIdx.x) / 32;
  for (int unit = warp; unit < rows / 16 * b.division.groups; unit += kWarps) {
    const int first_row = unit / b.division.groups * 16, first = unit % b.division.groups * b.division.columns;
    const int columns = min(b.division.columns, b.column_tiles - first);
    Accumulator sum[kColumnTiles] = {};
    const T* lane_a = a.rounded + (first_row + RowOfA<T>()) * stride + DepthOfA<T>();
    const uint2* lane_b = weights + b.target + first * 32 + lane;
    const uint2* lane_b_remainder = lane_b + (b.remainder_target - b.target);
    int left_over = b.depth - DepthOfA<T>();
#pragma unroll 1
    for (int step = 0; step < b.steps;) {
      const int end = min(step + kLongestChain, b.steps);
#pragma unroll 1
      for (; step < end; ++step) {
        const bool beyond = left_over <= 0;
        const T* at = beyond ? zeros : lane_a;
        // All loads come first, and each alone under its condition: they wait together, not one after the other.
        FragmentB<T> right[kColumnTiles], right_remainder[kWeightRemainders ? kColumnTiles : 1];
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
          if (j < columns) LoadPackedB(right[j], lane_b + j * 32);
          if constexpr (kWeightRemainders) {
            if (j < columns) LoadPackedB(right_remainder[j], lane_b_remainder + j * 32);
          }
        }
        lane_b += b.column_tiles * 32;
        lane_b_remainder += b.column_tiles * 32;
        FragmentA<T> left, left_remainder;
        if constexpr (kRemainders) {
          LoadA(left, at);
          LoadA(left_remainder, beyond ? zeros : at + (a.remainder - a.rounded));
          if constexpr (kRelu) {
#pragma unroll
            for (int r = 0; r < 4; ++r) ReluSplit(left.r[r], left_remainder.r[r]);
          }
        } else {
          LoadA<kRelu>(left, at);
        }
#pragma unroll
        for (int j = 0; j < kColumnTiles; ++j) {
          if (j < columns) Multiply(sum[j], left, right[j]);
        }
        lane_a += kDepth<T>;
        left_over -= kDepth<T>;
        if constexpr (kRemainders) {
#pragma unroll
          for (int j = 0; j < kColumnTiles; ++j) {
            if (j < columns) Multiply(sum[j], left_remainder, right[j]);
          }
        }
        if constexpr (kWeightRemainders) {
#pragma unroll
          for (int j = 0; j < kColumnTiles; ++j) {
            if (j < columns) Multiply(sum[j], left, right_remainder[j]);
          }
        }
      }
      if (const TotalStep total(b.totals, step - 1, b.steps); total.moves) {
        MoveIntoTotals<kThreads>(total, sum, OwnTotals<kThreads>(b.totals, kColumnTiles));
      }
    }
    if constexpr (std::is_same_v<T, float>) {
      const T* start = a.rounded + first_row * stride;
      const uint2* packed = weights + b.target + first * 32;
      RetakeOverflows<kColumnTiles>(
          sum, b.depth,
          [&](int64_t k, int row, int half) {
            const float value = start[(row + 8 * half) * stride + k];
            return kRelu && value < 0 ? 0.0f : value;
          },
          [&](int64_t k, int column) {  // the one of lane column % 8 * 4 + k % 4 (LoadPackedB)
            if (column >= 8 * columns) return 0.0f;
            const uint2 both = packed[(k / 8 * b.column_tiles + column / 8) * 32 + column % 8 * 4 + k % 4];
            return BitsToFloat(k % 8 < 4 ? both.x : both.y);
          });
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Place to = place(first_row + half * 8 + lane / 4);
      if (to.to < 0) continue;
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        if (j >= columns) continue;
        store(to, (first + j) * 8 + lane % 4 * 2, make_float2(sum[j].c[half * 2], sum[j].c[half * 2 + 1]));
      }
    }
  }
}

// rows [.., columns] = 0 where no token has a feature: before the tokens, between them, and after.
template <class T>
__device__ __forceinline__ void ZeroGaps(const Tile& tile, T* rows, int columns) {
  const int vectors = columns / kVector<T>, gap = tile.token_rows - tile.dim;
  const int before = tile.margin, between = before + tile.tokens * gap;
  const int count = tile.all_rows - tile.tokens * tile.dim;
  for (int i = static_cast<int>(threadIdx.x); i < count * vectors; i += kThreads) {
    int row = i / vectors;
    if (row >= between) {
      row += tile.tokens * tile.dim;
    } else if (row >= before) {
      row += ((row - before) / gap + 1) * tile.dim;
    }
    Store16(rows + row * columns + i % vectors * kVector<T>, make_uint4(0, 0, 0, 0));
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

// Reads [tokens, heads, dim] of device memory into rows [feature][head], rotated if asked, columns up to `heads_padded`
// zero. Tokens from `valid` on are zeros.
template <class T, class Source>
__device__ __forceinline__ void LoadRows(const Tile& tile, const Source* source, int valid, int heads, int heads_padded,
                                         T* rows, const Rotation& rotation = {}) {
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
    if (rotation && present) rotation(token, chunk * kUnit, count, values);
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

// Bytes of the biases of all maps in shared memory, in f32 and padded with zeros: of sim_heads_padded, the same, and
// twice width_padded.
inline int64_t BiasBytes(const Tile& tile) { return int64_t{8} * (tile.sim_heads_padded + tile.width_padded); }
__device__ __forceinline__ void PlaceBias(const float* bias, int size, int padded, float* shared) {
  for (int i = static_cast<int>(threadIdx.x); i < padded; i += kThreads) shared[i] = i < size ? bias[i] : 0.0f;
}
__device__ __forceinline__ float2 Add(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }

// What rounding to T leaves of a pair.
template <class T>
__device__ __forceinline__ float2 Remainder(float2 value) {
  return make_float2(value.x - Widen(Narrowed<T>(value.x)), value.y - Widen(Narrowed<T>(value.y)));
}

// First half of both directions: rows of C1 = b1 + W1 * X (spec section 1). With kExact the result has the sign that
// f32 arithmetic gives it, and with kKept keeps its remainders: the backward pass needs to know where C1 and Z1 are
// positive, and one sign that rounding has changed costs more than all other rounding.
template <bool kExact, bool kKept, class T>
__device__ __forceinline__ void FirstConvolution(const Tile& tile, T* x, const uint2* weights, const Weights& matrix,
                                                 const float* bias, const T* zeros, const Operand<T>& c1) {
  constexpr auto kExactness = kExact ? Exactness::kExactWeights : Exactness::kRounded;  // X itself is exact
  RowProduct<false, kExactness>(
      Operand<T>{x}, tile.heads_padded, tile.rows, weights, matrix, zeros,
      [&](int row) { return Place{tile.IsFeature(row) ? (row + tile.margin) * tile.sim_heads_padded : -1}; },
      [&](const Place& place, int o, float2 value) {
        const float2 sum = Add(value, LoadPair(bias + o));
        StorePair(c1.rounded + place.to + o, sum);
        if constexpr (kKept && sizeof(T) == 2) StorePair(c1.remainder + place.to + o, Remainder<T>(sum));
      });
}

// Items of Y = C1 + b2 + W2 * relu(C1).
template <bool kExact, class T>
__device__ __forceinline__ void SecondConvolution(const Tile& tile, const Operand<T>& c1, const uint2* weights,
                                                  const Weights& matrix, const float* bias, const T* zeros,
                                                  const Operand<T>& y) {
  constexpr auto kExactness = kExact ? Exactness::kExact : Exactness::kRounded;
  const int columns = tile.sim_heads_padded, stride = tile.narrow_stride;
  RowProduct<true, kExactness>(
      c1, columns, tile.rows, weights, matrix, zeros,
      [&](int row) {
        const int token = tile.Token(row), feature = tile.Feature(row);
        // Padded features, zeros, are part of the K axis of what follows.
        const bool present = token < tile.tokens && feature < tile.dim_padded;
        return Place{present ? token * columns * stride + feature : -1,
                     feature < tile.dim ? (row + tile.margin) * columns : -1};
      },
      [&](const Place& place, int o, float2 value) {
        float2 sum = make_float2(0, 0);
        if (place.from >= 0) {
          sum = Add(Add(value, LoadPair(c1.rounded + place.from + o)), LoadPair(bias + o));
          if constexpr (kExact && sizeof(T) == 2) sum = Add(sum, LoadPair(c1.remainder + place.from + o));
        }
        const int at = place.to + o * stride;
        Narrow(sum.x, y.rounded + at);
        Narrow(sum.y, y.rounded + at + stride);
        if constexpr (kExact && sizeof(T) == 2) {
          const float2 rest = Remainder<T>(sum);
          Narrow(rest.x, y.remainder + at);
          Narrow(rest.y, y.remainder + at + stride);
        }
      });
}

// Items of Z1 = b3 + Y W3^T (section 2).
template <bool kExact, class T>
__device__ __forceinline__ void FirstFeatures(const Tile& tile, const Operand<T>& y, const uint2* weights,
                                              const Weights& matrix, const float* bias, const T* zeros, T* z1) {
  constexpr auto kExactness = kExact ? Exactness::kExact : Exactness::kRounded;
  RowProduct<false, kExactness>(
      y, tile.narrow_stride, tile.items, weights, matrix, zeros,
      [&](int item) { return Place{item * tile.wide_stride}; },
      [&](const Place& place, int e, float2 value) { StorePair(z1 + place.to + e, Add(value, LoadPair(bias + e))); });
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

// What the packed weights depend on.
template <class T>
WeightKey KeyOf(Form form, const ExpandShape& s, const ExpandWeights& w) {
  WeightKey key;
  key.form = form;
  key.type = kWeightType<T>;
  key.taps = s.kernel_size;
  key.sources = {w.head_weight, w.head_residual_weight};
  key.sizes = {s.sim_heads * s.heads * s.kernel_size, s.sim_heads * s.sim_heads * s.kernel_size};
  if (s.features) {
    key.sources = {w.head_weight, w.head_residual_weight, w.feature_weight, w.feature_residual_weight};
    key.sizes = {key.sizes[0], key.sizes[1], s.sim_head_dim * s.head_dim, s.sim_head_dim * s.sim_head_dim};
  }
  return key;
}

// Chooses the tile, lays the block's shared memory out and packs the weights. `layout(arguments, tokens)` gives tiles
// of so many tokens their places and returns the bytes; `phases(arguments, tokens, visit)` and `fixed` as for
// ChooseTokens.
template <class T, class Arguments, class Layout, class Phases>
Status Prepare(CudaContext& context, const ExpandShape& s, const WeightKey& key, const PackedMatrices& packed,
               const Layout& layout, const Phases& phases, int64_t fixed, int threads, Arguments* arguments,
               Grid* grid) {
  const auto limit = static_cast<int64_t>(context.shared_limit());
  const auto bytes = [&](int tokens) {
    Arguments trial = *arguments;
    return layout(&trial, tokens);
  };
  int tokens = 0;
  for (const bool resident : {true, false}) {  // else the weights stay in device memory and the caches
    arguments->resident = resident;
    tokens = ChooseTokens(limit, CeilDiv(s.tokens, context.multiprocessors()), fixed, threads / 32, bytes,
                          [&](int count, const auto& visit) { phases(arguments, count, visit); });
    if (tokens > 0) break;
  }
  if (tokens == 0) {
    return Status(StatusCode::kShape, "one token needs " + std::to_string(bytes(1)) +
                                          " bytes of shared memory, this GPU has " + std::to_string(limit));
  }
  SAS_TRY(PackWeights<T>(context, key, packed, &arguments->packed));
  arguments->tokens = s.tokens;
  arguments->packed_size = packed.size;
  const int64_t blocks = std::min<int64_t>(CeilDiv(s.tokens, tokens), context.multiprocessors());
  float4* totals = nullptr;  // of one product at a time
  phases(arguments, tokens, [&](Weights* w, int rows) {
    w->division = Divide(rows / 16, w->column_tiles, threads / 32);
    if (w->steps <= kLongestChain) return;
    if (totals == nullptr) totals = context.Take<float4>(blocks * threads * kTotalParts * MaxColumnTiles(threads / 32));
    w->totals = totals;
  });
  *grid = {dim3(static_cast<unsigned>(blocks)), static_cast<unsigned>(threads),
           static_cast<size_t>(layout(arguments, tokens))};
  return {};
}

// Calls `body` with a null pointer of the type that products are done in.
template <class Body>
Status DispatchProducts(const CudaContext& context, DType dtype, Body&& body) {
  if (dtype == DType::kF32 && context.tf32()) return body(static_cast<Tf32*>(nullptr));
  return DispatchFloat(dtype, body);
}

}  // namespace sas::cuda::expand
