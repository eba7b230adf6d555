// output = value.
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

Status Fill(CpuContext& context, const FillParams& p) {
  if (p.dtype == DType::kI32) {
    int32_t* output = static_cast<int32_t*>(p.output);
    for (int64_t i = 0; i < p.size; ++i) output[i] = static_cast<int32_t>(p.value);
    return {};
  }
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const Vec value = Broadcast(static_cast<float>(p.value));
    T* output = static_cast<T*>(p.output);
    ParallelChunks(context, p.size, kElementChunk, [&](int64_t begin, int64_t end) {
      ForEachVector(end - begin,
                    [&](int64_t offset, int64_t count) { StorePartial(output + begin + offset, value, count); });
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
