// Warp-level tensor-core products for every element type: fragments, how they are loaded from shared memory, and the
// multiply-add. One set of names, so that a kernel is written once:
//   bf16, f16: one product per step of 16 along K.
//   f32: each operand is split into three bf16 parts, which together hold its 24 bits, and six products of parts per
//        step of 8 along K give what f32 multiply-adds give. The tensor core truncates its sums, so every step starts
//        from zero and is added to the accumulator in f32 (Ootomo and Yokota 2022). What leaves their range comes out
//        infinite or NaN, and RetakeOverflows computes it again.
//   Tf32: f32 storage, operands rounded to TF32, one product per step of 8.
// In the layouts below g = lane / 4 and t = lane % 4.
#pragma once

#include <type_traits>

#include "cuda/device/long_sum.cuh"
#include "cuda/device/ptx.cuh"

namespace sas::cuda {

// f32 storage whose products are done in TF32.
struct Tf32 {
  float value;
};
__device__ __forceinline__ float Widen(Tf32 value) { return value.value; }
__device__ __forceinline__ void Narrow(float value, Tf32* out) { out->value = value; }

template <class T>
__device__ __forceinline__ T Narrowed(float value) {
  T result;
  Narrow(value, &result);
  return result;
}

// Step along K of one Multiply, and elements in 16 bytes.
template <class T>
constexpr int kDepth = sizeof(T) == 2 ? 16 : 8;
template <class T>
constexpr int kVector = 16 / sizeof(T);

__device__ __forceinline__ int LaneId() { return static_cast<int>(threadIdx.x) % 32; }

// c[0], c[1]: row g, columns 2t, 2t + 1; c[2], c[3]: row g + 8.
struct Accumulator {
  float c[4];
};

// Rows g and g + 8 have shrunk by shrink[0] and shrink[1].
template <int kThreads, int kTiles>
__device__ __forceinline__ void MoveIntoTotals(const TotalStep& step, Accumulator (&terms)[kTiles], float4* own,
                                               const float (&shrink)[2] = {1.0f, 1.0f}) {
  const auto four_of = [&](int j) -> float(&)[4] { return terms[j].c; };
  MoveFoursIntoTotals<kThreads, kTiles>(step, four_of, own, shrink);
}

// A [16, kDepth]: rows of the result.
template <class T>
struct FragmentA {
  uint32_t r[4];
};
template <>
struct FragmentA<float> {
  uint32_t parts[3][2];  // rows g and g + 8
};
// B [kDepth, 8]: columns of the result.
template <class T>
struct FragmentB {
  uint32_t r[2];
};
template <>
struct FragmentB<float> {
  uint32_t parts[3];
};

namespace fragment {

// Parts are those of x * kSplitScale, so that even the smallest f32 keeps all its bits: bf16 ends at 2^-133, f32 at
// 2^-149.
constexpr float kSplitScale = 0x1p16f, kProductScale = 0x1p-32f;

// x = sum of the lower halves of the parts, y = sum of the upper halves.
__device__ __forceinline__ void Split(float x, float y, uint32_t& part0, uint32_t& part1, uint32_t& part2) {
  x *= kSplitScale;
  y *= kSplitScale;
  part0 = Pack<BFloat16>(x, y);
  x -= BitsToFloat(part0 << 16);
  y -= BitsToFloat(part0 & 0xffff0000u);
  part1 = Pack<BFloat16>(x, y);
  part2 = Pack<BFloat16>(x - BitsToFloat(part1 << 16), y - BitsToFloat(part1 & 0xffff0000u));
}

// Registers as loaded, into what Multiply takes.
template <class Fragment, int kCount>
__device__ __forceinline__ void Assign(Fragment& fragment, const uint32_t (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) fragment.r[i] = r[i];
}
// Columns t and t + 4 share a register, in A and B alike: K may run in any order that both agree on.
__device__ __forceinline__ void Assign(FragmentA<float>& fragment, const uint32_t (&r)[4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    Split(BitsToFloat(r[i]), BitsToFloat(r[i + 2]), fragment.parts[0][i], fragment.parts[1][i], fragment.parts[2][i]);
  }
}
__device__ __forceinline__ void Assign(FragmentB<float>& fragment, const uint32_t (&r)[2]) {
  Split(BitsToFloat(r[0]), BitsToFloat(r[1]), fragment.parts[0], fragment.parts[1], fragment.parts[2]);
}
template <int kCount>
__device__ __forceinline__ void Assign(FragmentA<Tf32>& fragment, const uint32_t (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) fragment.r[i] = RoundToTf32(BitsToFloat(r[i]));
}
template <int kCount>
__device__ __forceinline__ void Assign(FragmentB<Tf32>& fragment, const uint32_t (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) fragment.r[i] = RoundToTf32(BitsToFloat(r[i]));
}

template <class T>
__device__ __forceinline__ uint32_t Word(const T* element) {
  return FloatBits(Widen(*element));
}

template <bool kRelu, class T, int kCount>
__device__ __forceinline__ void MaybeRelu(uint32_t (&r)[kCount]) {
  if constexpr (kRelu) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if constexpr (sizeof(T) == 2) {
        r[i] = ReluPacked<T>(r[i]);
      } else {
        r[i] = BitsToFloat(r[i]) < 0 ? 0u : r[i];
      }
    }
  }
}

}  // namespace fragment

