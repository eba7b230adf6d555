// What rotary position embedding needs, alone and fused into other operations: the angles, and the rotation of pairs.
#pragma once

#include "cuda/context.h"

namespace sas::cuda {

// Cosines and sines of all angles, [length, pairs] each.
struct AngleTable {
  float *cosines, *sines;
  int64_t length, pairs;
};

// Scratch memory of the operation. `inverse`: angles the other way, which gives the gradient. Defined in rope.cu.
Status MakeAngles(CudaContext& context, const RopeAngles& angles, bool inverse, AngleTable* table);

__device__ __forceinline__ float2 RotatePair(float2 pair, float cosine, float sine) {
  return make_float2(pair.x * cosine - pair.y * sine, pair.y * cosine + pair.x * sine);
}

// The rotation of tokens from `first` on, in pairs of neighbours; converts to false where there is none.
class Rotation {
 public:
  __device__ Rotation() : angles_{}, position_(0) {}
  // No rotation if the table's cosines are null.
  __device__ Rotation(const AngleTable& angles, int64_t first)
      : angles_(angles), position_(angles.cosines != nullptr ? first % angles.length : 0) {}

  __device__ explicit operator bool() const { return angles_.cosines != nullptr; }

  // Features `feature` (even) and the next of token first + `token`.
  __device__ __forceinline__ float2 operator()(int token, int feature, float2 pair) const {
    int64_t position = position_ + token;
    if (position >= angles_.length) position %= angles_.length;
    const int64_t at = position * angles_.pairs + feature / 2;
    return RotatePair(pair, angles_.cosines[at], angles_.sines[at]);
  }

  // The first `count` of its features from `feature` on, both even, in place.
  template <int kCount>
  __device__ __forceinline__ void operator()(int token, int feature, int count, float (&values)[kCount]) const {
#pragma unroll
    for (int e = 0; e < kCount; e += 2) {
      if (e >= count) continue;
      const float2 pair = (*this)(token, feature + e, make_float2(values[e], values[e + 1]));
      values[e] = pair.x;
      values[e + 1] = pair.y;
    }
  }

 private:
  AngleTable angles_;
  int64_t position_;  // of the first token in its sequence
};

}  // namespace sas::cuda
