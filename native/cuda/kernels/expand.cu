// Fused head and feature expansion, forward (arXiv 2507.07694, sections on head and feature simulation): one persistent
// block per multiprocessor keeps the packed weights in shared memory and takes tiles of tokens; nothing between X and
// the output touches device memory. Per token and tensor 2 D k (H H' + H' H') + 2 H' (D D' + D' D') FLOP over (H D + H'
// D') elements: at the reference size 2.2 MFLOP and 8.4 KB in bf16.
#include "cuda/kernels/expand.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace expand {
namespace {

constexpr int kPackThreads = 256;

template <class T>
__device__ __forceinline__ void PackMatrix(const PackedMatrix& m, uint2* packed) {
  for (int64_t i = FirstItem(); i < m.size(); i += ItemStride()) {
    const int lane = static_cast<int>(i % 32), step = static_cast<int>(i / 32 / m.column_tiles);
    const int column = static_cast<int>(i / 32 % m.column_tiles) * 8 + lane / 4;
    const auto element = [&](int k) {
      const int tap = k / m.inner_padded, inner = k % m.inner_padded;
      if (column >= m.columns || inner >= m.inner || k >= m.depth) return 0.0f;
      const float weight = m.source[m.offset + column * m.column_stride + inner * m.inner_stride + tap * m.tap_stride];
      return m.remainder ? weight - Widen(Narrowed<T>(weight)) : weight;
    };
    const auto reg = [&](int r) {
      if constexpr (sizeof(T) == 2) {
        const int k = step * 16 + r * 8 + lane % 4 * 2;
        return Pack<T>(element(k), element(k + 1));
      } else {
        return FloatBits(element(step * 8 + r * 4 + lane % 4));
      }
    };
    packed[m.target + i] = {reg(0), reg(1)};
  }
}

// Leaves its argument beside what it packs, for RepackKernel.
template <class T>
__global__ void __launch_bounds__(kPackThreads)
    PackKernel(const __grid_constant__ PackedMatrices all, uint2* packed, PackedMatrices* kept) {
  if (blockIdx.x == 0 && blockIdx.y == 0) {
    const auto* from = reinterpret_cast<const uint32_t*>(&all);
    auto* to = reinterpret_cast<uint32_t*>(kept);
    for (unsigned i = threadIdx.x; i < sizeof all / sizeof *to; i += kPackThreads) to[i] = from[i];
  }
  PackMatrix<T>(all.matrices[blockIdx.y], packed);
}

struct Repacking {
  static constexpr int kMax = 240;  // of the 4 KB that a kernel's parameters have
  struct Pack {
    const PackedMatrices* matrices;
    uint2* packed;
  } packs[kMax];
};

// blockIdx.y counts matrices, blockIdx.z packs.
template <class T>
__global__ void __launch_bounds__(kPackThreads) RepackKernel(const __grid_constant__ Repacking all) {
  const Repacking::Pack& pack = all.packs[blockIdx.z];
  if (static_cast<int>(blockIdx.y) < pack.matrices->count)
    PackMatrix<T>(pack.matrices->matrices[blockIdx.y], pack.packed);
}

template <class T>
Status RepackType(CudaContext& context, const KeptPacks& packs) {
  Repacking table{};
  unsigned count = 0;
  int64_t items = 0;
  const auto flush = [&]() -> Status {
    const Grid grid{dim3(static_cast<unsigned>(CeilDiv(items, kPackThreads)), kMaxMatrices, count), kPackThreads};
    count = 0;
    return context.Launch(RepackKernel<T>, grid, table);
  };
  for (const auto& [key, entry] : packs) {
    if (key->type != kWeightType<T>) continue;
    if (count == Repacking::kMax) SAS_TRY(flush());
    const size_t packed_bytes = entry->bytes - sizeof(PackedMatrices);
    table.packs[count++] = {reinterpret_cast<const PackedMatrices*>(static_cast<char*>(entry->data) + packed_bytes),
                            static_cast<uint2*>(entry->data)};
    items = std::max(items, entry->items);
  }
  return flush();
}

struct Arguments : TileArguments {
  Weights feature_residual;  // W4
  const float* feature_residual_bias;
};

// As StoreItems, with pairs of features rotated: of the items as they are stored, since neighbouring features of a row
// product lie in different lanes.
template <class T>
__device__ __forceinline__ void StoreRotatedItems(const T* items, int stride, int valid, int heads, int heads_padded,
                                                  int dim, const Rotation& rotation, T* target) {
  const int pairs = dim / 2;
  for (int i = static_cast<int>(threadIdx.x); i < valid * heads * pairs; i += kThreads) {
    const int feature = i % pairs * 2, head = i / pairs % heads, token = i / pairs / heads;
    const float2 pair = LoadPair(items + (token * heads_padded + head) * stride + feature);
    StorePair(target + int64_t{i} * 2, rotation(token, feature, pair));
  }
}

template <class T, bool kFeatures>
__global__ void __launch_bounds__(kThreads, 1) ExpandKernel(const Arguments p, const T* x, T* output) {
  unsigned char* const shared = SharedMemory();
  const auto at = [&](int offset) { return reinterpret_cast<T*>(shared + offset); };
  const Tile& tile = p.tile;
  T *const zeros = at(p.zeros_at), *const x_rows = at(p.x_at);
  const Operand<T> c1{at(p.c1_at)}, y{at(p.y_at)};
  T* const z1 = at(p.z1_at);
  const uint2* const weights =
      PlaceWeights(p.packed, p.packed_size, p.resident ? reinterpret_cast<uint2*>(shared + p.weights_at) : nullptr);
  float* const biases = reinterpret_cast<float*>(shared + p.biases_at);
  float *const first_bias = biases, *const second_bias = biases + tile.sim_heads_padded;
  float* const feature_bias = second_bias + tile.sim_heads_padded;
  float* const feature_residual_bias = feature_bias + tile.width_padded;
  PlaceBias(p.first_bias, tile.sim_heads, tile.sim_heads_padded, first_bias);
  PlaceBias(p.second_bias, tile.sim_heads, tile.sim_heads_padded, second_bias);
  if constexpr (kFeatures) {
    PlaceBias(p.feature_bias, tile.width, tile.width_padded, feature_bias);
    PlaceBias(p.feature_residual_bias, tile.width, tile.width_padded, feature_residual_bias);
  }
  ZeroFill(zeros, kVector<T>);
  ZeroFill(y.rounded, tile.all_items * tile.narrow_stride);
  ZeroGaps(tile, x_rows, tile.heads_padded);

  for (int64_t first = int64_t{blockIdx.x} * tile.tokens; first < p.tokens; first += int64_t{gridDim.x} * tile.tokens) {
    const int valid = static_cast<int>(min(int64_t{tile.tokens}, p.tokens - first));
    const Rotation rotation(p.angles, first);
    // No barrier before: what the tile before still reads, Z1 or Y, is not written until after the next.
    LoadRows(tile, x + first * tile.heads * tile.dim, valid, tile.heads, tile.heads_padded, x_rows);
    __syncthreads();
    ZeroGaps(tile, c1.rounded, tile.sim_heads_padded);
    FirstConvolution<false, false>(tile, x_rows, weights, p.first, first_bias, zeros, c1);
    __syncthreads();
    SecondConvolution<false>(tile, c1, weights, p.second, second_bias, zeros, y);
    __syncthreads();
    if constexpr (kFeatures) {
      // Z1 lies where C1 lay.
      FirstFeatures<false>(tile, y, weights, p.feature, feature_bias, zeros, z1);
      __syncthreads();
      T* const target = output + first * tile.sim_heads * tile.width;
      const bool paired = tile.width % 2 == 0;
      RowProduct<true>(
          Operand<T>{z1}, tile.wide_stride, tile.items, weights, p.feature_residual, zeros,
          [&](int item) {
            const int token = item / tile.sim_heads_padded, head = item % tile.sim_heads_padded;
            const bool present = token < valid && head < tile.sim_heads;
            return Place{present ? (token * tile.sim_heads + head) * tile.width : -1, item * tile.wide_stride, token};
          },
          [&](const Place& place, int e, float2 value) {
            if (e >= tile.width) return;
            float2 sum = Add(Add(value, LoadPair(z1 + place.from + e)), LoadPair(feature_residual_bias + e));
            if (rotation) sum = rotation(place.token, e, sum);
            T* to = target + place.to + e;
            if (paired) {
              StorePair(to, sum);
            } else {
              Narrow(sum.x, to);
              if (e + 1 < tile.width) Narrow(sum.y, to + 1);
            }
          });
    } else {
      T* const target = output + first * tile.sim_heads * tile.dim;
      if (rotation) {
        StoreRotatedItems(y.rounded, tile.narrow_stride, valid, tile.sim_heads, tile.sim_heads_padded, tile.dim,
                          rotation, target);
      } else {
        StoreItems(y.rounded, tile.narrow_stride, valid, tile.sim_heads, tile.sim_heads_padded, tile.dim, target);
      }
    }
  }
}

}  // namespace

