// Sums that keep their accuracy at any length: no chain of f32 additions is longer than kLongestChain, at any level,
// and what has more parts goes to totals that carry what they cannot hold.
#pragma once

#include "cuda/device/ptx.cuh"

namespace sas::cuda {

constexpr int kLongestChain = 64;

// Adds to a total of any number of terms: `rest` has what the total cannot hold (Kahan's sum). Both begin with zeros.
__device__ __forceinline__ void AddCompensated(float term, float& total, float& rest) {
  const float before = total, missing = term - rest;
  total = before + missing;
  const float surplus = (total - before) - missing;
  rest = fabsf(surplus) < INFINITY ? surplus : 0.0f;  // an infinite total has none
}

// ---- totals in device memory, for sums that stay in registers and leave none: float4 [kTotalParts][kThreads] for four
// sums of each of the block's threads. A kernel is given none, a null pointer, where its chains are short enough.

constexpr int kTotalParts = 2;  // the total and its rest

// The running thread's first, where each has totals of `fours` times four sums. Computed where it is used: it must not
// take registers from what goes before.
template <int kThreads>
__device__ __forceinline__ float4* OwnTotals(float4* totals, int fours) {
  return totals + int64_t{blockIdx.x} * (fours * kTotalParts * kThreads) + Opaque(static_cast<int>(threadIdx.x));
}

// Which of a chain's steps move the sums into their totals: one in `every`, and the last.
struct TotalStep {
  bool moves, first, last;
  __device__ __forceinline__ TotalStep(const float4* totals, int step, int steps, int every = kLongestChain)
      : moves(totals != nullptr && ((step + 1) % every == 0 || step + 1 == steps)),
        first(step < every),
        last(step + 1 == steps) {}
};

// Adds four terms to their totals, which have shrunk since the step before: the first two by shrink[0], the others by
// shrink[1]. Leaves zeros, after the last step the totals.
template <int kThreads>
__device__ __forceinline__ void MoveIntoTotal(const TotalStep& step, float (&terms)[4], float4* own,
                                              const float (&shrink)[2] = {1.0f, 1.0f}) {
  float4 total{}, rest{};
  if (!step.first) {
    total = own[0];
    rest = own[kThreads];
  }
  float sums[4] = {total.x, total.y, total.z, total.w}, rests[4] = {rest.x, rest.y, rest.z, rest.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sums[i] *= shrink[i / 2];
    rests[i] *= shrink[i / 2];
    AddCompensated(terms[i], sums[i], rests[i]);
    terms[i] = step.last ? sums[i] : 0.0f;
  }
  own[0] = make_float4(sums[0], sums[1], sums[2], sums[3]);
  own[kThreads] = make_float4(rests[0], rests[1], rests[2], rests[3]);
}

// The same for four_of(0) .. four_of(kFours - 1), one after the other: many on their way at a time take many registers.
template <int kThreads, int kFours, class FourOf>
__device__ __forceinline__ void MoveFoursIntoTotals(const TotalStep& step, const FourOf& four_of, float4* own,
                                                    const float (&shrink)[2] = {1.0f, 1.0f}) {
#pragma unroll 1
  for (int four = 0; four < kFours; ++four, own += kTotalParts * kThreads) {
    float terms[4] = {};
#pragma unroll
    for (int j = 0; j < kFours; ++j) {  // registers have no index
#pragma unroll
      for (int i = 0; i < 4; ++i) terms[i] = j == four ? four_of(j)[i] : terms[i];
    }
    MoveIntoTotal<kThreads>(step, terms, own, shrink);
#pragma unroll
    for (int j = 0; j < kFours; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) four_of(j)[i] = j == four ? terms[i] : four_of(j)[i];
    }
  }
}

}  // namespace sas::cuda
