// The built-in matrix product on tensor cores. A block of 8 warps computes a square tile of C from slices of A and B
// that pass through three stages of shared memory; deep products of small matrices are divided along K among blocks,
// whose partial sums a second kernel adds in order.
#include "cuda/device/elementwise.cuh"
#include "cuda/kernels/gemm.cuh"

namespace sas::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarpsDown = 2, kWarpsAcross = 4;  // a warp computes [kTile / 2, kTile / 4] of the tile
constexpr int kStages = 3;
constexpr int kSliceBytes = 64;               // of K, per row
constexpr unsigned kTileGroup = 8;            // tiles of neighbouring rows run together, so that they share B in L2
constexpr int64_t kLeastSlicesPerSplit = 16;  // a partial sum costs a pass over C

template <class T>
constexpr int kSlice = kSliceBytes / sizeof(T);
// f32 keeps so many sums in flight that a second step of a slice would not fit in the registers.
template <class T>
constexpr int kStepsUnrolled = std::is_same_v<T, float> ? 1 : kSlice<T> / kDepth<T>;
// Slices of as many products as a chain may have.
template <class T>
constexpr int kSlicesPerTotal = kLongestChain / (kSlice<T> / kDepth<T>);
// Of a thread, for OwnTotals: its accumulators.
template <int kTile>
constexpr int kTotals = (kTile * kTile) / (4 * kThreads);

struct Side {
  const void* data;
  int64_t stride, outer, inner;
  bool vectors;  // whole aligned groups of 16 bytes
};

struct Arguments {
  int64_t rows, columns, depth;
  unsigned inner, b_share;
  unsigned row_tiles, column_tiles;
  unsigned splits;
  int64_t split_depth;  // a multiple of the slice
  Side a, b;
  void* c;
  int64_t c_stride, c_outer, c_inner, c_split;
  bool c_float, c_vectors;
  const float *row_bias, *column_bias;
  float4* totals;  // for splits of more than kSlicesPerTotal slices
};

// A slice of one operand in shared memory, `kTile` rows (or columns) of the result by kSlice of K, in lines as they are
// stored: K contiguous, or the result's dimension. The padding spreads what the lanes of a warp read over all banks.
template <class T, int kTile, bool kDepthContiguous>
struct OperandTile {
  static constexpr int kLines = kDepthContiguous ? kTile : kSlice<T>;
  static constexpr int kWidth = kDepthContiguous ? kSlice<T> : kTile;
  static constexpr int kStride = kWidth + (kDepthContiguous ? kVector<T> : 8);
  static constexpr int kElements = kLines * kStride;

  const T* data;  // the tile's first row at K = 0
  int64_t stride;
  int extent;  // rows of the result that exist, at most kTile
  bool vectors;

  // An element of the operand itself; 0 beyond its edge.
  __device__ __forceinline__ T At(int row, int64_t k) const {
    return row < extent ? data[kDepthContiguous ? row * stride + k : k * stride + row] : T{};
  }

  // The slice that begins at `k`, `depth` of which exists; zeros beyond.
  __device__ __forceinline__ void Load(T* shared, int64_t k, int depth) const {
    constexpr int kPerLine = kWidth / kVector<T>;
    constexpr int kRounds = kLines * kPerLine / kThreads;
    const T* source = data + (kDepthContiguous ? k : k * stride);
    const int lines = kDepthContiguous ? extent : depth, width = kDepthContiguous ? depth : extent;
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const int item = round * kThreads + static_cast<int>(threadIdx.x);
      const int line = item / kPerLine, column = item % kPerLine * kVector<T>;
      const T* from = source + line * stride + column;
      T* to = shared + line * kStride + column;
      if (vectors) {
        const bool valid = line < lines && column < width;
        CopyAsync16(to, valid ? from : data, valid);
      } else {
        T elements[kVector<T>];
#pragma unroll
        for (int i = 0; i < kVector<T>; ++i) elements[i] = line < lines && column + i < width ? from[i] : T{};
        uint4 packed;
        memcpy(&packed, elements, sizeof packed);
        Store16(to, packed);
      }
    }
  }
};

