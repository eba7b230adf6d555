// One vector of floats, as wide as the instruction set being compiled has them. Built on the compiler's vector
// extensions: arithmetic, comparison and selection are plain operators (and a * b + c becomes one fused multiply-add),
// so kernels read as formulas; only what the extensions lack (partial loads, 16-bit conversions) is written per
// instruction set.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

#include "core/convert.h"

namespace sas::cpu::SAS_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif
inline constexpr int kLanes = kVectorBytes / 4;
#if defined(__AVX512F__) || defined(__aarch64__)
inline constexpr int kVectorRegisters = 32;
#else
inline constexpr int kVectorRegisters = 16;
#endif

// Terms that one sum of floats adds up before it is added to a sum of such sums (docs: precision and determinism).
inline constexpr int64_t kLongestChain = 64;

typedef float Vec __attribute__((vector_size(kVectorBytes)));
typedef int32_t VecInt __attribute__((vector_size(kVectorBytes)));
typedef uint16_t VecHalf __attribute__((vector_size(kVectorBytes / 2)));

#define SAS_INLINE inline __attribute__((always_inline))

constexpr int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
constexpr int64_t CeilDiv(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
template <class T>
constexpr T Min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T Max(T a, T b) {
  return a < b ? b : a;
}

SAS_INLINE Vec Broadcast(float value) { return value - Vec{}; }
SAS_INLINE VecInt BroadcastInt(int32_t value) { return value - VecInt{}; }
// b where one is NaN, like the instruction (which the compiler does not find in a > b ? a : b).
SAS_INLINE Vec VecMax(Vec a, Vec b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}
SAS_INLINE Vec VecMin(Vec a, Vec b) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_min_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(_mm256_min_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a < b ? a : b;
#endif
}
SAS_INLINE VecInt AsInt(Vec value) { return reinterpret_cast<VecInt>(value); }
SAS_INLINE Vec AsFloat(VecInt value) { return reinterpret_cast<Vec>(value); }
// 0, 1, 2, ...
SAS_INLINE VecInt LaneIndex() {
  VecInt index;
  for (int lane = 0; lane < kLanes; ++lane) index[lane] = lane;
  return index;
}

// ---- loads and stores: unaligned; any storage type, f32 in registers

SAS_INLINE Vec Load(const float* source) {
  Vec value;
  memcpy(&value, source, sizeof value);
  return value;
}
SAS_INLINE void Store(float* target, Vec value) { memcpy(target, &value, sizeof value); }

SAS_INLINE Vec Load(const BFloat16* source) {
  VecHalf bits;
  memcpy(&bits, source, sizeof bits);
  return AsFloat(__builtin_convertvector(bits, VecInt) << 16);
}
SAS_INLINE void Store(BFloat16* target, Vec value) {
  const VecInt bits = AsInt(value);
  const VecInt rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const VecInt quiet = bits >> 16 | 0x40;
  const VecHalf half = __builtin_convertvector(value == value ? rounded : quiet, VecHalf);
  memcpy(target, &half, sizeof half);
}

SAS_INLINE Vec Load(const Float16* source) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(
      _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#elif defined(__aarch64__)
  float16x4_t bits;
  memcpy(&bits, source, sizeof bits);
  return reinterpret_cast<Vec>(vcvt_f32_f16(bits));
#else
  Vec value;
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = ToFloat(source[lane]);
  return value;
#endif
}
SAS_INLINE void Store(Float16* target, Vec value) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(target),
      _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target),
                   _mm256_cvtps_ph(reinterpret_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__aarch64__)
  const float16x4_t bits = vcvt_f16_f32(reinterpret_cast<float32x4_t>(value));
  memcpy(target, &bits, sizeof bits);
#else
  for (int lane = 0; lane < kLanes; ++lane) FromFloat(value[lane], target + lane);
#endif
}

// The first `count` lanes, 0 <= count <= kLanes; the others are 0. Touches no memory beyond them.
template <class T>
SAS_INLINE Vec LoadPartial(const T* source, int64_t count) {
  if (count >= kLanes) return Load(source);
  T lanes[kLanes] = {};
  for (int64_t lane = 0; lane < count; ++lane) lanes[lane] = source[lane];
  return Load(lanes);
}
template <class T>
SAS_INLINE void StorePartial(T* target, Vec value, int64_t count) {
  if (count >= kLanes) return Store(target, value);
  T lanes[kLanes];
  Store(lanes, value);
  for (int64_t lane = 0; lane < count; ++lane) target[lane] = lanes[lane];
}
#if defined(__AVX512F__)
template <>
SAS_INLINE Vec LoadPartial(const float* source, int64_t count) {
  const __mmask16 mask = static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<uint32_t>(count)));
  return reinterpret_cast<Vec>(_mm512_maskz_loadu_ps(mask, source));
}
template <>
SAS_INLINE void StorePartial(float* target, Vec value, int64_t count) {
  const __mmask16 mask = static_cast<__mmask16>(_bzhi_u32(0xffff, static_cast<uint32_t>(count)));
  _mm512_mask_storeu_ps(target, mask, reinterpret_cast<__m512>(value));
}
#elif defined(__AVX2__)
template <>
SAS_INLINE Vec LoadPartial(const float* source, int64_t count) {
  if (count >= kLanes) return Load(source);  // masked stores are slow on some processors
  const VecInt mask = LaneIndex() < BroadcastInt(static_cast<int32_t>(count));
  return reinterpret_cast<Vec>(_mm256_maskload_ps(source, reinterpret_cast<__m256i>(mask)));
}
template <>
SAS_INLINE void StorePartial(float* target, Vec value, int64_t count) {
  if (count >= kLanes) return Store(target, value);
  const VecInt mask = LaneIndex() < BroadcastInt(static_cast<int32_t>(count));
  _mm256_maskstore_ps(target, reinterpret_cast<__m256i>(mask), reinterpret_cast<__m256>(value));
}
#endif

