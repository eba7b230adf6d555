// Stands in for libcublas.so.13 and libcublasLt.so.13 in tests on the emulated device: the entry points that
// native/cuda uses, as plain loops over host memory, with every argument checked as the manual states it. A call that
// the real library would reject returns its status, and says why on stderr.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "core/convert.h"

namespace {

using sas::BFloat16, sas::Float16;

enum Status { kSuccess = 0, kNotInitialized = 1, kAllocationFailed = 3, kInvalidValue = 7, kNotSupported = 15 };
enum { kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14 };
enum { kComputeF32 = 68, kComputeTf32 = 77 };

int Reject(Status status, const char* call, const char* reason) {
  std::fprintf(stderr, "fake cuBLAS: %s: %s\n", call, reason);
  return status;
}
#define REQUIRE(condition) \
  if (!(condition)) return Reject(kInvalidValue, __func__, "expected " #condition)

// Every object begins with its kind, so that one passed for another is found.
enum class Kind : uint32_t { kHandle = 0x48414e44, kLight, kMatmul, kLayout, kPreference, kGone };
struct Handle {
  Kind kind = Kind::kHandle;
  bool has_stream = false;
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
  long products = 0;
  ~Report() {
    const char* path = std::getenv("FAKE_CUBLAS_REPORT");
    FILE* file = path == nullptr || products == 0 ? nullptr : std::fopen(path, "a");
    if (file == nullptr) return;
    std::fprintf(file, "%ld\n", products);
    std::fclose(file);
  }
} report;

// FAKE_CUBLAS_FAIL=create: as on a device without memory for the handle. =products: without memory for a product.
bool Fails(const char* what) {
  const char* fail = std::getenv("FAKE_CUBLAS_FAIL");
  return fail != nullptr && std::strcmp(fail, what) == 0;
}

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
  REQUIRE(property >= 0 && property <= 2 && value != nullptr);
  *value = property == 0 ? 13 : property == 1 ? 1 : 0;
  return kSuccess;
}
const char* cublasGetStatusName(int status) {
  switch (status) {
    case kSuccess:
      return "CUBLAS_STATUS_SUCCESS";
    case kNotInitialized:
      return "CUBLAS_STATUS_NOT_INITIALIZED";
    case kAllocationFailed:
      return "CUBLAS_STATUS_ALLOC_FAILED";
    case kInvalidValue:
      return "CUBLAS_STATUS_INVALID_VALUE";
    default:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
  }
}

int cublasCreate_v2(void** handle) { return Fails("create") ? kNotInitialized : Create<Handle>(handle); }
int cublasDestroy_v2(void* handle) { return Destroy<Handle>(handle); }
int cublasSetStream_v2(void* handle, void* stream) {
  REQUIRE(Is<Handle>(handle) && stream != nullptr);
  static_cast<Handle*>(handle)->has_stream = true;
  return kSuccess;
}
int cublasSetMathMode(void* handle, int mode) {
  REQUIRE(Is<Handle>(handle));
  REQUIRE(mode == 0 || mode == 16);  // full f32
  return kSuccess;
}

int cublasGemmStridedBatchedEx(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const float* alpha,
                               const void* a, int type_a, int lda, long long stride_a, const void* b, int type_b,
                               int ldb, long long stride_b, const float* beta, void* c, int type_c, int ldc,
                               long long stride_c, int batches, int compute, int algorithm) {
  REQUIRE(Is<Handle>(handle) && static_cast<Handle*>(handle)->has_stream);
  REQUIRE((transpose_a == 0 || transpose_a == 1) && (transpose_b == 0 || transpose_b == 1));
  REQUIRE(m > 0 && n > 0 && k > 0 && batches > 0);
  REQUIRE(KnownType(type_a) && type_a == type_b && (type_c == type_a || type_c == kFloat32));
  REQUIRE(lda >= std::max(1, transpose_a == 1 ? k : m) && ldb >= std::max(1, transpose_b == 1 ? n : k) && ldc >= m);
  REQUIRE(stride_a >= 0 && stride_b >= 0 && (batches == 1 || stride_c > 0));
  REQUIRE(compute == kComputeF32 || (compute == kComputeTf32 && type_a == kFloat32));
  REQUIRE(algorithm == -1 && alpha != nullptr && *alpha == 1 && beta != nullptr && *beta == 0);
  REQUIRE(a != nullptr && b != nullptr && c != nullptr);
  REQUIRE(AlignedTo(a, SizeOf(type_a)) && AlignedTo(b, SizeOf(type_b)) && AlignedTo(c, SizeOf(type_c)));
  if (Fails("products")) return kAllocationFailed;
  ++report.products;
  for (int batch = 0; batch < batches; ++batch) {
    Multiply(transpose_a == 1, transpose_b == 1, m, n, k, Offset(a, type_a, batch * stride_a), type_a, lda,
             Offset(b, type_b, batch * stride_b), ldb, nullptr, Offset(c, type_c, batch * stride_c), type_c, ldc,
             compute);
  }
  return kSuccess;
}

int cublasLtCreate(void** handle) { return Create<Light>(handle); }
int cublasLtDestroy(void* handle) { return Destroy<Light>(handle); }

int cublasLtMatmulDescCreate(void** matmul, int compute, int scale_type) {
  REQUIRE((compute == kComputeF32 || compute == kComputeTf32) && scale_type == kFloat32);
  const int status = Create<Matmul>(matmul);
  if (status == kSuccess) static_cast<Matmul*>(*matmul)->compute = compute;
  return status;
}
int cublasLtMatmulDescDestroy(void* matmul) { return Destroy<Matmul>(matmul); }
int cublasLtMatmulDescSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
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
  REQUIRE(KnownType(type) && rows > 0 && columns > 0 && ld >= static_cast<int64_t>(rows));
  const int status = Create<Layout>(layout);
  if (status == kSuccess) *static_cast<Layout*>(*layout) = {Kind::kLayout, type, rows, columns, ld};
  return status;
}
int cublasLtMatrixLayoutDestroy(void* layout) { return Destroy<Layout>(layout); }