template <class T, int kTile, bool kDepthContiguous>
__device__ __forceinline__ OperandTile<T, kTile, kDepthContiguous> MakeOperandTile(const Side& side, int64_t outer,
                                                                                   int64_t inner, int64_t first,
                                                                                   int64_t size) {
  const int64_t batch = outer * side.outer + inner * side.inner;
  const T* data = static_cast<const T*>(side.data) + batch + (kDepthContiguous ? first * side.stride : first);
  return {data, side.stride, static_cast<int>(min(size - first, int64_t{kTile})), side.vectors};
}

// Four neighbouring columns of C.
template <class T>
__device__ __forceinline__ void StoreFour(const float4& value, T* target, int count, bool vectors) {
  const float parts[4] = {value.x, value.y, value.z, value.w};
  if (vectors) {
    if constexpr (sizeof(T) == 4) {
      Store16(target, make_uint4(FloatBits(value.x), FloatBits(value.y), FloatBits(value.z), FloatBits(value.w)));
    } else {
      *reinterpret_cast<uint2*>(target) = {Pack<T>(value.x, value.y), Pack<T>(value.z, value.w)};
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i < count) Narrow(parts[i], target + i);
    }
  }
}

// kStages slices of both operands; afterwards every warp's own [16, kWarpColumns] of C, padded.
template <int kTile>
constexpr int kStagingStride = kTile / kWarpsAcross + 8;
template <class T, int kTile, bool kRowMajorA, bool kRowMajorB>
constexpr size_t SharedBytes() {
  using TileA = OperandTile<T, kTile, kRowMajorA>;
  using TileB = OperandTile<T, kTile, !kRowMajorB>;
  constexpr size_t kSlices = kStages * (TileA::kElements + TileB::kElements) * sizeof(T);
  constexpr size_t kStaging = kThreads / 32 * 16 * kStagingStride<kTile> * sizeof(float);
  return kSlices > kStaging ? kSlices : kStaging;
}

