// loss = mean of log(sum(exp(logits))) - logits[target], over the rows whose target is not ignored.
#include <cmath>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"
#include "cpu/kernels/vector_math.h"

namespace sas::cpu::SAS_ISA {
namespace {

// The number of targets that are not ignored.
template <class Params>
Status CountTargets(const Params& p, int64_t* counted) {
  *counted = 0;
  for (int64_t row = 0; row < p.rows; ++row) {
    const int32_t target = p.targets[row];
    if (target == p.ignore_index) continue;
    if (target < 0 || target >= p.classes) return TargetOutside(target, row, p.classes);
    ++*counted;
  }
  return {};
}

// exp(logits - shift) of a row: of the target and summed over the others, so that neither loss nor gradient cancels
// where the target has nearly all the probability. An ignored target counts with the others.
struct Exponentials {
  double target, others;
};

template <class T>
SAS_INLINE float SumExp(const T* logits, int64_t size, float shift) {
  return Sum(SumVectors(size, [=](int64_t i, int64_t count) {
    return KeepLanes(ExpNonPositive(LoadPartial(logits + i, count) - shift), count, 0.0f);
  }));
}

template <class T>
SAS_INLINE Exponentials SumExp(const T* logits, int64_t classes, int32_t target, bool ignored, float shift) {
  if (ignored) return {0, SumExp(logits, classes, shift)};
  const double others =
      static_cast<double>(SumExp(logits, target, shift)) + SumExp(logits + target + 1, classes - target - 1, shift);
  return {std::exp(static_cast<double>(ToFloat(logits[target])) - shift), others};
}

template <class T>
SAS_INLINE float MaxLogit(const T* logits, int64_t classes) {
  Vec most = Broadcast(-std::numeric_limits<float>::infinity());
  ForEachVector(classes, [&](int64_t i, int64_t count) {
    most = VecMax(most, KeepLanes(LoadPartial(logits + i, count), count, -std::numeric_limits<float>::infinity()));
  });
  return MaxLane(most);
}

}  // namespace

Status CrossEntropy(CpuContext& context, const CrossEntropyParams& p) {
  int64_t counted;
  if (Status status = CountTargets(p, &counted); !status.ok()) return status;
  double* losses = reinterpret_cast<double*>(context.scratch.Take(2 * p.rows));
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    ParallelRows(context, p.rows, p.classes, [&](int64_t row) {
      const T* logits = static_cast<const T*>(p.logits) + row * p.classes;
      const int32_t target = p.targets[row];
      const bool ignored = target == p.ignore_index;
      const double most = MaxLogit(logits, p.classes);
      const Exponentials sums = SumExp(logits, p.classes, target, ignored, static_cast<float>(most));
      const double log_sum = std::log(sums.target + sums.others);  // >= 0, relative to the largest logit
      p.log_sum_exp[row] = static_cast<float>(most + log_sum);
      losses[row] = ignored ? 0 : (most - ToFloat(logits[target])) + log_sum;
    });
    double total = 0;
    for (int64_t row = 0; row < p.rows; ++row) total += losses[row];
    *p.loss = counted ? static_cast<float>(total / static_cast<double>(counted)) : 0.0f;
    return Status();
  });
}

// gradLogits = (softmax(logits) - onehot(target)) * gradLoss / number of targets. log_sum_exp serves as the shift only:
// the exponentials are normalised by their sum, because its rounding (6e-8 of its size) would be a relative error of
// every one.
Status CrossEntropyBackward(CpuContext& context, const CrossEntropyBackwardParams& p) {
  int64_t counted;
  if (Status status = CountTargets(p, &counted); !status.ok()) return status;
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const double grad_loss = static_cast<double>(*p.grad_loss) / static_cast<double>(Max<int64_t>(counted, 1));
    ParallelRows(context, p.rows, p.classes, [&](int64_t row) {
      const T* logits = static_cast<const T*>(p.logits) + row * p.classes;
      T* grad_logits = static_cast<T*>(p.grad_logits) + row * p.classes;
      const int32_t target = p.targets[row];
      if (target == p.ignore_index) {
        memset(grad_logits, 0, static_cast<size_t>(p.classes) * sizeof(T));
        return;
      }
      const float shift = p.log_sum_exp[row];
      const Exponentials sums = SumExp(logits, p.classes, target, false, shift);
      const double factor = grad_loss / (sums.target + sums.others);
      const Vec scale = Broadcast(static_cast<float>(factor));
      ForEachVector(p.classes, [=](int64_t i, int64_t count) {
        StorePartial(grad_logits + i, ExpNonPositive(LoadPartial(logits + i, count) - shift) * scale, count);
      });
      FromFloat(static_cast<float>(-sums.others * factor), grad_logits + target);
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
