// loss = mean of log(sum(exp(logits))) - logits[target], over the rows whose target is not ignored. A target outside of
// the classes is recorded and gives NaN: the loss, its row of the gradient.
#include "cuda/device/elementwise.cuh"
#include "cuda/operations.h"

namespace sas::cuda {
namespace {

// A warp has a row of up to kShortRow classes, a block of kLongWarps one of more.
constexpr int64_t kShortRow = 1024;
constexpr int kLongWarps = 16;
constexpr int kMeanThreads = 1024;  // one block for all rows

// e^x for x <= 0 or hardly above: in full accuracy for f32, else to the accuracy of ex2.
template <class T>
__device__ __forceinline__ float Exp(float x) {
  if constexpr (sizeof(T) == 4) {
    return expf(x);
  } else {
    return Exp2(x * 1.44269504f);
  }
}

// What the thread's part of a row is called with: kVector<T> elements at a time from where 16-byte accesses are aligned
// (rows of an odd number of classes begin anywhere), single ones before and after. body.operator()<kCount>(i): elements
// i .. i + kCount - 1.
template <int kWarps, class T, class Body>
__device__ __forceinline__ void ForElements(const T* row, int classes, bool vectorizable, const Body& body) {
  constexpr int kCount = kVector<T>, kThreads = 32 * kWarps;
  const int rank = RowGroup<kWarps>::Rank();
  const int misplaced = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
  const int head = vectorizable ? min((kCount - misplaced) % kCount, classes) : classes;
  const int tail = head + (classes - head) / kCount * kCount;
  for (int i = rank; i < head; i += kThreads) body.template operator()<1>(i);
  for (int i = head + rank * kCount; i < tail; i += kThreads * kCount) body.template operator()<kCount>(i);
  for (int i = tail + rank; i < classes; i += kThreads) body.template operator()<1>(i);
}

// x = logits i .. i + kCount - 1 without that of the target, -infinity in its place.
template <class T, int kCount>
__device__ __forceinline__ void LoadOthers(const T* logits, int i, int target, float (&x)[kCount]) {
  LoadElements(logits + i, x);
  if (static_cast<unsigned>(target - i) < kCount) {
#pragma unroll
    for (int k = 0; k < kCount; ++k) x[k] = i + k == target ? -INFINITY : x[k];
  }
}

// What exponentials are taken relative to: `most`, where it is not -infinity.
__device__ __forceinline__ float Shift(float most) { return most == -INFINITY ? 0.0f : most; }

template <class T, int kCount>
__device__ __forceinline__ float SumOfExp(const float (&x)[kCount], float shift) {
  float sum = 0;
#pragma unroll
  for (int k = 0; k < kCount; ++k) sum += Exp<T>(x[k] - shift);
  return sum;
}

// losses [rows], 0 for ignored rows. exp(logits - most) of the target and the sum over the others are kept apart, so
// that the loss does not cancel where the target has nearly all the probability. One pass: a thread's sum is relative
// to the largest logit that it has seen. An ignored target counts with the others.
template <class T, int kWarps>
__global__ void __launch_bounds__(kWarps == 1 ? kElementThreads : 32 * kWarps)
    CrossEntropyKernel(CrossEntropyParams p, float* losses, CheckRecord* outside_record) {
  using Group = RowGroup<kWarps>;
  float* shared = reinterpret_cast<float*>(SharedMemory());
  const int classes = static_cast<int>(p.classes);
  for (int64_t row = Group::FirstRow(); row < p.rows; row += Group::RowStride()) {
    const T* logits = static_cast<const T*>(p.logits) + row * p.classes;
    const int target = p.targets[row];
    const bool ignored = target == p.ignore_index, outside = target < 0 || target >= classes;
    const bool counted = !ignored && !outside;
    const int place = counted ? target : -1;
    const float own = counted ? Widen(logits[target]) : -INFINITY;
    float thread_most = own, others = 0, rest = 0;
    ForElements<kWarps>(logits, classes, true, [&]<int kCount>(int i) {
      float x[kCount];
      LoadOthers(logits, i, place, x);
      float peak = thread_most;
#pragma unroll
      for (int k = 0; k < kCount; ++k) peak = fmaxf(peak, x[k]);
      if (peak > thread_most) {
        const float shrink = Exp<T>(thread_most - peak);
        others *= shrink;
        rest *= shrink;
        thread_most = peak;
      }
      AddCompensated(SumOfExp<T>(x, Shift(peak)), others, rest);
    });
    const float most = Group::Max(thread_most, shared);
    others = Group::Sum(others * Exp<T>(thread_most - Shift(most)), shared);
    if (Group::Rank() == 0) {
      const float target_part = counted ? Exp<T>(own - Shift(most)) : 0.0f;
      // Relative to the largest logit, so >= 0.
      const float log_sum = own == most ? log1pf(others) : logf(target_part + others);
      p.log_sum_exp[row] = most + log_sum;
      losses[row] = ignored ? 0.0f : outside ? NAN : (most - own) + log_sum;
      if (!ignored && outside) RecordOutside(outside_record, row, target);
    }
  }
}

// Over the whole block.
__device__ __forceinline__ int64_t CountTargets(int64_t rows, const int32_t* targets, int32_t ignore_index) {
  double counted[1] = {};
  for (int64_t row = threadIdx.x; row < rows; row += kMeanThreads) counted[0] += targets[row] != ignore_index;
  RowGroup<kMeanThreads / 32>::Sum(counted, reinterpret_cast<double*>(SharedMemory()));
  return static_cast<int64_t>(counted[0]);
}

// One block.
__global__ void __launch_bounds__(kMeanThreads) MeanKernel(CrossEntropyParams p, const float* losses) {
  const int64_t counted = CountTargets(p.rows, p.targets, p.ignore_index);
  double total[1] = {};
  for (int64_t row = threadIdx.x; row < p.rows; row += kMeanThreads) total[0] += losses[row];
  RowGroup<kMeanThreads / 32>::Sum(total, reinterpret_cast<double*>(SharedMemory()));
  if (threadIdx.x == 0) *p.loss = counted > 0 ? static_cast<float>(total[0] / static_cast<double>(counted)) : 0.0f;
}

// *row_scale = gradLoss / number of targets. One block.
__global__ void __launch_bounds__(kMeanThreads) RowScaleKernel(CrossEntropyBackwardParams p, float* row_scale) {
  const int64_t counted = CountTargets(p.rows, p.targets, p.ignore_index);
  if (threadIdx.x == 0) *row_scale = *p.grad_loss / static_cast<float>(max(counted, int64_t{1}));
}

// gradLogits = (softmax(logits) - onehot(target)) * row_scale. log_sum_exp serves as the shift only: the exponentials
// are normalised by their sum, because its rounding (6e-8 of its size) would be a relative error of every one. The
// row's second reading comes from the L2 cache: few rows are on their way at a time.
// Of short rows of f32 with any number of blocks at a time: ptxas else spills for the sake of one more.
template <class T, int kWarps>
__global__ void __launch_bounds__(kWarps == 1 ? kElementThreads : 32 * kWarps, kWarps == 1 && sizeof(T) == 4 ? 1 : 0)
    CrossEntropyBackwardKernel(CrossEntropyBackwardParams p, bool vectorizable, const float* row_scale,
                               CheckRecord* outside_record) {
  using Group = RowGroup<kWarps>;
  float* shared = reinterpret_cast<float*>(SharedMemory());
  const int classes = static_cast<int>(p.classes);
  for (int64_t row = Group::FirstRow(); row < p.rows; row += Group::RowStride()) {
    const T* logits = static_cast<const T*>(p.logits) + row * p.classes;
    T* grad_logits = static_cast<T*>(p.grad_logits) + row * p.classes;
    const int target = p.targets[row];
    if (target == p.ignore_index || target < 0 || target >= classes) {
      const bool ignored = target == p.ignore_index;
      const float nothing = ignored ? 0.0f : NAN;
      if (!ignored && Group::Rank() == 0) RecordOutside(outside_record, row, target);
      ForElements<kWarps>(logits, classes, vectorizable, [&]<int kCount>(int i) {
        float x[kCount];
#pragma unroll
        for (int k = 0; k < kCount; ++k) x[k] = nothing;
        StoreElements(grad_logits + i, x);
      });
      continue;
    }
    const float shift = p.log_sum_exp[row];
    float others = 0, rest = 0;
    ForElements<kWarps>(logits, classes, vectorizable, [&]<int kCount>(int i) {
      float x[kCount];
      LoadOthers(logits, i, target, x);
      AddCompensated(SumOfExp<T>(x, shift), others, rest);
    });
    others = Group::Sum(others, shared);
    const float factor = *row_scale / (Exp<T>(Widen(logits[target]) - shift) + others);
    ForElements<kWarps>(logits, classes, vectorizable, [&]<int kCount>(int i) {
      float x[kCount];
      LoadElements(logits + i, x);
#pragma unroll
      for (int k = 0; k < kCount; ++k) x[k] = i + k == target ? -others * factor : Exp<T>(x[k] - shift) * factor;
      StoreElements(grad_logits + i, x);
    });
  }
}

Status CheckClasses(int64_t classes) {
  if (classes <= INT32_MAX) return {};
  return Status(StatusCode::kShape, "up to 2147483647 classes are supported");
}

}  // namespace

Status CrossEntropy(CudaContext& context, const CrossEntropyParams& p) {
  SAS_TRY(CheckClasses(p.classes));
  auto* losses = context.Take<float>(p.rows);
  CheckRecord* outside = context.StartCheck(TargetOutside, p.classes);
  SAS_TRY(DispatchFloat(p.dtype, [&]<class T>(T*) {
    return p.classes <= kShortRow
               ? context.Launch(CrossEntropyKernel<T, 1>, RowGrid<1>(p.rows), p, losses, outside)
               : context.Launch(CrossEntropyKernel<T, kLongWarps>, RowGrid<kLongWarps>(p.rows), p, losses, outside);
  }));
  return context.Launch(MeanKernel, Grid{dim3(1), kMeanThreads, kMeanThreads / 32 * sizeof(double)}, p, losses);
}

Status CrossEntropyBackward(CudaContext& context, const CrossEntropyBackwardParams& p) {
  SAS_TRY(CheckClasses(p.classes));
  auto* row_scale = context.Take<float>(1);
  CheckRecord* outside = context.StartCheck(TargetOutside, p.classes);
  SAS_TRY(
      context.Launch(RowScaleKernel, Grid{dim3(1), kMeanThreads, kMeanThreads / 32 * sizeof(double)}, p, row_scale));
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    // Both rows begin at the same place within 16 bytes.
    const bool vectorizable =
        (reinterpret_cast<uintptr_t>(p.logits) - reinterpret_cast<uintptr_t>(p.grad_logits)) % 16 == 0;
    return p.classes <= kShortRow ? context.Launch(CrossEntropyBackwardKernel<T, 1>, RowGrid<1>(p.rows), p,
                                                   vectorizable, row_scale, outside)
                                  : context.Launch(CrossEntropyBackwardKernel<T, kLongWarps>,
                                                   RowGrid<kLongWarps>(p.rows), p, vectorizable, row_scale, outside);
  });
}

}  // namespace sas::cuda