// One block per (batch, split, tile of C).
template <class T, int kTile, bool kRowMajorA, bool kRowMajorB>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 2 : 1) GemmKernel(const Arguments p) {
  using TileA = OperandTile<T, kTile, kRowMajorA>;
  using TileB = OperandTile<T, kTile, !kRowMajorB>;
  constexpr int kWarpRows = kTile / kWarpsDown, kWarpColumns = kTile / kWarpsAcross;
  constexpr int kDown = kWarpRows / 16, kAcross = kWarpColumns / 8;

  // Where in the result. All counts of blocks fit in 32 bits.
  const unsigned tiles = p.row_tiles * p.column_tiles;
  const unsigned tile = blockIdx.x % tiles, split = blockIdx.x / tiles % p.splits,
                 batch = blockIdx.x / tiles / p.splits;
  const unsigned group = tile / (kTileGroup * p.column_tiles) * kTileGroup;
  const unsigned in_group = tile - group * p.column_tiles, group_rows = min(p.row_tiles - group, kTileGroup);
  const unsigned tile_row = group + in_group % group_rows, tile_column = in_group / group_rows;
  const unsigned outer = batch / p.inner, inner = batch % p.inner;
  const auto a = MakeOperandTile<T, kTile, kRowMajorA>(p.a, outer, inner, int64_t{tile_row} * kTile, p.rows);
  const auto b =
      MakeOperandTile<T, kTile, !kRowMajorB>(p.b, outer, inner / p.b_share, int64_t{tile_column} * kTile, p.columns);
  const int64_t begin = split * p.split_depth, end = min(begin + p.split_depth, p.depth);
  const int slices = static_cast<int>((end - begin + kSlice<T> - 1) / kSlice<T>);

  T* const shared = reinterpret_cast<T*>(SharedMemory());
  const auto stage_of = [&](int slice) { return shared + slice % kStages * (TileA::kElements + TileB::kElements); };
  const auto load = [&](int slice) {
    if (slice < slices) {
      const int64_t k = begin + int64_t{slice} * kSlice<T>;
      const int depth = static_cast<int>(min(end - k, int64_t{kSlice<T>}));
      a.Load(stage_of(slice), k, depth);
      b.Load(stage_of(slice) + TileA::kElements, k, depth);
    }
    CopyAsyncCommit();
  };

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warp_row = warp / kWarpsAcross * kWarpRows, warp_column = warp % kWarpsAcross * kWarpColumns;
  Accumulator c[kDown][kAcross] = {};
#pragma unroll
  for (int slice = 0; slice < kStages - 1; ++slice) load(slice);
  for (int slice = 0; slice < slices; ++slice) {
    CopyAsyncWait<kStages - 2>();
    __syncthreads();  // the slice is there, and the stage of the one before is free
    load(slice + kStages - 1);
    const T* tile_a = stage_of(slice);
    const T* tile_b = tile_a + TileA::kElements;
#pragma unroll kStepsUnrolled < T>
    for (int k = 0; k < kSlice<T>; k += kDepth<T>) {
      FragmentB<T> fragment_b[kAcross];
#pragma unroll
      for (int j = 0; j < kAcross; j += 2) {
        const int column = warp_column + 8 * j;
        if constexpr (kRowMajorB) {
          LoadBTransposed(fragment_b[j], fragment_b[j + 1], tile_b + k * TileB::kStride + column, TileB::kStride);
        } else {
          LoadB(fragment_b[j], fragment_b[j + 1], tile_b + column * TileB::kStride + k, TileB::kStride);
        }
      }
      FragmentA<T> fragment_a[2];  // the next is loaded while one is multiplied
      const auto load_a = [&](int i) {
        const int row = warp_row + 16 * i;
        if constexpr (kRowMajorA) {
          LoadA(fragment_a[i % 2], tile_a + (row + RowOfA<T>()) * TileA::kStride + k + DepthOfA<T>());
        } else {
          LoadATransposed(fragment_a[i % 2], tile_a + k * TileA::kStride + row, TileA::kStride);
        }
      };
      load_a(0);
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        if (i + 1 < kDown) load_a(i + 1);
#pragma unroll
        for (int j = 0; j < kAcross; ++j) Multiply(c[i][j], fragment_a[i % 2], fragment_b[j]);
      }
    }
    if (const TotalStep step(p.totals, slice, slices, kSlicesPerTotal<T>); step.moves) {
      float4* const own = OwnTotals<kThreads>(p.totals, kTotals<kTile>);
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
        MoveIntoTotals<kThreads>(step, c[i], own + i * kAcross * kTotalParts * kThreads);
      }
    }
  }
  CopyAsyncWait<0>();
  __syncthreads();
  if constexpr (std::is_same_v<T, float>) {
#pragma unroll
    for (int i = 0; i < kDown; ++i) {
      RetakeOverflows<kAcross>(
          c[i], end - begin,
          [&](int64_t k, int row, int half) { return a.At(warp_row + 16 * i + row + 8 * half, begin + k); },
          [&](int64_t k, int column) { return b.At(warp_column + column, begin + k); });
    }
  }

  // To C through shared memory, 16 rows at a time, so that lanes store neighbouring columns.
  constexpr int kStride = kStagingStride<kTile>, kPerRow = kWarpColumns / 4, kRowsPerPass = 32 / kPerRow;
  float* const staging = reinterpret_cast<float*>(SharedMemory()) + warp * 16 * kStride;
  const int lane = LaneId();
  const int64_t c_batch = split * p.c_split + outer * p.c_outer + inner * p.c_inner;
  const int64_t column = int64_t{tile_column} * kTile + warp_column + lane % kPerRow * 4;
  const int count = static_cast<int>(max(min(p.columns - column, int64_t{4}), int64_t{0}));
  const bool vectors = p.c_vectors && count == 4;
  float4 column_bias{};
  if (p.column_bias != nullptr) {
    const float* bias = p.column_bias + column;
    column_bias = {count > 0 ? bias[0] : 0, count > 1 ? bias[1] : 0, count > 2 ? bias[2] : 0, count > 3 ? bias[3] : 0};
  }
#pragma unroll
  for (int i = 0; i < kDown; ++i) {
    __syncwarp();
#pragma unroll
    for (int j = 0; j < kAcross; ++j) {
      float* at = staging + lane / 4 * kStride + 8 * j + lane % 4 * 2;
      *reinterpret_cast<float2*>(at) = {c[i][j].c[0], c[i][j].c[1]};
      *reinterpret_cast<float2*>(at + 8 * kStride) = {c[i][j].c[2], c[i][j].c[3]};
    }
    __syncwarp();
#pragma unroll
    for (int pass = 0; pass < 16 / kRowsPerPass; ++pass) {
      const int line = pass * kRowsPerPass + lane / kPerRow;
      const int64_t row = int64_t{tile_row} * kTile + warp_row + 16 * i + line;
      if (row >= p.rows || count == 0) continue;
      const uint4 bits = Load16(staging + line * kStride + lane % kPerRow * 4);
      const float row_bias = p.row_bias == nullptr ? 0 : p.row_bias[row];
      const float4 value{BitsToFloat(bits.x) + row_bias + column_bias.x, BitsToFloat(bits.y) + row_bias + column_bias.y,
                         BitsToFloat(bits.z) + row_bias + column_bias.z,
                         BitsToFloat(bits.w) + row_bias + column_bias.w};
      const int64_t target = c_batch + row * p.c_stride + column;
      if (p.c_float) {
        StoreFour(value, static_cast<float*>(p.c) + target, count, vectors);
      } else {
        StoreFour(value, static_cast<T*>(p.c) + target, count, vectors);
      }
    }
  }
}

