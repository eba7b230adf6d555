// Rotary position embedding: pair i of a head at position t rotates by the angle t * base^(-2 i / width).
#include "cuda/device/elementwise.cuh"
#include "cuda/kernels/rope.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// A thread rotates one pair through kPositions positions: in double, one sine and cosine, then a rotation per step.
// Angles are in units of pi: reducing them needs no local memory.
constexpr int kPositions = 16;

__global__ void __launch_bounds__(kElementThreads) AnglesKernel(RopeAngles p, bool inverse, AngleTable angles) {
  const int64_t pairs = angles.pairs;
  for (int64_t item = FirstItem(); item < CeilDiv(p.length, kPositions) * pairs; item += ItemStride()) {
    const int64_t pair = item % pairs, begin = item / pairs * kPositions;
    const double step = exp2(-2.0 * static_cast<double>(pair) / static_cast<double>(p.width) * log2(p.base));
    const double half_turns = step / 3.14159265358979323846;
    double cosine, sine, step_cosine, step_sine;
    sincospi(static_cast<double>(p.offset + begin) * half_turns, &sine, &cosine);
    sincospi(half_turns, &step_sine, &step_cosine);
    for (int64_t position = begin; position < min(begin + kPositions, p.length); ++position) {
      angles.cosines[position * pairs + pair] = static_cast<float>(cosine);
      angles.sines[position * pairs + pair] = static_cast<float>(inverse ? -sine : sine);
      const double next = cosine * step_cosine - sine * step_sine;
      sine = sine * step_cosine + cosine * step_sine;
      cosine = next;
    }
  }
}

// A thread has kPairs pairs of kHeads heads of a token: their angles are read once. Interleaved pairs lie side by side,
// others half a width apart.
constexpr int kHeads = 4;

// values = kPairs pairs at x: side by side, or all first and then all second members.
template <bool kInterleaved, class T, int kValues>
__device__ __forceinline__ void LoadPairs(const T* x, int64_t half, float (&values)[kValues]) {
  constexpr int kPairs = kValues / 2;
  if constexpr (kInterleaved && kPairs > 1) {
    LoadElements(x, values);
  } else {
    float a[kPairs], b[kPairs];
    LoadElements(x, a);
    LoadElements(x + (kInterleaved ? 1 : half), b);
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      values[k] = a[k];
      values[kPairs + k] = b[k];
    }
  }
}
template <bool kInterleaved, class T, int kValues>
__device__ __forceinline__ void StorePairs(T* output, int64_t half, const float (&values)[kValues]) {
  constexpr int kPairs = kValues / 2;
  if constexpr (kInterleaved && kPairs > 1) {
    StoreElements(output, values);
  } else {
    float a[kPairs], b[kPairs];
#pragma unroll
    for (int k = 0; k < kPairs; ++k) {
      a[k] = values[k];
      b[k] = values[kPairs + k];
    }
    StoreElements(output, a);
    StoreElements(output + (kInterleaved ? 1 : half), b);
  }
}

template <bool kInterleaved, int kPairs, class T>
__global__ void __launch_bounds__(kElementThreads) RopeKernel(RopeParams p, AngleTable angles) {
  const int64_t half = p.width / 2, parts = half / kPairs, groups = CeilDiv(p.heads, kHeads);
  for (int64_t item = FirstItem(); item < p.batch * p.length * groups * parts; item += ItemStride()) {
    const int64_t pair = item % parts * kPairs, group = item / parts % groups, token = item / parts / groups;
    const int64_t angle = token % p.length * half + pair, first_head = group * kHeads;
    const int64_t offset = (token * p.heads + first_head) * p.width + (kInterleaved ? 2 * pair : pair);
    const T* x = static_cast<const T*>(p.x) + offset;
    T* output = static_cast<T*>(p.output) + offset;
    const int heads = static_cast<int>(min(int64_t{kHeads}, p.heads - first_head));

    float values[kHeads][2 * kPairs], cosine[kPairs], sine[kPairs];
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
      if (head < heads) LoadPairs<kInterleaved>(x + head * p.width, half, values[head]);
    }
    LoadElements(angles.cosines + angle, cosine);
    LoadElements(angles.sines + angle, sine);
#pragma unroll
    for (int head = 0; head < kHeads; ++head) {
#pragma unroll
      for (int k = 0; k < kPairs; ++k) {
        float& a = values[head][kInterleaved ? 2 * k : k];
        float& b = values[head][kInterleaved ? 2 * k + 1 : kPairs + k];
        const float2 rotated = RotatePair(make_float2(a, b), cosine[k], sine[k]);
        a = rotated.x;
        b = rotated.y;
      }
      if (head < heads) StorePairs<kInterleaved>(output + head * p.width, half, values[head]);
    }
  }
}

}  // namespace

Status MakeAngles(CudaContext& context, const RopeAngles& angles, bool inverse, AngleTable* table) {
  const int64_t pairs = angles.width / 2, size = angles.length * pairs;
  *table = {context.Take<float>(size), context.Take<float>(size), angles.length, pairs};
  const int64_t items = CeilDiv(angles.length, kPositions) * pairs;
  return context.Launch(AnglesKernel, ElementGrid(context, items), angles, inverse, *table);
}

Status Rope(CudaContext& context, const RopeParams& p) {
  const int64_t half = p.width / 2;
  AngleTable angles{};
  SAS_TRY(MakeAngles(context, {p.length, p.width, p.base, p.offset}, p.inverse, &angles));
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const auto launch = [&]<bool kInterleaved, int kPairs>() {
      const int64_t items = p.batch * p.length * CeilDiv(p.heads, kHeads) * (half / kPairs);
      return context.Launch(RopeKernel<kInterleaved, kPairs, T>, ElementGrid(context, items), p, angles);
    };
    const auto* x = static_cast<const T*>(p.x);
    const auto* output = static_cast<const T*>(p.output);
    if (p.interleaved) {
      return Vectorizable<4>(p.width, x, output) ? launch.template operator()<true, 2>()
                                                 : launch.template operator()<true, 1>();
    }
    return Vectorizable<4>(half, x, output) ? launch.template operator()<false, 4>()
                                            : launch.template operator()<false, 1>();
  });
}

}  // namespace sas::cuda
