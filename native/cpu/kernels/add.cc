// output = a + b, or a + b + c, rounded once.
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

Status Add(CpuContext& context, const AddParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const T* a = static_cast<const T*>(p.a);
    const T* b = static_cast<const T*>(p.b);
    const T* c = static_cast<const T*>(p.c);
    T* output = static_cast<T*>(p.output);
    ParallelChunks(context, p.size, kElementChunk, [&](int64_t begin, int64_t end) {
      ForEachVector(end - begin, [&](int64_t offset, int64_t count) {
        const int64_t i = begin + offset;
        Vec sum = LoadPartial(a + i, count) + LoadPartial(b + i, count);
        if (c != nullptr) sum = sum + LoadPartial(c + i, count);
        StorePartial(output + i, sum, count);
      });
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