// C = partial sums [splits, batches, rows, columns] over splits, first to last, + bias.
template <class C>
__global__ void __launch_bounds__(kElementThreads)
    AddSplitsKernel(const Arguments p, int64_t batches, const float* partial) {
  const int64_t size = batches * p.rows * p.columns;
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) {
    const int64_t column = i % p.columns, row = i / p.columns % p.rows, batch = i / p.columns / p.rows;
    float sum = 0, rest = 0;
    for (unsigned split = 0; split < p.splits; ++split) AddCompensated(partial[split * size + i], sum, rest);
    if (p.row_bias != nullptr) sum += p.row_bias[row];
    if (p.column_bias != nullptr) sum += p.column_bias[column];
    const int64_t target = batch / p.inner * p.c_outer + batch % p.inner * p.c_inner + row * p.c_stride + column;
    Narrow(sum, static_cast<C*>(p.c) + target);
  }
}

template <class T>
__global__ void __launch_bounds__(kElementThreads) RoundKernel(int64_t size, const float* input, T* output) {
  for (int64_t i = FirstItem(); i < size; i += ItemStride()) Narrow(input[i], output + i);
}

template <class T>
bool Aligned(const void* data, int64_t stride, int64_t outer, int64_t inner, int elements) {
  return reinterpret_cast<uintptr_t>(data) % (elements * sizeof(T)) == 0 && stride % elements == 0 &&
         outer % elements == 0 && inner % elements == 0;
}

// `contiguous`: size of the operand's dimension that is contiguous.
template <class T>
Side MakeSide(const Matrix& m, int64_t contiguous) {
  const bool vectors = contiguous % kVector<T> == 0 && Aligned<T>(m.data, m.stride, m.outer, m.inner, kVector<T>);
  return {m.data, m.stride, m.outer, m.inner, vectors};
}

template <class T, int kTile>
Status LaunchTiles(CudaContext& context, const Product& product, const Arguments& p, int64_t blocks) {
  const auto launch = [&]<bool kRowMajorA, bool kRowMajorB>() {
    const Grid grid{dim3(static_cast<unsigned>(blocks)), kThreads, SharedBytes<T, kTile, kRowMajorA, kRowMajorB>()};
    return context.Launch(GemmKernel<T, kTile, kRowMajorA, kRowMajorB>, grid, p);
  };
  if (product.a.transposed) {
    return product.b.transposed ? launch.template operator()<false, false>()
                                : launch.template operator()<false, true>();
  }
  return product.b.transposed ? launch.template operator()<true, false>() : launch.template operator()<true, true>();
}

