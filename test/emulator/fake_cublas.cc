// Stands in for libcublas.so.13 and libcublasLt.so.13 in tests on the emulated device: the entry points that
// native/cuda uses, as plain loops over host memory, with every argument checked as the manual states it. A call that
// the real library would reject returns its status, and says why on stderr. Products are done when their stream comes
// to them, on what the operands hold then.
//
//   FAKE_CUBLAS_FAIL=cublasCreate_v2:1:CUBLAS_STATUS_ALLOC_FAILED,cublasLtMatmul:1/20:CUBLAS_STATUS_EXECUTION_FAILED
//                          calls that fail (see FaultPlan); a product is refused by CUBLAS_STATUS_NOT_SUPPORTED
//   FAKE_CUBLAS_MAJOR=12   the version that it says it is
// Compiled with FAKE_CUBLAS_INCOMPLETE it lacks cublasLtMatmul.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "core/convert.h"
#include "fault_plan.h"
#include "immortal.h"
#include "stream_hook.h"

namespace {

using sas::BFloat16, sas::Float16;

enum Status {
  kSuccess = 0,
  kNotInitialized = 1,
  kAllocFailed = 3,
  kInvalidValue = 7,
  kArchMismatch = 8,
  kExecutionFailed = 13,
  kInternalError = 14,
  kNotSupported = 15,
};
constexpr std::pair<Status, const char*> kStatuses[] = {
    {kSuccess, "CUBLAS_STATUS_SUCCESS"},
    {kNotInitialized, "CUBLAS_STATUS_NOT_INITIALIZED"},
    {kAllocFailed, "CUBLAS_STATUS_ALLOC_FAILED"},
    {kInvalidValue, "CUBLAS_STATUS_INVALID_VALUE"},
    {kArchMismatch, "CUBLAS_STATUS_ARCH_MISMATCH"},
    {kExecutionFailed, "CUBLAS_STATUS_EXECUTION_FAILED"},
    {kInternalError, "CUBLAS_STATUS_INTERNAL_ERROR"},
    {kNotSupported, "CUBLAS_STATUS_NOT_SUPPORTED"},
};
enum { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14 };
enum { kComputeF32 = 68, kComputeTf32 = 77 };

int Reject(Status status, const char* call, const char* reason) {
  std::fprintf(stderr, "fake cuBLAS: %s: %s\n", call, reason);
  return status;
}

uint64_t Setting(const char* name, uint64_t fallback) {
  const char* value = std::getenv(name);
  return value == nullptr ? fallback : std::strtoull(value, nullptr, 10);
}

int StatusOf(const std::string& name) {
  for (const auto& [status, each] : kStatuses) {
    if (name == each) return status;
  }
  return -1;
}
sas::emulator::FaultPlan& Plan() {
  using sas::emulator::FaultPlan;
  static FaultPlan& plan =
      sas::emulator::MakeImmortal<FaultPlan>("FAKE_CUBLAS_FAIL", Setting("SAS_EMULATOR_SEED", 0), StatusOf);
  [[maybe_unused]] static const int reported = std::atexit([] { Plan().Report(); });
  return plan;
}
int Planned(const char* call) { return Plan().Count(call).value_or(kSuccess); }
// Every call begins with it.
#define BEGIN() \
  if (const int planned = Planned(__func__); planned != kSuccess) return planned

void Enqueue(void* stream, std::function<void()> work) {
  auto* const hook = static_cast<sas::emulator::StreamHook*>(stream);
  hook->enqueue(hook, std::move(work));
}

#define REQUIRE(condition) \
  if (!(condition)) return Reject(kInvalidValue, __func__, "expected " #condition)

// Every object begins with its kind, so that one passed for another is found.
enum class Kind : uint32_t { kHandle = 0x48414e44, kLight, kMatmul, kLayout, kPreference, kGone };
struct Handle {
  Kind kind = Kind::kHandle;
  void* stream = nullptr;
};
struct Light {
  Kind kind = Kind::kLight;
};
struct Matmul {
  Kind kind = Kind::kMatmul;
  int compute = 0;
  int32_t transpose_a = 0, transpose_b = 0;
  uint32_t epilogue = 1;
  const void* bias = nullptr;
};
struct Layout {
  Kind kind = Kind::kLayout;
  int type = 0;
  uint64_t rows = 0, columns = 0;
  int64_t ld = 0;
};
struct Preference {
  Kind kind = Kind::kPreference;
  uint64_t workspace = 0;
  uint32_t reductions = ~0u;
  uint32_t alignment[4] = {256, 256, 256, 256};
};

// FAKE_CUBLAS_REPORT=file: a line per library at exit, how many products it did.
struct Report {
  std::atomic<long> products = 0;
  ~Report() {
    const char* path = std::getenv("FAKE_CUBLAS_REPORT");
    FILE* file = path == nullptr || products == 0 ? nullptr : std::fopen(path, "a");
    if (file == nullptr) return;
    std::fprintf(file, "%ld\n", products.load());
    std::fclose(file);
  }
} report;

template <class Object>
bool Is(const void* object) {
  return object != nullptr && static_cast<const Object*>(object)->kind == Object{}.kind;
}
template <class Object>
int Create(void** object) {
  if (object == nullptr) return kInvalidValue;
  *object = std::make_unique<Object>().release();
  return kSuccess;
}
template <class Object>
int Destroy(void* object) {
  if (!Is<Object>(object)) return Reject(kInvalidValue, "destroy", "not such an object, or destroyed before");
  const std::unique_ptr<Object> owned(static_cast<Object*>(object));
  owned->kind = Kind::kGone;
  return kSuccess;
}

bool KnownType(int type) { return type == kFloat32 || type == kFloat16 || type == kBFloat16; }
size_t SizeOf(int type) { return type == kFloat32 ? 4 : 2; }
float Read(const void* data, int type, int64_t at) {
  if (type == kFloat32) return static_cast<const float*>(data)[at];
  if (type == kBFloat16) return sas::ToFloat(static_cast<const BFloat16*>(data)[at]);
  return sas::ToFloat(static_cast<const Float16*>(data)[at]);
}
void Write(float value, void* data, int type, int64_t at) {
  if (type == kFloat32) {
    static_cast<float*>(data)[at] = value;
  } else if (type == kBFloat16) {
    sas::FromFloat(value, static_cast<BFloat16*>(data) + at);
  } else {
    sas::FromFloat(value, static_cast<Float16*>(data) + at);
  }
}
float ToTf32(float value) {
  const uint32_t bits = sas::FloatBits(value);
  return (bits & 0x7f800000u) == 0x7f800000u ? value : sas::BitsToFloat((bits + 0x1000u) & 0xffffe000u);
}

// C [m, n] = op(A) op(B) + bias [m], all by columns. Sums in f32.
void Multiply(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const void* a, int type, int64_t lda,
              const void* b, int64_t ldb, const void* bias, void* c, int type_c, int64_t ldc, int compute) {
  const bool tf32 = compute == kComputeTf32 && type == kFloat32;
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) {
      float sum = 0;
      for (int64_t p = 0; p < k; ++p) {
        const float left = Read(a, type, transpose_a ? i * lda + p : p * lda + i);
        const float right = Read(b, type, transpose_b ? p * ldb + j : j * ldb + p);
        sum += tf32 ? ToTf32(left) * ToTf32(right) : left * right;
      }
      if (bias != nullptr) sum += Read(bias, type_c, i);
      Write(sum, c, type_c, j * ldc + i);
    }
  }
}

