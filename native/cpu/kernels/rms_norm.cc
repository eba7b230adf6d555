// output = xhat * weight, xhat = x * rstd, rstd = 1 / sqrt(mean(x^2) + eps), over each row.
#include "cpu/kernels/norm.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

Status RmsNorm(CpuContext& context, const RmsNormParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.width;
    const float* weight = p.weight;
    ParallelRows(context, p.rows, width, [&](int64_t row) {
      const T* x = static_cast<const T*>(p.x) + row * width;
      T* output = static_cast<T*>(p.output) + row * width;
      const auto value = [=](int64_t i, int64_t count) { return LoadPartial(x + i, count); };
      const Vec squares =
          SumVectors(width, [=](int64_t i, int64_t count) { return value(i, count) * value(i, count); });
      const float rstd = InverseDeviation(width, Sum(squares), 0, p.eps, value);
      ForEachVector(width, [=](int64_t i, int64_t count) {
        StorePartial(output + i, LoadPartial(x + i, count) * rstd * LoadPartial(weight + i, count), count);
      });
      p.rstd[row] = rstd;
    });
    return Status();
  });
}

// With g = gradOutput * weight: gradX = rstd * (g - xhat * mean(g * xhat)); gradWeight is the sum of gradOutput * xhat
// over rows.
Status RmsNormBackward(CpuContext& context, const RmsNormBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.width;
    const float* weight = p.weight;
    SumRows(context, p.rows, width, {p.grad_weight}, [&](int64_t row, float* sums, int64_t) {
      const T* grad_output = static_cast<const T*>(p.grad_output) + row * width;
      const T* x = static_cast<const T*>(p.x) + row * width;
      T* grad_x = static_cast<T*>(p.grad_x) + row * width;
      const float rstd = p.rstd[row];
      const Vec products = SumVectors(width, [=](int64_t i, int64_t count) {
        return LoadPartial(grad_output + i, count) * LoadPartial(weight + i, count) *
               (LoadPartial(x + i, count) * rstd);
      });
      const float mean_product = Sum(products) / static_cast<float>(width);
      ForEachVector(width, [=](int64_t i, int64_t count) {
        const Vec grad = LoadPartial(grad_output + i, count);
        const Vec normal = LoadPartial(x + i, count) * rstd;
        StorePartial(grad_x + i, (grad * LoadPartial(weight + i, count) - normal * mean_product) * rstd, count);
        Store(sums + i, Load(sums + i) + grad * normal);
      });
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
