// The part of the cuBLAS and cuBLASLt interfaces that cublas.cu calls, and where the library is found. Declared here so
// that no header of theirs is needed to build; the values are those of cublas_api.h and cublasLt.h in CUDA 12 and 13.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace sas::cuda::cublas {

using Code = int;  // cublasStatus_t
constexpr Code kSuccess = 0, kAllocationFailed = 3, kNotSupported = 15;

constexpr int kFloat32 = 0, kFloat16 = 2, kBFloat16 = 14;  // cudaDataType_t
constexpr int kPlain = 0, kTransposed = 1;                 // cublasOperation_t
constexpr int kComputeF32 = 68, kComputeTf32 = 77;         // cublasComputeType_t
constexpr int kDefaultAlgorithm = -1;                      // cublasGemmAlgo_t
constexpr int kFullSums = 16;                              // cublasMath_t: partial sums are not kept in 16 bits
constexpr int kMajor = 0, kMinor = 1, kPatch = 2;          // libraryPropertyType

// cublasLtMatmulDescAttributes_t and cublasLtEpilogue_t
constexpr int kTransposeA = 3, kTransposeB = 4, kEpilogue = 7, kBiasPointer = 8;
constexpr uint32_t kEpilogueBias = 4;
// cublasLtMatmulPreferenceAttributes_t and cublasLtReductionScheme_t
constexpr int kMaxWorkspaceBytes = 1, kReductionSchemes = 3, kAlignmentA = 5, kAlignmentB = 6, kAlignmentC = 7,
              kAlignmentD = 8;
constexpr uint32_t kReduceInComputeType = 2;  // in f32, and in a fixed order

struct Algorithm {  // cublasLtMatmulAlgo_t
  uint64_t data[8];
};
struct Heuristic {  // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  Code state;
  float waves;
  int reserved[4];
};

// X(return type, member, symbol, parameters)
#define SAS_CUBLAS_FUNCTIONS(X)                                                                             \
  X(Code, get_property, cublasGetProperty, (int property, int* value))                                      \
  X(const char*, status_name, cublasGetStatusName, (Code code))                                             \
  X(Code, create, cublasCreate_v2, (void** handle))                                                         \
  X(Code, destroy, cublasDestroy_v2, (void* handle))                                                        \
  X(Code, set_stream, cublasSetStream_v2, (void* handle, cudaStream_t stream))                              \
  X(Code, set_math_mode, cublasSetMathMode, (void* handle, int mode))                                       \
  X(Code, gemm, cublasGemmStridedBatchedEx,                                                                 \
    (void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a, \
     int type_a, int lda, long long stride_a, const void* b, int type_b, int ldb, long long stride_b,       \
     const void* beta, void* c, int type_c, int ldc, long long stride_c, int batches, int compute, int algorithm))
#define SAS_CUBLASLT_FUNCTIONS(X)                                                                                      \
  X(Code, light_create, cublasLtCreate, (void** handle))                                                               \
  X(Code, light_destroy, cublasLtDestroy, (void* handle))                                                              \
  X(Code, create_matmul, cublasLtMatmulDescCreate, (void** matmul, int compute, int scale_type))                       \
  X(Code, destroy_matmul, cublasLtMatmulDescDestroy, (void* matmul))                                                   \
  X(Code, set_matmul, cublasLtMatmulDescSetAttribute, (void* matmul, int attribute, const void* value, size_t bytes))  \
  X(Code, create_layout, cublasLtMatrixLayoutCreate,                                                                   \
    (void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld))                                            \
  X(Code, destroy_layout, cublasLtMatrixLayoutDestroy, (void* layout))                                                 \
  X(Code, create_preference, cublasLtMatmulPreferenceCreate, (void** preference))                                      \
  X(Code, destroy_preference, cublasLtMatmulPreferenceDestroy, (void* preference))                                     \
  X(Code, set_preference, cublasLtMatmulPreferenceSetAttribute,                                                        \
    (void* preference, int attribute, const void* value, size_t bytes))                                                \
  X(Code, get_heuristic, cublasLtMatmulAlgoGetHeuristic,                                                               \
    (void* handle, void* matmul, void* a, void* b, void* c, void* d, void* preference, int wanted, Heuristic* results, \
     int* found))                                                                                                      \
  X(Code, matmul, cublasLtMatmul,                                                                                      \
    (void* handle, void* matmul, const void* alpha, const void* a, void* layout_a, const void* b, void* layout_b,      \
     const void* beta, const void* c, void* layout_c, void* d, void* layout_d, const Algorithm* algorithm,             \
     void* workspace, size_t workspace_bytes, cudaStream_t stream))

struct Library {
  std::string description;  // "cuBLAS 13.1.0 (/path)", or why there is none
  bool found = false;
#define SAS_MEMBER(type, member, symbol, parameters) type(*member) parameters = nullptr;
  SAS_CUBLAS_FUNCTIONS(SAS_MEMBER)
  SAS_CUBLASLT_FUNCTIONS(SAS_MEMBER)
#undef SAS_MEMBER
};

// Looks for the library on the first call, wherever it may be installed: SAS_CUBLAS_PATH (a file or a folder; "off" for
// none), the loader's own path, a CUDA toolkit, NVIDIA's Python packages.
const Library& TheLibrary();

}  // namespace sas::cuda::cublas