// Calls body(offset, count) for [0, size) in steps of a vector; count < kLanes only at the end.
template <class Body>
SAS_INLINE void ForEachVector(int64_t size, const Body& body) {
  int64_t offset = 0;
  for (; offset + kLanes <= size; offset += kLanes) body(offset, int64_t{kLanes});
  if (offset < size) body(offset, size - offset);
}

// `value` in the first `count` lanes, `other` in the rest.
SAS_INLINE Vec KeepLanes(Vec value, int64_t count, float other) {
  if (count >= kLanes) return value;
  return LaneIndex() < BroadcastInt(static_cast<int32_t>(count)) ? value : Broadcast(other);
}

// ---- moving lanes

template <auto kSource, class V, int... kLane>
SAS_INLINE V ShuffleLanes(V a, V b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, kSource(kLane)...);
}
// Lane i becomes lane kSource(i) of those of a and then those of b. (GCC and Clang both have __builtin_shufflevector.)
template <auto kSource, class V>
SAS_INLINE V Shuffle(V a, V b) {
  return ShuffleLanes<kSource>(a, b, std::make_integer_sequence<int, sizeof(V) / sizeof(a[0])>());
}

// Each lane changes places with its neighbour.
SAS_INLINE Vec SwapNeighbours(Vec value) {
  return Shuffle<[](int lane) { return lane ^ 1; }>(value, value);
}

// The low (or high) halves of a and b, lane by lane in turn.
SAS_INLINE Vec InterleaveLow(Vec a, Vec b) {
  return Shuffle<[](int lane) { return lane / 2 + lane % 2 * kLanes; }>(a, b);
}
SAS_INLINE Vec InterleaveHigh(Vec a, Vec b) {
  return Shuffle<[](int lane) { return kLanes / 2 + lane / 2 + lane % 2 * kLanes; }>(a, b);
}

// ---- reductions over the lanes, in a fixed order

// The lanes in the order that puts lane i + width beside lane i.
template <int kWidth>
SAS_INLINE Vec RotateLanes(Vec value) {
  return Shuffle<[](int lane) { return (lane + kWidth) % kLanes; }>(value, value);
}
template <class Combine>
SAS_INLINE float ReduceLanes(Vec value, const Combine& combine) {
  if constexpr (kLanes >= 16) value = combine(value, RotateLanes<8>(value));
  if constexpr (kLanes >= 8) value = combine(value, RotateLanes<4>(value));
  value = combine(value, RotateLanes<2>(value));
  return combine(value, RotateLanes<1>(value))[0];
}
SAS_INLINE float Sum(Vec value) {
  return ReduceLanes(value, [](Vec a, Vec b) { return a + b; });
}
SAS_INLINE float MaxLane(Vec value) {
  return ReduceLanes(value, [](Vec a, Vec b) { return VecMax(a, b); });
}

// ---- moving whole rows

// rows[r][c] <-> rows[c][r]: a perfect shuffle of the rows, repeated log2(kLanes) times.
SAS_INLINE void Transpose(Vec (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    Vec shuffled[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      shuffled[2 * i] = InterleaveLow(rows[i], rows[i + kLanes / 2]);
      shuffled[2 * i + 1] = InterleaveHigh(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = shuffled[i];
  }
}

// Lane i is all lanes of rows[i] combined: the same network, combining instead of keeping.
template <class Combine>
SAS_INLINE Vec CombineRows(Vec (&rows)[kLanes], const Combine& combine) {
#pragma GCC unroll 4
  for (int half = kLanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) {
      rows[i] = combine(InterleaveLow(rows[i], rows[i + half]), InterleaveHigh(rows[i], rows[i + half]));
    }
  }
  return rows[0];
}
SAS_INLINE Vec SumRows(Vec (&rows)[kLanes]) {
  return CombineRows(rows, [](Vec a, Vec b) { return a + b; });
}
SAS_INLINE Vec MaxRows(Vec (&rows)[kLanes]) {
  return CombineRows(rows, [](Vec a, Vec b) { return VecMax(a, b); });
}

// ---- pairs: two neighbours along the depth of a product, rounded to bf16, in the bits of one lane, the first one low

#if defined(__AVX512BF16__)
inline constexpr bool kHasBf16x2 = true;
// sum + a.first * b.first + a.second * b.second, lane by lane; subnormal bf16 count as 0.
SAS_INLINE Vec AddPairProducts(Vec sum, Vec a, Vec b) {
  return reinterpret_cast<Vec>(
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b)));
}
// Elements 0, 1, 2, ... of `first` and then `second`: lane i becomes elements 2 i and 2 i + 1.
SAS_INLINE Vec PairNeighbours(Vec first, Vec second) {
  return reinterpret_cast<Vec>(_mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(second), reinterpret_cast<__m512>(first)));
}
// Lane i becomes lane i of `first` and lane i of `second`.
SAS_INLINE Vec PairLanes(Vec first, Vec second) {
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes)));
  const Halves halves = reinterpret_cast<Halves>(PairNeighbours(first, second));
  return reinterpret_cast<Vec>(Shuffle<[](int half) { return half / 2 + half % 2 * kLanes; }>(halves, halves));
}
#else
inline constexpr bool kHasBf16x2 = false;
Vec AddPairProducts(Vec sum, Vec a, Vec b);  // nobody calls these
Vec PairNeighbours(Vec first, Vec second);
Vec PairLanes(Vec first, Vec second);
#endif