int cublasLtMatmulPreferenceCreate(void** preference) { return Create<Preference>(preference); }
int cublasLtMatmulPreferenceDestroy(void* preference) { return Destroy<Preference>(preference); }
int cublasLtMatmulPreferenceSetAttribute(void* object, int attribute, const void* value, size_t bytes) {
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

int cublasLtMatmul(void* handle, void* matmul, const float* alpha, const void* a, void* layout_a, const void* b,
                   void* layout_b, const float* beta, const void* c, void* layout_c, void* d, void* layout_d,
                   const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
  REQUIRE(Is<Light>(handle) && stream != nullptr);
  if (const int status = CheckMatmul(__func__, matmul, layout_a, layout_b, layout_c, layout_d); status != kSuccess) {
    return status;
  }
  REQUIRE(alpha != nullptr && *alpha == 1 && beta != nullptr && *beta == 0 && c == d);
  REQUIRE(algorithm != nullptr && algorithm->data[0] == kOwnAlgorithm);
  REQUIRE(workspace_bytes == 0 || (workspace != nullptr && AlignedTo(workspace, 256)));
  REQUIRE(AlignedTo(a, algorithm->data[1]) && AlignedTo(b, algorithm->data[2]) && AlignedTo(d, algorithm->data[4]));
  if (Fails("products")) return kAllocationFailed;
  if (workspace != nullptr) std::memset(workspace, 0xff, workspace_bytes);
  ++report.products;
  const auto& op = *static_cast<const Matmul*>(matmul);
  const auto &left = *static_cast<const Layout*>(layout_a), &right = *static_cast<const Layout*>(layout_b);
  const auto& out = *static_cast<const Layout*>(layout_d);
  const uint64_t k = op.transpose_a == 1 ? left.rows : left.columns;
  Multiply(op.transpose_a == 1, op.transpose_b == 1, static_cast<int64_t>(out.rows), static_cast<int64_t>(out.columns),
           static_cast<int64_t>(k), a, left.type, left.ld, b, right.ld, op.bias, d, out.type, out.ld, op.compute);
  return kSuccess;
}

}  // extern "C"