template <class T>
Status BuiltIn(CudaContext& context, const Product& product) {
  constexpr int kLarge = 128, kSmall = 64;
  const int64_t batches = product.outer * product.inner, slices = CeilDiv(product.depth, kSlice<T>);
  const int64_t most_splits = std::max<int64_t>(1, slices / kLeastSlicesPerSplit);
  const auto tiles = [&](int tile) { return CeilDiv(product.rows, tile) * CeilDiv(product.columns, tile) * batches; };
  // The large tile reads less per product, if it leaves no multiprocessor idle and is not mostly empty.
  const bool large =
      tiles(kLarge) * most_splits >= context.multiprocessors() && product.rows > kSmall && product.columns > kSmall;
  const int tile = large ? kLarge : kSmall;

  // Two blocks per multiprocessor, if C alone does not give them.
  const int64_t wanted = std::clamp<int64_t>(2 * context.multiprocessors() / tiles(tile), 1, most_splits);
  const int64_t split_depth = CeilDiv(slices, wanted) * kSlice<T>, splits = CeilDiv(product.depth, split_depth);
  const int64_t blocks = tiles(tile) * splits;
  if (blocks > std::numeric_limits<int>::max()) return Status(StatusCode::kShape, "a product of 2^31 tiles or more");
  const bool split = splits > 1;

  Arguments p{};
  p.rows = product.rows;
  p.columns = product.columns;
  p.depth = product.depth;
  p.inner = static_cast<unsigned>(product.inner);
  p.b_share = static_cast<unsigned>(product.b_share);
  p.row_tiles = static_cast<unsigned>(CeilDiv(p.rows, tile));
  p.column_tiles = static_cast<unsigned>(CeilDiv(p.columns, tile));
  p.splits = static_cast<unsigned>(splits);
  p.split_depth = split_depth;
  if (split_depth > kSlicesPerTotal<T> * kSlice<T>) {
    p.totals = context.Take<float4>(blocks * kThreads * kTotalParts * (large ? kTotals<kLarge> : kTotals<kSmall>));
  }
  p.a = MakeSide<T>(product.a, product.a.transposed ? p.rows : p.depth);
  p.b = MakeSide<T>(product.b, product.b.transposed ? p.depth : p.columns);

  const Result& c = product.c;
  const bool c_float = c.dtype == DType::kF32;
  Arguments final = p;
  final.c = c.data;
  final.c_stride = c.stride;
  final.c_outer = c.outer;
  final.c_inner = c.inner;
  final.c_float = c_float;
  final.c_vectors = c_float ? Aligned<float>(c.data, c.stride, c.outer, c.inner, 4)
                            : Aligned<T>(c.data, c.stride, c.outer, c.inner, 4);
  final.row_bias = product.row_bias;
  final.column_bias = product.column_bias;
  if (split) {
    p.c_stride = p.columns;
    p.c_inner = p.rows * p.columns;
    p.c_outer = p.inner * p.c_inner;
    p.c_split = batches * p.c_inner;
    p.c = context.Take<float>(splits * p.c_split);
    p.c_float = true;
    p.c_vectors = p.columns % 4 == 0;
  }

  const Arguments& first = split ? p : final;
  const Status status = large ? LaunchTiles<T, kLarge>(context, product, first, blocks)
                              : LaunchTiles<T, kSmall>(context, product, first, blocks);
  if (!split || !status.ok()) return status;
  const auto* partial = static_cast<const float*>(p.c);
  const Grid grid = ElementGrid(context, p.c_split);
  return c_float ? context.Launch(AddSplitsKernel<float>, grid, final, batches, partial)
                 : context.Launch(AddSplitsKernel<T>, grid, final, batches, partial);
}

}  // namespace

Status Gemm(CudaContext& context, const Product& product) {
  bool done = false;
  SAS_TRY(context.blas().Multiply(context, product, &done));
  if (done) return {};
  switch (product.dtype) {
    case DType::kBF16:
      return BuiltIn<BFloat16>(context, product);
    case DType::kF16:
      return BuiltIn<Float16>(context, product);
    default:
      return context.tf32() ? BuiltIn<Tf32>(context, product) : BuiltIn<float>(context, product);
  }
}

Status RoundParameter(CudaContext& context, DType dtype, int64_t size, const float* parameter, const void** rounded) {
  *rounded = parameter;
  return DispatchFloat(dtype, [&]<class T>(T*) -> Status {
    if constexpr (sizeof(T) == sizeof(float)) return {};
    if (size == 0) return {};
    WeightKey key;
    key.sources[0] = parameter;
    key.sizes[0] = size;
    key.type = kWeightType<T>;
    void* copy = nullptr;
    SAS_TRY(context.weights().Get(
        key, static_cast<size_t>(size) * sizeof(T),
        [&](WeightCache::Entry& entry) {
          return context.Launch(RoundKernel<T>, ElementGrid(context, size), size, parameter,
                                static_cast<T*>(entry.data));
        },
        &copy));
    *rounded = copy;
    return {};
  });
}

Status RoundScratch(CudaContext& context, DType dtype, int64_t size, const float* values, const void** rounded) {
  *rounded = values;
  return DispatchFloat(dtype, [&]<class T>(T*) -> Status {
    if constexpr (sizeof(T) == sizeof(float)) return {};
    T* copy = context.Take<T>(size);
    *rounded = copy;
    return context.Launch(RoundKernel<T>, ElementGrid(context, size), size, values, copy);
  });
}

}  // namespace sas::cuda
