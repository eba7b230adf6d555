// Counter-based random numbers, see core/random.h.
#include "core/random.h"

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

Status Random(CpuContext& context, const RandomParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    T* output = static_cast<T*>(p.output);
    ParallelChunks(context, p.size, 4096, [&](int64_t begin, int64_t end) {  // begin is even
      for (int64_t i = begin; i < end; i += 2) {
        const RandomValues pair = RandomPair(p.distribution, p.seed, p.stream, static_cast<uint64_t>(i / 2));
        FromFloat(static_cast<float>(pair.value[0] * p.scale), output + i);
        if (i + 1 < end) FromFloat(static_cast<float>(pair.value[1] * p.scale), output + i + 1);
      }
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
