// AdamW (Loshchilov and Hutter 2019), with PyTorch's equations, in place on all parameters at once. What is kept of
// them in other forms (WeightCache) is made anew on the way, so that the next step finds it ready.
#include <cmath>

#include "cuda/device/tensor_chunks.cuh"
#include "cuda/kernels/expand_weights.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

struct State {
  float* parameter;
  const float* gradient;
  float* first_moment;
  float* second_moment;
  int64_t size;
  void* copy;  // of the parameter, in the kernel's type; null: none
};
using Table = TensorTable<State>;
constexpr int kCount = 4;

struct Rates {
  float decay, beta1, rest1, beta2, rest2, rate, root_scale, eps;
};

// *found becomes 1 if a gradient is not finite.
__global__ void __launch_bounds__(kElementThreads)
    FindNonFiniteKernel(const __grid_constant__ Table table, uint32_t* found) {
  const TensorChunk chunk = ChunkOf(table);
  const float* gradient = table.tensors[chunk.tensor].gradient;
  const bool aligned = Aligned16(gradient);
  bool finite = true;
  for (int64_t i = chunk.begin + threadIdx.x * kCount; i < chunk.end; i += kCount * kElementThreads) {
    float x[kCount];
    LoadPartial(gradient + i, chunk.end - i, aligned && chunk.end - i >= kCount, x);
#pragma unroll
    for (int k = 0; k < kCount; ++k) finite = finite && x[k] - x[k] == 0;
  }
  if (!finite) *found = 1;
}

// One warp.
__global__ void __launch_bounds__(32)
    CountSkippedKernel(const __grid_constant__ CheckGuard guard, const uint32_t* found, int32_t* skipped) {
  if (threadIdx.x == 0 && *found != 0 && !Failed(guard)) ++*skipped;
}

// `found` null: gradients may be anything. The copy is written also where the parameter keeps its value: whether it
// held that before does not matter then.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    AdamWKernel(const __grid_constant__ Table table, const __grid_constant__ CheckGuard guard, const uint32_t* found,
                Rates rates) {
  const TensorChunk chunk = ChunkOf(table);
  const State state = table.tensors[chunk.tensor];
  const bool skipped = Failed(guard) || (found != nullptr && *found != 0);
  if (skipped && state.copy == nullptr) return;
  T* const copy = static_cast<T*>(state.copy);
  const bool aligned = Aligned16(state.parameter, state.gradient, state.first_moment, state.second_moment);
  for (int64_t i = chunk.begin + threadIdx.x * kCount; i < chunk.end; i += kCount * kElementThreads) {
    const int64_t present = chunk.end - i;
    const bool whole = aligned && present >= kCount;
    float parameter[kCount], grad[kCount], first[kCount], second[kCount];
    LoadPartial(state.parameter + i, present, whole, parameter);
    if (!skipped) {
      LoadPartial(state.gradient + i, present, whole, grad);
      LoadPartial(state.first_moment + i, present, whole, first);
      LoadPartial(state.second_moment + i, present, whole, second);
#pragma unroll
      for (int k = 0; k < kCount; ++k) {
        first[k] = first[k] * rates.beta1 + grad[k] * rates.rest1;
        second[k] = second[k] * rates.beta2 + grad[k] * grad[k] * rates.rest2;
        const float update = first[k] * rates.rate / (sqrtf(second[k]) * rates.root_scale + rates.eps);
        parameter[k] = parameter[k] * rates.decay - update;
      }
      StorePartial(state.parameter + i, present, whole, parameter);
      StorePartial(state.first_moment + i, present, whole, first);
      StorePartial(state.second_moment + i, present, whole, second);
    }
    if (copy != nullptr) StorePartial(copy + i, present, present >= kCount, parameter);
  }
}

// The copies in T that the operation writes with the parameters go into `states`.
template <class T>
std::vector<WeightCache::Entry*> AddCopies(CudaContext& context, std::vector<State>* states) {
  std::vector<WeightCache::Entry*> copies;
  for (State& state : *states) {
    WeightCache::Entry* copy = context.weights().UpdatedCopy(state.parameter, state.size, kWeightType<T>);
    if (copy == nullptr) continue;
    state.copy = copy->data;
    copies.push_back(copy);
  }
  return copies;
}

}  // namespace

Status AdamW(CudaContext& context, const AdamWParams& p) {
  const double step = static_cast<double>(p.step);
  const Rates rates{
      .decay = static_cast<float>(1 - p.lr * p.weight_decay),
      .beta1 = static_cast<float>(p.beta1),
      .rest1 = static_cast<float>(1 - p.beta1),
      .beta2 = static_cast<float>(p.beta2),
      .rest2 = static_cast<float>(1 - p.beta2),
      .rate = static_cast<float>(p.lr / (1 - std::pow(p.beta1, step))),
      .root_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(p.beta2, step))),
      .eps = static_cast<float>(p.eps),
  };
  const CheckGuard& guard = context.guard();
  std::vector<State> states;
  states.reserve(p.states.size());
  for (const auto& [parameter, gradient, first, second, size] : p.states) {
    states.push_back({parameter, gradient, first, second, size, nullptr});
  }
  // Of one type, the one that is there: a program that uses both has the other made at its next use.
  std::vector<WeightCache::Entry*> copies = AddCopies<BFloat16>(context, &states);
  const bool half = copies.empty();
  if (half) copies = AddCopies<Float16>(context, &states);
  expand::KeptPacks packs;
  for (const State& state : states) context.weights().UpdatedPacks(state.parameter, state.size, &packs);

  uint32_t* found = nullptr;
  if (p.skipped != nullptr) {
    found = context.Take<uint32_t>(1);
    SAS_CUDA_TRY(cudaMemsetAsync(found, 0, sizeof *found, context.stream()));
    SAS_TRY(ForTables(states, [&](const Table& table, const Grid& grid, int64_t) {
      return context.Launch(FindNonFiniteKernel, grid, table, found);
    }));
    SAS_TRY(context.Launch(CountSkippedKernel, Grid{dim3(1), 32}, guard, found, p.skipped));
  }
  SAS_TRY(ForTables(states, [&](const Table& table, const Grid& grid, int64_t) {
    return context.Launch(half ? AdamWKernel<Float16> : AdamWKernel<BFloat16>, grid, table, guard, found, rates);
  }));
  for (WeightCache::Entry* copy : copies) WeightCache::Refresh(copy);
  return expand::Repack(context, packs);
}

}  // namespace sas::cuda
