// output = input in another storage type, rounded to nearest even.
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

Status Cast(CpuContext& context, const CastParams& p) {
  return DispatchFloat(p.from, [&]<class From>(From*) {
    return DispatchFloat(p.to, [&]<class To>(To*) {
      const From* input = static_cast<const From*>(p.input);
      To* output = static_cast<To*>(p.output);
      ParallelChunks(context, p.size, kElementChunk, [&](int64_t begin, int64_t end) {
        ForEachVector(end - begin, [&](int64_t offset, int64_t count) {
          StorePartial(output + begin + offset, LoadPartial(input + begin + offset, count), count);
        });
      });
      return Status();
    });
  });
}

}  // namespace sas::cpu::SAS_ISA
