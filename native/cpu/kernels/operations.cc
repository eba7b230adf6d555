// The CPU's table of operations for one instruction set; compiled once for each.
#include "cpu/kernels/operations.h"

#include <chrono>

#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {
namespace {

// Every operation starts with empty scratch memory, and ends early when the pool is cancelled.
template <auto Body, class Params>
Status Enter(Context& context, const Params& params) {
  auto& cpu = static_cast<CpuContext&>(context);
  cpu.scratch.Reset(false);
  try {
    return Body(cpu, params);
  } catch (const Cancelled&) {
    return DroppedAtShutdown();
  }
}

}  // namespace

const Operations& GetOperations() {
  static constexpr Operations operations{
#define SAS_ENTRY(Name, Params) .Name = Enter<Name, Params>,
      SAS_OPERATIONS(SAS_ENTRY)
#undef SAS_ENTRY
  };
  return operations;
}

double PeakFlops(double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int kChains = 12, kBlock = 4096;  // enough independent chains to hide the latency of two multiply-add units
  Vec sums[kChains];
  for (int i = 0; i < kChains; ++i) sums[i] = Broadcast(static_cast<float>(i));
  Vec factor = Broadcast(0.999f), term = Broadcast(0.001f);
  asm volatile("" : "+x"(factor), "+x"(term));  // unknown to the compiler
  const auto start = Clock::now();
  double elapsed = 0, operations = 0;
  while (elapsed < seconds) {
    for (int block = 0; block < kBlock; ++block) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) sums[i] = sums[i] * factor + term;
    }
    operations += 2.0 * kLanes * kChains * kBlock;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  for (int i = 0; i < kChains; ++i) asm volatile("" : : "x"(sums[i]));  // the results are used
  return operations / elapsed;
}

}  // namespace sas::cpu::SAS_ISA