void* Offset(const void* data, int type, int64_t elements) {
  return const_cast<unsigned char*>(static_cast<const unsigned char*>(data)) +
         elements * static_cast<int64_t>(SizeOf(type));
}
bool AlignedTo(const void* data, size_t bytes) { return reinterpret_cast<uintptr_t>(data) % bytes == 0; }

}  // namespace

extern "C" {

int cublasGetProperty(int property, int* value) {
  BEGIN();
  REQUIRE(property >= 0 && property <= 2 && value != nullptr);
  *value = property == 0 ? static_cast<int>(Setting("FAKE_CUBLAS_MAJOR", 13)) : property == 1 ? 1 : 0;
  return kSuccess;
}
const char* cublasGetStatusName(int status) {
  for (const auto& [each, name] : kStatuses) {
    if (each == status) return name;
  }
  return "CUBLAS_STATUS_UNKNOWN";
}

int cublasCreate_v2(void** handle) {
  BEGIN();
  return Create<Handle>(handle);
}
int cublasDestroy_v2(void* handle) { return Destroy<Handle>(handle); }
int cublasSetStream_v2(void* handle, void* stream) {
  BEGIN();
  REQUIRE(Is<Handle>(handle) && stream != nullptr);
  static_cast<Handle*>(handle)->stream = stream;
  return kSuccess;
}
int cublasSetMathMode(void* handle, int mode) {
  BEGIN();
  REQUIRE(Is<Handle>(handle));
  REQUIRE(mode == 0 || mode == 16);  // full f32
  return kSuccess;
}

int cublasGemmStridedBatchedEx(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha,
                               const void* a, int type_a, int lda, long long stride_a, const void* b, int type_b,
                               int ldb, long long stride_b, const float* beta, void* c, int type_c, int ldc,
                               long long stride_c, int batches, int compute, int algorithm) {
  BEGIN();
  REQUIRE(Is<Handle>(handle) && static_cast<Handle*>(handle)->stream != nullptr);
  REQUIRE((transpose_a == 0 || transpose_a == 1) && (transpose_b == 0 || transpose_b == 1));
  REQUIRE(m > 0 && n > 0 && k > 0 && batches > 0);
  REQUIRE(KnownType(type_a) && type_a == type_b && (type_c == type_a || type_c == kFloat32));
  REQUIRE(lda >= std::max(1, transpose_a == 1 ? k : m) && ldb >= std::max(1, transpose_b == 1 ? n : k) && ldc >= m);
  REQUIRE(stride_a >= 0 && stride_b >= 0 && (batches == 1 || stride_c > 0));
  REQUIRE(compute == kComputeF32 || (compute == kComputeTf32 && type_a == kFloat32));
  REQUIRE(algorithm == -1 && alpha != nullptr && *alpha == 1 && beta != nullptr && *beta == 0);
  REQUIRE(a != nullptr && b != nullptr && c != nullptr);
  REQUIRE(AlignedTo(a, SizeOf(type_a)) && AlignedTo(b, SizeOf(type_b)) && AlignedTo(c, SizeOf(type_c)));
  ++report.products;
  Enqueue(static_cast<Handle*>(handle)->stream, [=] {
    for (int batch = 0; batch < batches; ++batch) {
      Multiply(transpose_a == 1, transpose_b == 1, m, n, k, Offset(a, type_a, batch * stride_a), type_a, lda,
               Offset(b, type_b, batch * stride_b), ldb, nullptr, Offset(c, type_c, batch * stride_c), type_c, ldc,
               compute);
    }
  });
  return kSuccess;
}

int cublasLtCreate(void** handle) {
  BEGIN();
  return Create<Light>(handle);
}
int cublasLtDestroy(void* handle) { return Destroy<Light>(handle); }

int cublasLtMatmulDescCreate(void** matmul, int compute, int scale_type) {
  BEGIN();
  REQUIRE((compute == kComputeF32 || compute == kComputeTf32) && scale_type == kFloat32);
  const int status = Create<Matmul>(matmul);
  if (status == kSuccess) static_cast<Matmul*>(*matmul)->compute = compute;
  return status;
}
int cublasLtMatmulDescDestroy(void* matmul) { return Destroy<Matmul>(matmul); }
int cublasLtMatmulDescSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
  BEGIN();
  REQUIRE(Is<Matmul>(object) && value != nullptr);
  auto& matmul = *static_cast<Matmul*>(object);
  const auto set = [&](auto* target) {
    if (bytes != sizeof *target) return Reject(kInvalidValue, "cublasLtMatmulDescSetAttribute", "size of the value");
    std::memcpy(target, value, bytes);
    return static_cast<int>(kSuccess);
  };
  switch (attribute) {
    case 3:
      return set(&matmul.transpose_a);
    case 4:
      return set(&matmul.transpose_b);
    case 7:
      return set(&matmul.epilogue);
    case 8:
      return set(&matmul.bias);
    default:
      return Reject(kInvalidValue, __func__, "unknown attribute");
  }
}