template <class T>
Status PackWeights(CudaContext& context, const WeightKey& key, const PackedMatrices& matrices, const uint2** packed) {
  const auto bytes = static_cast<size_t>(matrices.bytes());
  void* data = nullptr;
  const Status status = context.weights().Get(
      key, bytes + sizeof matrices,
      [&](WeightCache::Entry& entry) {
        for (int i = 0; i < matrices.count; ++i) entry.items = std::max(entry.items, matrices.matrices[i].size());
        const Grid grid{
            dim3(static_cast<unsigned>(CeilDiv(entry.items, kPackThreads)), static_cast<unsigned>(matrices.count)),
            kPackThreads};
        auto* const kept = reinterpret_cast<PackedMatrices*>(static_cast<char*>(entry.data) + bytes);
        return context.Launch(PackKernel<T>, grid, matrices, static_cast<uint2*>(entry.data), kept);
      },
      &data);
  *packed = static_cast<const uint2*>(data);
  return status;
}
template Status PackWeights<float>(CudaContext&, const WeightKey&, const PackedMatrices&, const uint2**);
template Status PackWeights<Tf32>(CudaContext&, const WeightKey&, const PackedMatrices&, const uint2**);
template Status PackWeights<BFloat16>(CudaContext&, const WeightKey&, const PackedMatrices&, const uint2**);
template Status PackWeights<Float16>(CudaContext&, const WeightKey&, const PackedMatrices&, const uint2**);

