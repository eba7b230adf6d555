// Parameter-efficient attention aggregation: the mean over groups of simulated heads (arXiv 2507.07694, section on
// PEAA).
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

// Tokens that are worth a thread.
int64_t TokenChunk(const AggregateParams& p) { return CeilDiv(kElementChunk, p.sim_heads * p.head_dim); }

}  // namespace

Status Aggregate(CpuContext& context, const AggregateParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t groups = p.sim_heads / p.heads, width = p.heads * p.head_dim;
    const float share = 1.0f / static_cast<float>(groups);
    ParallelChunks(context, p.tokens, TokenChunk(p), [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        const T* input = static_cast<const T*>(p.input) + token * groups * width;
        T* output = static_cast<T*>(p.output) + token * width;
        ForEachVector(width, [&](int64_t i, int64_t count) {
          Vec sum = LoadPartial(input + i, count);
          for (int64_t group = 1; group < groups; ++group) sum += LoadPartial(input + group * width + i, count);
          StorePartial(output + i, sum * share, count);
        });
      }
    });
    return Status();
  });
}

Status AggregateBackward(CpuContext& context, const AggregateParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t groups = p.sim_heads / p.heads, width = p.heads * p.head_dim;
    const float share = 1.0f / static_cast<float>(groups);
    ParallelChunks(context, p.tokens, TokenChunk(p), [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        const T* input = static_cast<const T*>(p.input) + token * width;
        T* output = static_cast<T*>(p.output) + token * groups * width;
        ForEachVector(width, [&](int64_t i, int64_t count) {
          const Vec value = LoadPartial(input + i, count) * share;
          for (int64_t group = 0; group < groups; ++group) StorePartial(output + group * width + i, value, count);
        });
      }
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