int cublasLtMatrixLayoutCreate(void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  BEGIN();
  REQUIRE(KnownType(type) && rows > 0 && columns > 0 && ld >= static_cast<int64_t>(rows));
  const int status = Create<Layout>(layout);
  if (status == kSuccess) *static_cast<Layout*>(*layout) = {Kind::kLayout, type, rows, columns, ld};
  return status;
}
int cublasLtMatrixLayoutDestroy(void* layout) { return Destroy<Layout>(layout); }

int cublasLtMatmulPreferenceCreate(void** preference) { return Create<Preference>(preference); }
int cublasLtMatmulPreferenceDestroy(void* preference) { return Destroy<Preference>(preference); }
int cublasLtMatmulPreferenceSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
  BEGIN();
  REQUIRE(Is<Preference>(object) && value != nullptr);
  auto& preference = *static_cast<Preference*>(object);
  if (attribute == 1) {
    REQUIRE(bytes == sizeof preference.workspace);
    std::memcpy(&preference.workspace, value, bytes);
  } else {
    REQUIRE(attribute == 3 || (attribute >= 5 && attribute <= 8));
    REQUIRE(bytes == sizeof(uint32_t));
    std::memcpy(attribute == 3 ? &preference.reductions : &preference.alignment[attribute - 5], value, bytes);
  }
  return kSuccess;
}

// cublasLtMatmulAlgo_t; data[0] names this library.
struct Algorithm {
  uint64_t data[8];
};
struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
constexpr uint64_t kOwnAlgorithm = 0x66616b65;
constexpr size_t kWorkspace = 1024;