// ---- loads from shared memory. `kRelu` passes every element through max(x, 0).

// Where lane `lane` points for LoadA: row lane % 16, columns from (lane / 16) * kVector on.
template <class T>
__device__ __forceinline__ int RowOfA() {
  return LaneId() % 16;
}
template <class T>
__device__ __forceinline__ int DepthOfA() {
  return LaneId() / 16 * kVector<T>;
}
// A[i][k] = rows stored with K contiguous; each lane gives the address of (RowOfA, DepthOfA), aligned to 16 bytes.
template <bool kRelu = false, class T>
__device__ __forceinline__ void LoadA(FragmentA<T>& a, const T* lane_address) {
  uint32_t r[4];
  LoadMatrix4(r, lane_address);
  fragment::MaybeRelu<kRelu, T>(r);
  fragment::Assign(a, r);
}

// A[i][k] = base[k * stride + i]: stored with the result's rows contiguous. 16-bit types: `base + 8 * j` and `stride`
// are aligned to 16 bytes.
template <bool kRelu = false, class T>
__device__ __forceinline__ void LoadATransposed(FragmentA<T>& a, const T* base, int stride) {
  const int lane = LaneId();
  uint32_t r[4];
  if constexpr (sizeof(T) == 2) {
    LoadMatrix4Transposed(r, base + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * 8);
  } else {
    const T* at = base + lane % 4 * stride + lane / 4;
    r[0] = fragment::Word(at);
    r[1] = fragment::Word(at + 8);
    r[2] = fragment::Word(at + 4 * stride);
    r[3] = fragment::Word(at + 4 * stride + 8);
  }
  fragment::MaybeRelu<kRelu, T>(r);
  fragment::Assign(a, r);
}

// B[k][j] = base[j * stride + k]: columns stored with K contiguous, rows of base aligned to 16 bytes.
template <bool kRelu = false, class T>
__device__ __forceinline__ void LoadB(FragmentB<T>& b, const T* base, int stride) {
  const int lane = LaneId();
  uint32_t r[2];
  LoadMatrix2(r, base + lane % 8 * stride + lane / 8 % 2 * kVector<T>);
  fragment::MaybeRelu<kRelu, T>(r);
  fragment::Assign(b, r);
}
// Two neighbouring fragments, columns 0-7 and 8-15, in one load.
template <bool kRelu = false, class T>
__device__ __forceinline__ void LoadB(FragmentB<T>& b0, FragmentB<T>& b1, const T* base, int stride) {
  const int lane = LaneId();
  uint32_t r[4];
  LoadMatrix4(r, base + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * kVector<T>);
  fragment::MaybeRelu<kRelu, T>(r);
  const uint32_t r0[2] = {r[0], r[1]}, r1[2] = {r[2], r[3]};
  fragment::Assign(b0, r0);
  fragment::Assign(b1, r1);
}

// B[k][j] = base[k * stride + j]: stored with the result's columns contiguous. With `kChained`, K runs in the order
// that ChainA leaves it (f32 only; for 16-bit types both orders are the same).
template <bool kChained = false, bool kRelu = false, class T>
__device__ __forceinline__ void LoadBTransposed(FragmentB<T>& b, const T* base, int stride) {
  const int lane = LaneId();
  uint32_t r[2];
  if constexpr (sizeof(T) == 2) {
    LoadMatrix2Transposed(r, base + lane % 16 * stride);
  } else {
    const T* at = base + (kChained ? lane % 4 * 2 : lane % 4) * stride + lane / 4;
    r[0] = fragment::Word(at);
    r[1] = fragment::Word(at + (kChained ? 1 : 4) * stride);
  }
  fragment::MaybeRelu<kRelu, T>(r);
  fragment::Assign(b, r);
}
template <bool kChained = false, bool kRelu = false, class T>
__device__ __forceinline__ void LoadBTransposed(FragmentB<T>& b0, FragmentB<T>& b1, const T* base, int stride) {
  if constexpr (sizeof(T) == 2) {
    const int lane = LaneId();
    uint32_t r[4];
    LoadMatrix4Transposed(r, base + lane % 16 * stride + lane / 16 * 8);
    fragment::MaybeRelu<kRelu, T>(r);
    const uint32_t r0[2] = {r[0], r[1]}, r1[2] = {r[2], r[3]};
    fragment::Assign(b0, r0);
    fragment::Assign(b1, r1);
  } else {
    LoadBTransposed<kChained, kRelu>(b0, base, stride);
    LoadBTransposed<kChained, kRelu>(b1, base + 8, stride);
  }
}

