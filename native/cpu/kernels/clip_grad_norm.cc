// Scales all gradients by min(1, max_norm / (norm + 1e-6)), as PyTorch's clip_grad_norm_; norm is the L2 norm over all
// of them. The norm of infinite gradients gives the factor 0, NaN gives NaN.
#include <cmath>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

typedef float VecNarrow __attribute__((vector_size(kVectorBytes / 2)));
typedef double VecDouble __attribute__((vector_size(kVectorBytes)));
constexpr int kDoubles = kLanes / 2;

// In double: no rounding, overflow or underflow to think of.
double SumSquares(const float* values, int64_t size) {
  constexpr int kChains = 4;
  VecDouble sums[kChains] = {};
  int64_t i = 0;
  for (; i + kChains * kDoubles <= size; i += kChains * kDoubles) {
    for (int chain = 0; chain < kChains; ++chain) {
      VecNarrow narrow;
      memcpy(&narrow, values + i + chain * kDoubles, sizeof narrow);
      const VecDouble value = __builtin_convertvector(narrow, VecDouble);
      sums[chain] += value * value;
    }
  }
  const VecDouble sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int lane = 0; lane < kDoubles; ++lane) total += sum[lane];
  for (; i < size; ++i) total += static_cast<double>(values[i]) * values[i];
  return total;
}

}  // namespace

Status ClipGradNorm(CpuContext& context, const ClipGradNormParams& p) {
  using Gradient = ClipGradNormParams::Gradient;
  const TensorChunks<Gradient> chunks(context, p.gradients.data(), static_cast<int64_t>(p.gradients.size()));
  double* squares = reinterpret_cast<double*>(context.scratch.Take(2 * chunks.items()));
  chunks.Run([&](const Gradient& gradient, int64_t begin, int64_t end, int64_t item) {
    squares[item] = SumSquares(gradient.data + begin, end - begin);
  });
  double total = 0;
  for (int64_t item = 0; item < chunks.items(); ++item) total += squares[item];
  const double norm = std::sqrt(total);  // of finite gradients always finite, though not always in f32
  *p.norm = static_cast<float>(norm);

  const double factor = p.max_norm / (norm + 1e-6);
  if (factor >= 1) return {};
  const Vec scale = Broadcast(static_cast<float>(factor));
  chunks.Run([=](const Gradient& gradient, int64_t begin, int64_t end, int64_t) {
    float* values = gradient.data + begin;
    ForEachVector(end - begin, [=](int64_t i, int64_t count) {
      StorePartial(values + i, LoadPartial(values + i, count) * scale, count);
    });
  });
  return {};
}

}  // namespace sas::cpu::SAS_ISA