static int CheckMatmul(const char* call, const void* matmul, const void* a, const void* b, const void* c,
                       const void* d) {
  if (!Is<Matmul>(matmul) || !Is<Layout>(a) || !Is<Layout>(b) || !Is<Layout>(c) || !Is<Layout>(d)) {
    return Reject(kInvalidValue, call, "a descriptor of the wrong kind");
  }
  const auto& op = *static_cast<const Matmul*>(matmul);
  const auto &left = *static_cast<const Layout*>(a), &right = *static_cast<const Layout*>(b);
  const auto &in = *static_cast<const Layout*>(c), &out = *static_cast<const Layout*>(d);
  const uint64_t m = op.transpose_a == 1 ? left.columns : left.rows, k = op.transpose_a == 1 ? left.rows : left.columns;
  const uint64_t right_k = op.transpose_b == 1 ? right.columns : right.rows;
  const uint64_t n = op.transpose_b == 1 ? right.rows : right.columns;
  if (right_k != k || out.rows != m || out.columns != n || in.rows != m || in.columns != n) {
    return Reject(kInvalidValue, call, "sizes that do not match");
  }
  if (left.type != right.type || in.type != out.type || (out.type != left.type && out.type != kFloat32)) {
    return Reject(kNotSupported, call, "types");
  }
  if (op.compute == kComputeTf32 && left.type != kFloat32) return Reject(kNotSupported, call, "compute type");
  if ((op.epilogue == 4) != (op.bias != nullptr)) return Reject(kInvalidValue, call, "epilogue and bias");
  return kSuccess;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* matmul, void* a, void* b, void* c, void* d, void* preference,
                                   int wanted, Heuristic* results, int* found) {
  BEGIN();
  REQUIRE(Is<Light>(handle) && Is<Preference>(preference) && wanted > 0 && results != nullptr && found != nullptr);
  const auto& wishes = *static_cast<const Preference*>(preference);
  REQUIRE(wishes.reductions == 2);  // in the compute type: repeatable
  if (const int status = CheckMatmul(__func__, matmul, a, b, c, d); status != kSuccess) return status;
  // Odd widths in 16 bits have no algorithm here, so that callers' own way out is tested.
  const auto& left = *static_cast<const Layout*>(a);
  *found = SizeOf(left.type) == 2 && left.ld % 2 != 0 ? 0 : 1;
  if (*found == 0) return kNotSupported;
  results[0] = {};
  results[0].algorithm.data[0] = kOwnAlgorithm;
  for (int i = 0; i < 4; ++i) results[0].algorithm.data[1 + i] = wishes.alignment[i];
  results[0].workspace = std::min<uint64_t>(kWorkspace, wishes.workspace);
  return kSuccess;
}

#ifndef FAKE_CUBLAS_INCOMPLETE
int cublasLtMatmul(void* handle, void* matmul, const float* alpha, const void* a, void* layout_a, const void* b,
                   void* layout_b, const float* beta, const void* c, void* layout_c, void* d, void* layout_d,
                   const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
  BEGIN();
  REQUIRE(Is<Light>(handle) && stream != nullptr);
  if (const int status = CheckMatmul(__func__, matmul, layout_a, layout_b, layout_c, layout_d); status != kSuccess) {
    return status;
  }
  REQUIRE(alpha != nullptr && *alpha == 1 && beta != nullptr && *beta == 0 && c == d);
  REQUIRE(algorithm != nullptr && algorithm->data[0] == kOwnAlgorithm);
  REQUIRE(workspace_bytes == 0 || (workspace != nullptr && AlignedTo(workspace, 256)));
  REQUIRE(AlignedTo(a, algorithm->data[1]) && AlignedTo(b, algorithm->data[2]) && AlignedTo(d, algorithm->data[4]));
  const Matmul op = *static_cast<const Matmul*>(matmul);
  const Layout left = *static_cast<const Layout*>(layout_a), right = *static_cast<const Layout*>(layout_b);
  const Layout out = *static_cast<const Layout*>(layout_d);
  const uint64_t k = op.transpose_a == 1 ? left.rows : left.columns;
  ++report.products;
  Enqueue(stream, [=] {
    if (workspace != nullptr) std::memset(workspace, 0xff, workspace_bytes);
    Multiply(op.transpose_a == 1, op.transpose_b == 1, static_cast<int64_t>(out.rows),
             static_cast<int64_t>(out.columns), static_cast<int64_t>(k), a, left.type, left.ld, b, right.ld, op.bias, d,
             out.type, out.ld, op.compute);
  });
  return kSuccess;
}
#endif

}  // extern "C"
