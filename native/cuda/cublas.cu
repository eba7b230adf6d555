// Products by cuBLAS. It stores matrices by columns, so it is given C^T = B^T A^T: a row-major matrix is, read by
// columns, its own transpose.
#include <algorithm>
#include <limits>
#include <memory>

#include "cuda/cublas.h"
#include "cuda/cublas_library.h"
#include "cuda/kernels/gemm.cuh"

namespace sas::cuda {
namespace {

using namespace cublas;

constexpr size_t kMaxWorkspace = size_t{32} << 20;

Status BlasStatus(Code code, const char* call) {
  if (code == kSuccess) return {};
  const char* name = TheLibrary().status_name(code);
  return Status(StatusCode::kDevice, std::string(call) + " failed: " + (name == nullptr ? "unknown status" : name) +
                                         " in " + TheLibrary().description +
                                         "; SAS_CUBLAS_PATH=off uses the built-in kernels");
}

int TypeOf(DType dtype) { return dtype == DType::kBF16 ? kBFloat16 : dtype == DType::kF16 ? kFloat16 : kFloat32; }
int ComputeOf(const Product& p, bool tf32) { return tf32 && p.dtype == DType::kF32 ? kComputeTf32 : kComputeF32; }
int OperationOf(const Matrix& matrix) { return matrix.transposed ? kTransposed : kPlain; }

// cuBLAS takes sizes and strides of rows as int.
bool Fits(const Product& p) {
  const int64_t largest = std::max({p.rows, p.columns, p.depth, p.outer, p.inner, p.a.stride, p.b.stride, p.c.stride});
  return largest <= std::numeric_limits<int>::max();
}

const void* Advance(const void* data, DType dtype, int64_t elements) {
  return static_cast<const unsigned char*>(data) + elements * static_cast<int64_t>(ItemSize(dtype));
}

// The largest power of two that divides the address, up to what cuBLAS asks for at most.
uint32_t AlignmentOf(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  return static_cast<uint32_t>(std::min<uintptr_t>(256, address & (~address + 1)));
}

// The name of every function, and a call that returns its failure with that name.
#define SAS_NAME(type, member, symbol, parameters) [[maybe_unused]] constexpr const char* kNameOf_##member = #symbol;
SAS_CUBLAS_FUNCTIONS(SAS_NAME)
SAS_CUBLASLT_FUNCTIONS(SAS_NAME)
#undef SAS_NAME
#define SAS_CUBLAS_TRY(member, ...) SAS_TRY(BlasStatus(TheLibrary().member(__VA_ARGS__), kNameOf_##member))

// Descriptors of one call.
struct Destroy {
  Code (*destroy)(void*);
  void operator()(void* object) const { destroy(object); }
};
using Descriptor = std::unique_ptr<void, Destroy>;

}  // namespace

std::string Blas::Describe() { return TheLibrary().description; }

Status Blas::Prepare() {
  if (light_handle_ != nullptr) return {};
  if (handle_ == nullptr) SAS_CUBLAS_TRY(create, &handle_);
  SAS_CUBLAS_TRY(set_stream, handle_, stream_);
  SAS_CUBLAS_TRY(set_math_mode, handle_, kFullSums);
  SAS_CUBLAS_TRY(light_create, &light_handle_);
  return {};
}

void Blas::Close() {
  if (handle_ != nullptr) static_cast<void>(TheLibrary().destroy(handle_));
  if (light_handle_ != nullptr) static_cast<void>(TheLibrary().light_destroy(light_handle_));
  handle_ = light_handle_ = nullptr;
}

Status Blas::Multiply(CudaContext& context, const Product& product, bool* done) {
  *done = false;
  if (!TheLibrary().found || product.row_bias != nullptr || !Fits(product)) return {};
  if (product.column_bias != nullptr && (product.outer * product.inner > 1 || product.c.dtype != product.dtype))
    return {};
  SAS_TRY(Prepare());
  if (product.column_bias != nullptr) return MultiplyWithBias(context, product, done);
  SAS_TRY(MultiplyBatches(product));
  *done = true;
  return {};
}

// One call takes batches in one dimension: heads, where each has a B of its own, or those that share one; calls are
// made along the other.
Status Blas::MultiplyBatches(const Product& p) {
  const float one = 1, zero = 0;
  const int64_t groups = p.b_share > 1 ? p.inner / p.b_share : 1;
  const int64_t members = p.inner / groups;
  const bool outer_inside = groups == 1 && p.b_share == 1 && p.outer > p.inner;  // fewer calls
  const int64_t calls_outer = outer_inside ? p.inner : p.outer;
  const int64_t batches = outer_inside ? p.outer : members;
  for (int64_t call = 0; call < calls_outer * groups; ++call) {
    const int64_t outer = outer_inside ? 0 : call / groups, group = outer_inside ? 0 : call % groups;
    const int64_t inner = outer_inside ? call : group * members;
    const void* a = Advance(p.a.data, p.dtype, outer * p.a.outer + inner * p.a.inner);
    const void* b = Advance(p.b.data, p.dtype, outer * p.b.outer + inner / p.b_share * p.b.inner);
    void* c = const_cast<void*>(Advance(p.c.data, p.c.dtype, outer * p.c.outer + inner * p.c.inner));
    const int64_t step_a = outer_inside ? p.a.outer : p.a.inner, step_c = outer_inside ? p.c.outer : p.c.inner;
    const int64_t step_b = outer_inside ? p.b.outer : p.b_share > 1 ? 0 : p.b.inner;
    SAS_CUBLAS_TRY(gemm, handle_, OperationOf(p.b), OperationOf(p.a), static_cast<int>(p.columns),
                   static_cast<int>(p.rows), static_cast<int>(p.depth), &one, b, TypeOf(p.dtype),
                   static_cast<int>(p.b.stride), step_b, a, TypeOf(p.dtype), static_cast<int>(p.a.stride), step_a,
                   &zero, c, TypeOf(p.c.dtype), static_cast<int>(p.c.stride), step_c, static_cast<int>(batches),
                   ComputeOf(p, tf32_), kDefaultAlgorithm);
  }
  return {};
}

// cuBLASLt adds the bias, in the type of C, before it stores C.
Status Blas::MultiplyWithBias(CudaContext& context, const Product& p, bool* done) {
  const Library& library = TheLibrary();
  const void* bias = nullptr;
  SAS_TRY(RoundParameter(context, p.dtype, p.columns, p.column_bias, &bias));

  void* raw = nullptr;
  SAS_CUBLAS_TRY(create_matmul, &raw, ComputeOf(p, tf32_), kFloat32);
  const Descriptor matmul(raw, {library.destroy_matmul});
  const int32_t transpose_a = OperationOf(p.b), transpose_b = OperationOf(p.a);
  SAS_CUBLAS_TRY(set_matmul, raw, kTransposeA, &transpose_a, sizeof transpose_a);
  SAS_CUBLAS_TRY(set_matmul, raw, kTransposeB, &transpose_b, sizeof transpose_b);
  SAS_CUBLAS_TRY(set_matmul, raw, kEpilogue, &kEpilogueBias, sizeof kEpilogueBias);
  SAS_CUBLAS_TRY(set_matmul, raw, kBiasPointer, &bias, sizeof bias);

  const auto rows = static_cast<uint64_t>(p.rows), columns = static_cast<uint64_t>(p.columns),
             depth = static_cast<uint64_t>(p.depth);
  SAS_CUBLAS_TRY(create_layout, &raw, TypeOf(p.dtype), p.b.transposed ? depth : columns,
                 p.b.transposed ? columns : depth, p.b.stride);
  const Descriptor layout_a(raw, {library.destroy_layout});
  SAS_CUBLAS_TRY(create_layout, &raw, TypeOf(p.dtype), p.a.transposed ? rows : depth, p.a.transposed ? depth : rows,
                 p.a.stride);
  const Descriptor layout_b(raw, {library.destroy_layout});
  SAS_CUBLAS_TRY(create_layout, &raw, TypeOf(p.c.dtype), columns, rows, p.c.stride);
  const Descriptor layout_c(raw, {library.destroy_layout});

  SAS_CUBLAS_TRY(create_preference, &raw);
  const Descriptor preference(raw, {library.destroy_preference});
  const uint64_t max_workspace = kMaxWorkspace;
  const uint32_t align_a = AlignmentOf(p.b.data), align_b = AlignmentOf(p.a.data), align_c = AlignmentOf(p.c.data);
  SAS_CUBLAS_TRY(set_preference, raw, kMaxWorkspaceBytes, &max_workspace, sizeof max_workspace);
  SAS_CUBLAS_TRY(set_preference, raw, kReductionSchemes, &kReduceInComputeType, sizeof kReduceInComputeType);
  SAS_CUBLAS_TRY(set_preference, raw, kAlignmentA, &align_a, sizeof align_a);
  SAS_CUBLAS_TRY(set_preference, raw, kAlignmentB, &align_b, sizeof align_b);
  SAS_CUBLAS_TRY(set_preference, raw, kAlignmentC, &align_c, sizeof align_c);
  SAS_CUBLAS_TRY(set_preference, raw, kAlignmentD, &align_c, sizeof align_c);

  Heuristic best{};
  int found = 0;
  const Code code = library.get_heuristic(light_handle_, matmul.get(), layout_a.get(), layout_b.get(), layout_c.get(),
                                          layout_c.get(), preference.get(), 1, &best, &found);
  if (code == kNotSupported || (code == kSuccess && (found == 0 || best.state != kSuccess))) return {};
  SAS_TRY(BlasStatus(code, kNameOf_get_heuristic));
  void* workspace =
      best.workspace_bytes == 0 ? nullptr : context.Take<unsigned char>(static_cast<int64_t>(best.workspace_bytes));
  const float one = 1, zero = 0;
  SAS_CUBLAS_TRY(matmul, light_handle_, matmul.get(), &one, p.b.data, layout_a.get(), p.a.data, layout_b.get(), &zero,
                 p.c.data, layout_c.get(), p.c.data, layout_c.get(), &best.algorithm, workspace, best.workspace_bytes,
                 stream_);
  *done = true;
  return {};
}

}  // namespace sas::cuda