// ---- functions

SAS_INLINE Vec Sqrt(Vec value) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(value)));
#elif defined(__AVX2__)
  return reinterpret_cast<Vec>(_mm256_sqrt_ps(reinterpret_cast<__m256>(value)));
#elif defined(__aarch64__)
  return reinterpret_cast<Vec>(vsqrtq_f32(reinterpret_cast<float32x4_t>(value)));
#else
  for (int lane = 0; lane < kLanes; ++lane) value[lane] = __builtin_sqrtf(value[lane]);
  return value;
#endif
}

// Adding and subtracting this rounds to an integer and leaves the integer in the low mantissa bits of the sum.
inline constexpr float kRounder = 0x1.8p23f;

// 2^fraction for |fraction| <= 1/2: minimax polynomial, relative error 2e-9 before rounding.
SAS_INLINE Vec Exp2Polynomial(Vec fraction) {
  Vec poly = Broadcast(0x1.41fbc2p-13f);
  poly = poly * fraction + 0x1.5f3e5cp-10f;
  poly = poly * fraction + 0x1.3b2d4cp-7f;
  poly = poly * fraction + 0x1.c6aee8p-5f;
  poly = poly * fraction + 0x1.ebfbdcp-3f;
  poly = poly * fraction + 0x1.62e43p-1f;
  return poly * fraction + 1.0f;
}

// 2^fraction * 2^(integer in `rounded`, which is value + kRounder), |fraction| <= 1/2, -126 <= integer <= 128.
SAS_INLINE Vec Exp2Parts(Vec fraction, Vec rounded) {
  const Vec poly = Exp2Polynomial(fraction);
  // The exponent is added in two halves, so that 2^128 becomes infinity.
  const VecInt exponent = AsInt(rounded) - AsInt(Broadcast(kRounder));
  const VecInt half = exponent >> 1;
  return poly * AsFloat((half + 127) << 23) * AsFloat((exponent - half + 127) << 23);
}

// 2^x for x <= 127: cheaper. Relative error below 2e-7; 0 below -126.5, NaN for NaN.
SAS_INLINE Vec Exp2Bounded(Vec x) {
#if defined(__AVX512F__)
  const __m512 value = reinterpret_cast<__m512>(x);
  const __mmask16 kept = _mm512_cmp_ps_mask(value, _mm512_set1_ps(-126.5f), _CMP_NLT_UQ);
  const __m512 whole = _mm512_maskz_roundscale_ps(0xffff, value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const Vec power = Exp2Polynomial(x - reinterpret_cast<Vec>(whole));
  return reinterpret_cast<Vec>(_mm512_maskz_scalef_ps(kept, reinterpret_cast<__m512>(power), whole));
#else
  constexpr float kBiasedRounder = kRounder + 127;  // leaves integer + 127, the exponent of 2^integer, in the low bits
  const Vec clamped = VecMax(Broadcast(-127.0f), x);  // 2^-127 has the exponent of 0
  const Vec rounded = clamped + kBiasedRounder;
  return Exp2Polynomial(clamped - (rounded - kBiasedRounder)) * AsFloat(AsInt(rounded) << 23);
#endif
}

// e^x, relative error below 2e-7; 0 below -87.3 (no subnormal results), infinity where it overflows, NaN for NaN.
SAS_INLINE Vec Exp(Vec x) {
  const Vec clamped = VecMin(VecMax(x, Broadcast(-87.33654f)), Broadcast(88.8f));
  const Vec rounded = clamped * 0x1.715476p+0f + kRounder;
  const Vec integer = rounded - kRounder;
  // x - integer * ln 2, with ln 2 in two parts of which the first has few enough bits for an exact product.
  const Vec remainder = (clamped - integer * 0x1.62e4p-1f) - integer * 0x1.7f7d1cp-20f;
  const Vec result = Exp2Parts(remainder * 0x1.715476p+0f, rounded);
  return x == x ? (x < -87.33654f ? Vec{} : result) : x;
}

}  // namespace sas::cpu::SAS_ISA
