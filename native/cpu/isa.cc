#include "cpu/isa.h"

namespace sas::cpu {

#define SAS_DECLARE_ISA(name)        \
  namespace name {                   \
  const Operations& GetOperations(); \
  double PeakFlops(double seconds);  \
  }
#if defined(SAS_WITH_AVX512BF16)
SAS_DECLARE_ISA(avx512bf16)
#endif
#if defined(SAS_WITH_AVX512)
SAS_DECLARE_ISA(avx512)
#endif
#if defined(SAS_WITH_AVX2)
SAS_DECLARE_ISA(avx2)
#endif
#if defined(SAS_WITH_NEON)
SAS_DECLARE_ISA(neon)
#endif
#if defined(SAS_WITH_BASELINE)
SAS_DECLARE_ISA(baseline)
#endif
#undef SAS_DECLARE_ISA

#if defined(SAS_WITH_AVX512) || defined(SAS_WITH_AVX512BF16)
static bool HasAvx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

const std::vector<Isa>& Isas() {
  static const std::vector<Isa> isas = {
#if defined(SAS_WITH_AVX512BF16)
    {"avx512bf16", [] { return HasAvx512() && __builtin_cpu_supports("avx512bf16"); }, avx512bf16::GetOperations,
     avx512bf16::PeakFlops},
#endif
#if defined(SAS_WITH_AVX512)
    {"avx512", HasAvx512, avx512::GetOperations, avx512::PeakFlops},
#endif
#if defined(SAS_WITH_AVX2)
    {"avx2",
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
              __builtin_cpu_supports("bmi2");
     },
     avx2::GetOperations, avx2::PeakFlops},
#endif
#if defined(SAS_WITH_NEON)  // part of every 64-bit Arm processor
    {"neon", [] { return true; }, neon::GetOperations, neon::PeakFlops},
#endif
#if defined(SAS_WITH_BASELINE)
    {"baseline", [] { return true; }, baseline::GetOperations, baseline::PeakFlops},
#endif
  };
  return isas;
}

}  // namespace sas::cpu