// The A operand of a second product from the accumulators of a first: columns become K. One step of kDepth<T> takes
// kDepth<T> / 8 neighbouring accumulators.
template <class T>
__device__ __forceinline__ void ChainA(FragmentA<T>& a, const Accumulator* columns) {
  if constexpr (sizeof(T) == 2) {
    a.r[0] = Pack<T>(columns[0].c[0], columns[0].c[1]);
    a.r[1] = Pack<T>(columns[0].c[2], columns[0].c[3]);
    a.r[2] = Pack<T>(columns[1].c[0], columns[1].c[1]);
    a.r[3] = Pack<T>(columns[1].c[2], columns[1].c[3]);
  } else {  // K in the order 0, 2, 4, 6, 1, 3, 5, 7
    const uint32_t r[4] = {FloatBits(columns[0].c[0]), FloatBits(columns[0].c[2]), FloatBits(columns[0].c[1]),
                           FloatBits(columns[0].c[3])};
    fragment::Assign(a, r);
  }
}

// ---- products

__device__ __forceinline__ void Multiply(Accumulator& c, const FragmentA<BFloat16>& a, const FragmentB<BFloat16>& b) {
  MmaBF16(c.c, a.r, b.r);
}
__device__ __forceinline__ void Multiply(Accumulator& c, const FragmentA<Float16>& a, const FragmentB<Float16>& b) {
  MmaF16(c.c, a.r, b.r);
}
__device__ __forceinline__ void Multiply(Accumulator& c, const FragmentA<Tf32>& a, const FragmentB<Tf32>& b) {
  MmaTf32(c.c, a.r, b.r);
}
namespace fragment {

// The small terms first; those beyond 2^-24 are left out. With kMirrored the roles of the parts are exchanged.
template <bool kMirrored>
__device__ __forceinline__ void MultiplyParts(Accumulator& c, const FragmentA<float>& a, const FragmentB<float>& b) {
  constexpr int kTerms[6][2] = {{1, 1}, {0, 2}, {2, 0}, {0, 1}, {1, 0}, {0, 0}};
  float sum[4] = {};
#pragma unroll
  for (int term = 0; term < 6; ++term) {
    MmaBF16(sum, a.parts[kTerms[term][kMirrored ? 1 : 0]], b.parts[kTerms[term][kMirrored ? 0 : 1]]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) c.c[i] = fmaf(sum[i], kProductScale, c.c[i]);
}

__device__ __forceinline__ bool IsFinite(float x) { return fabsf(x) < INFINITY; }

}  // namespace fragment

__device__ __forceinline__ void Multiply(Accumulator& c, const FragmentA<float>& a, const FragmentB<float>& b) {
  fragment::MultiplyParts<false>(c, a, b);
}

// Multiply, with sums that are bit for bit those of Multiply where a and b have changed sides.
template <class T>
__device__ __forceinline__ void MultiplyMirrored(Accumulator& c, const FragmentA<T>& a, const FragmentB<T>& b) {
  if constexpr (std::is_same_v<T, float>) {
    fragment::MultiplyParts<true>(c, a, b);
  } else {
    Multiply(c, a, b);
  }
}

// Sums over k < depth of a(k, g, half) * b(k, column), rows g + 8 * half by columns 8 * tile + 2 t + odd, of which
// those that are not finite are taken again by multiply-adds: an operand is infinite, or a product beyond 2^93 has
// overflown the scaled sum. Where all are finite that costs the look; the rest is slow and rare, and its addresses must
// not take registers from what goes before. By the whole warp.
template <int kTiles, class A, class B>
__device__ __forceinline__ void RetakeOverflows(Accumulator* c, int64_t depth, const A& a, const B& b) {
  bool finite = true;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) finite = finite && fragment::IsFinite(c[j].c[i]);
  }
  if (__all_sync(0xffffffffu, finite)) return;
  const int lane = Opaque(LaneId()), row = lane / 4, pair = lane % 4 * 2;
#pragma unroll 1
  for (int tile = 0; tile < kTiles; ++tile) {
    const int column = 8 * tile + pair;
    Accumulator total = {}, rest = {};
#pragma unroll 1
    for (int64_t first = 0; first < depth; first += kLongestChain) {
      Accumulator sum = {};
      const int64_t end = min(first + kLongestChain, depth);
#pragma unroll 1
      for (int64_t k = first; k < end; ++k) {
        const float left0 = a(k, row, 0), left1 = a(k, row, 1), right0 = b(k, column), right1 = b(k, column + 1);
        sum.c[0] = fmaf(left0, right0, sum.c[0]);
        sum.c[1] = fmaf(left0, right1, sum.c[1]);
        sum.c[2] = fmaf(left1, right0, sum.c[2]);
        sum.c[3] = fmaf(left1, right1, sum.c[3]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) AddCompensated(sum.c[i], total.c[i], rest.c[i]);
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {  // registers have no index
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (j == tile && !fragment::IsFinite(c[j].c[i])) c[j].c[i] = total.c[i];
      }
    }
  }
}

}  // namespace sas::cuda