Status Repack(CudaContext& context, const KeptPacks& packs) {
  SAS_TRY(RepackType<float>(context, packs));
  SAS_TRY(RepackType<Tf32>(context, packs));
  SAS_TRY(RepackType<BFloat16>(context, packs));
  SAS_TRY(RepackType<Float16>(context, packs));
  for (const auto& [key, entry] : packs) WeightCache::Refresh(entry);
  return {};
}

namespace {

template <class T>
Status Run(CudaContext& context, const ExpandParams& p) {
  const ExpandShape& s = p.shape;
  const auto kernel = s.features ? ExpandKernel<T, true> : ExpandKernel<T, false>;
  int threads = 0;
  SAS_TRY(context.ThreadsOf(kernel, kMaxThreads, &threads));
  Arguments arguments{};
  if (p.rope) SAS_TRY(MakeAngles(context, *p.rope, false, &arguments.angles));
  PackedMatrices packed;
  AddForwardWeights<T>(s, p.weights, false, &packed, &arguments);
  if (s.features) {
    PackedMatrix matrix{};
    matrix.source = p.weights.feature_residual_weight;  // [e][f]
    matrix.columns = matrix.inner = static_cast<int>(s.sim_head_dim);
    matrix.column_stride = s.sim_head_dim;
    matrix.inner_stride = 1;
    arguments.feature_residual = Weights(packed.Add<T>(matrix, 1));
    arguments.feature_residual_bias = p.weights.feature_residual_bias;
  }

  const auto layout = [&](Arguments* a, int tokens) {
    const Tile tile = MakeTile<T>(s, tokens);
    const int64_t item = sizeof(T);
    SharedLayout shared;
    a->tile = tile;
    a->zeros_at = shared.Take(16);
    a->biases_at = shared.Take(BiasBytes(tile));
    a->weights_at = a->resident ? shared.Take(packed.bytes()) : 0;
    a->y_at = shared.Take(int64_t{tile.all_items} * tile.narrow_stride * item);
    a->x_at = shared.Take(int64_t{tile.all_rows} * tile.heads_padded * item);
    const int64_t rows = int64_t{tile.all_rows} * tile.sim_heads_padded * item;
    const int64_t wide = int64_t{tile.all_items} * tile.wide_stride * item;
    a->c1_at = a->z1_at = shared.Take(s.features ? std::max(wide, rows) : rows);
    return shared.bytes();
  };
  const auto phases = [&](Arguments* a, int tokens, const auto& visit) {
    const Tile tile = MakeTile<T>(s, tokens);
    for (Weights* w : {&a->first, &a->second}) visit(w, tile.rows);
    if (!s.features) return;
    for (Weights* w : {&a->feature, &a->feature_residual}) visit(w, tile.items);
  };
  Grid grid;
  SAS_TRY(Prepare<T>(context, s, KeyOf<T>(Form::kExpandForward, s, p.weights), packed, layout, phases, 0, threads,
                     &arguments, &grid));
  return context.Launch(kernel, grid, arguments, static_cast<const T*>(p.x), static_cast<T*>(p.output));
}

}  // namespace
}  // namespace expand

Status Expand(CudaContext& context, const ExpandParams& p) {
  if (p.kept.head_relu != nullptr || p.kept.heads != nullptr) {
    return Status(StatusCode::kInternal, "nothing is kept for the backward pass on this device");
  }
  return expand::DispatchProducts(context, p.dtype, [&]<class T>(T*) { return expand::Run<T>(context, p); });
}

}  // namespace sas::cuda
