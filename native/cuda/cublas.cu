// Products by cuBLAS. It stores matrices by columns, so it is given C^T = B^T A^T: a row-major matrix is, read by
// columns, its own transpose.
#include <algorithm>
#include <compare>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "cuda/cublas.h"
#include "cuda/cublas_library.h"
#include "cuda/kernels/gemm.cuh"

namespace sas::cuda {
namespace {

using namespace cublas;

constexpr size_t kMaxWorkspace = size_t{32} << 20;

std::string NameOf(Code code) {
  const char* name = TheLibrary().status_name(code);
  return name == nullptr ? "unknown status" : name;
}

Status BlasStatus(Code code, const char* call) {
  if (code == kSuccess) return {};
  const std::string fault = std::string(call) + " failed: " + NameOf(code);
  if (code == kAllocationFailed) return Status(StatusCode::kOutOfMemory, fault);
  return Status(StatusCode::kDevice,
                fault + " in " + TheLibrary().description + "; SAS_CUBLAS_PATH=off uses the built-in kernels");
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

struct Destroy {
  Code (*destroy)(void*);
  void operator()(void* object) const { destroy(object); }
};
using Descriptor = std::unique_ptr<void, Destroy>;

// All that the choice of an algorithm depends on.
struct PlanKey {
  int64_t rows, columns, depth, stride_a, stride_b, stride_c;
  uint32_t align_a, align_b, align_c;
  bool transposed_a, transposed_b;
  DType dtype, result;

  explicit PlanKey(const Product& p)
      : rows(p.rows),
        columns(p.columns),
        depth(p.depth),
        stride_a(p.a.stride),
        stride_b(p.b.stride),
        stride_c(p.c.stride),
        align_a(AlignmentOf(p.a.data)),
        align_b(AlignmentOf(p.b.data)),
        align_c(AlignmentOf(p.c.data)),
        transposed_a(p.a.transposed),
        transposed_b(p.b.transposed),
        dtype(p.dtype),
        result(p.c.dtype) {}
  auto operator<=>(const PlanKey&) const = default;
};

}  // namespace

// How cuBLASLt does products of one kind.
struct Blas::Plan {
  Descriptor matmul, layout_a, layout_b, layout_c;
  Algorithm algorithm{};
  size_t workspace_bytes = 0;
  bool supported = false;
};

struct Blas::Plans {
  // More than the kinds of products in a program, unless their shapes keep changing: then it begins anew.
  static constexpr size_t kMost = 1024;
  std::map<PlanKey, Plan> by_key;
};

Blas::Blas() : plans_(std::make_unique<Plans>()) {}
Blas::~Blas() = default;

std::string Blas::Describe() const {
  const std::lock_guard lock(mutex_);
  return fault_.empty() ? TheLibrary().description : fault_;
}

void Blas::Note(std::string fault) {
  const std::lock_guard lock(mutex_);
  fault_ = std::move(fault);
}

void Blas::Open(cudaStream_t stream, bool tf32) {
  stream_ = stream;
  tf32_ = tf32;
  if (!TheLibrary().found) return;
  if (const Status status = CreateHandles(); !status.ok()) {
    Close();
    Note("built-in (" + status.message() + ")");
  }
}

Status Blas::CreateHandles() {
  const auto check = [](Code code, const char* call) {
    return code == kSuccess ? Status()
                            : Status(StatusCode::kDevice, std::string(call) + " failed: " + NameOf(code) + " in " +
                                                              TheLibrary().description);
  };
  const Library& library = TheLibrary();
  SAS_TRY(check(library.create(&handle_), kNameOf_create));
  SAS_TRY(check(library.set_stream(handle_, stream_), kNameOf_set_stream));
  SAS_TRY(check(library.set_math_mode(handle_, kFullSums), kNameOf_set_math_mode));
  return check(library.light_create(&light_handle_), kNameOf_light_create);
}

void Blas::Close() {
  plans_->by_key.clear();
  if (handle_ != nullptr) static_cast<void>(TheLibrary().destroy(handle_));
  if (light_handle_ != nullptr) static_cast<void>(TheLibrary().light_destroy(light_handle_));
  handle_ = light_handle_ = nullptr;
}

Status Blas::Multiply(CudaContext& context, const Product& product, bool* done) {
  *done = false;
  if (light_handle_ == nullptr || product.row_bias != nullptr || !Fits(product)) return {};
  const bool biased = product.column_bias != nullptr;
  if (biased && (product.outer * product.inner > 1 || product.c.dtype != product.dtype)) return {};
  const Status status = biased ? MultiplyWithBias(context, product, done) : MultiplyBatches(product);
  if (status.code() == StatusCode::kOutOfMemory) {
    Note(TheLibrary().description + ", built-in where it had no memory (" + status.message() + ")");
    return {};
  }
  if (!biased) *done = status.ok();
  return status;
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

Status Blas::MakePlan(const Product& p, Plan* plan) const {
  const Library& library = TheLibrary();
  void* raw = nullptr;
  SAS_CUBLAS_TRY(create_matmul, &raw, ComputeOf(p, tf32_), kFloat32);
  plan->matmul = Descriptor(raw, {library.destroy_matmul});
  const int32_t transpose_a = OperationOf(p.b), transpose_b = OperationOf(p.a);
  const void* bias = p.column_bias;  // any, for now
  SAS_CUBLAS_TRY(set_matmul, raw, kTransposeA, &transpose_a, sizeof transpose_a);
  SAS_CUBLAS_TRY(set_matmul, raw, kTransposeB, &transpose_b, sizeof transpose_b);
  SAS_CUBLAS_TRY(set_matmul, raw, kEpilogue, &kEpilogueBias, sizeof kEpilogueBias);
  SAS_CUBLAS_TRY(set_matmul, raw, kBiasPointer, &bias, sizeof bias);

  const auto rows = static_cast<uint64_t>(p.rows), columns = static_cast<uint64_t>(p.columns),
             depth = static_cast<uint64_t>(p.depth);
  SAS_CUBLAS_TRY(create_layout, &raw, TypeOf(p.dtype), p.b.transposed ? depth : columns,
                 p.b.transposed ? columns : depth, p.b.stride);
  plan->layout_a = Descriptor(raw, {library.destroy_layout});
  SAS_CUBLAS_TRY(create_layout, &raw, TypeOf(p.dtype), p.a.transposed ? rows : depth, p.a.transposed ? depth : rows,
                 p.a.stride);
  plan->layout_b = Descriptor(raw, {library.destroy_layout});
  SAS_CUBLAS_TRY(create_layout, &raw, TypeOf(p.c.dtype), columns, rows, p.c.stride);
  plan->layout_c = Descriptor(raw, {library.destroy_layout});

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
  const Code code =
      library.get_heuristic(light_handle_, plan->matmul.get(), plan->layout_a.get(), plan->layout_b.get(),
                            plan->layout_c.get(), plan->layout_c.get(), preference.get(), 1, &best, &found);
  if (code == kNotSupported || (code == kSuccess && (found == 0 || best.state != kSuccess))) return {};
  SAS_TRY(BlasStatus(code, kNameOf_get_heuristic));
  plan->algorithm = best.algorithm;
  plan->workspace_bytes = best.workspace_bytes;
  plan->supported = true;
  return {};
}

// cuBLASLt adds the bias, in the type of C, before it stores C.
Status Blas::MultiplyWithBias(CudaContext& context, const Product& p, bool* done) {
  auto& plans = plans_->by_key;
  const PlanKey key(p);
  auto at = plans.find(key);
  if (at == plans.end()) {
    Plan plan;
    SAS_TRY(MakePlan(p, &plan));
    if (plans.size() >= Plans::kMost) plans.clear();
    at = plans.emplace(key, std::move(plan)).first;
  }
  const Plan& plan = at->second;
  if (!plan.supported) return {};
  const void* bias = nullptr;
  const auto round = p.scratch_bias ? RoundScratch : RoundParameter;
  SAS_TRY(round(context, p.dtype, p.columns, p.column_bias, &bias));
  SAS_CUBLAS_TRY(set_matmul, plan.matmul.get(), kBiasPointer, &bias, sizeof bias);
  void* workspace =
      plan.workspace_bytes == 0 ? nullptr : context.Take<unsigned char>(static_cast<int64_t>(plan.workspace_bytes));
  const float one = 1, zero = 0;
  SAS_CUBLAS_TRY(matmul, light_handle_, plan.matmul.get(), &one, p.b.data, plan.layout_a.get(), p.a.data,
                 plan.layout_b.get(), &zero, p.c.data, plan.layout_c.get(), p.c.data, plan.layout_c.get(),
                 &plan.algorithm, workspace, plan.workspace_bytes, stream_);
  *done = true;
  return {};
}

}  // namespace sas::cuda
