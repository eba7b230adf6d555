// output = xhat * weight + bias, xhat = (x - mean) * rstd, over each row; the variance is the biased one. Rounded to
// f32, a mean far from 0 is off by too much of the deviation, so what is measured from it has a mean of its own,
// `rest`, that is taken off as well.
#include "cpu/kernels/norm.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

struct Moments {
  Vec first, second;
  friend Moments operator+(const Moments& a, const Moments& b) { return {a.first + b.first, a.second + b.second}; }
};

struct RowSums {
  Vec normal, grad, product;
  friend RowSums operator+(const RowSums& a, const RowSums& b) {
    return {a.normal + b.normal, a.grad + b.grad, a.product + b.product};
  }
};

}  // namespace

Status LayerNorm(CpuContext& context, const LayerNormParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.width;
    const float* weight = p.weight;
    const float* bias = p.bias;
    ParallelRows(context, p.rows, width, [&](int64_t row) {
      const T* x = static_cast<const T*>(p.x) + row * width;
      T* output = static_cast<T*>(p.output) + row * width;
      const float size = static_cast<float>(width);
      const float mean =
          Sum(SumVectors(width, [=](int64_t i, int64_t count) { return LoadPartial(x + i, count); })) / size;
      const auto from_mean = [=](int64_t i, int64_t count) {
        return KeepLanes(LoadPartial(x + i, count) - mean, count, 0.0f);
      };
      const Moments moments = SumVectors(width, [=](int64_t i, int64_t count) {
        const Vec value = from_mean(i, count);
        return Moments{value, value * value};
      });
      const float rest = Sum(moments.first) / size;
      const float rstd = InverseDeviation(width, Sum(moments.second), rest, p.eps, from_mean);
      ForEachVector(width, [=, rest = rest * rstd](int64_t i, int64_t count) {
        const Vec normal = (LoadPartial(x + i, count) - mean) * rstd - rest;
        StorePartial(output + i, normal * LoadPartial(weight + i, count) + LoadPartial(bias + i, count), count);
      });
      p.mean[row] = rest == rest ? mean + rest : mean;  // an infinite mean has none
      p.rstd[row] = rstd;
    });
    return Status();
  });
}

// With g = gradOutput * weight: gradX = rstd * (g - mean(g) - xhat * mean(g * xhat)); gradWeight and gradBias are the
// sums of gradOutput * xhat and gradOutput over rows.
Status LayerNormBackward(CpuContext& context, const LayerNormBackwardParams& p) {
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.width;
    const float* weight = p.weight;
    SumRows(context, p.rows, width, {p.grad_weight, p.grad_bias}, [&](int64_t row, float* sums, int64_t stride) {
      const T* grad_output = static_cast<const T*>(p.grad_output) + row * width;
      const T* x = static_cast<const T*>(p.x) + row * width;
      const T* residual = p.residual == nullptr ? nullptr : static_cast<const T*>(p.residual) + row * width;
      T* grad_x = static_cast<T*>(p.grad_x) + row * width;
      float* bias_sums = sums + stride;
      const float mean = p.mean[row], rstd = p.rstd[row], size = static_cast<float>(width);
      const RowSums row_sums = SumVectors(width, [=](int64_t i, int64_t count) {
        const Vec grad = LoadPartial(grad_output + i, count) * LoadPartial(weight + i, count);
        const Vec normal = KeepLanes((LoadPartial(x + i, count) - mean) * rstd, count, 0.0f);
        return RowSums{normal, grad, grad * normal};
      });
      const float rest = Sum(row_sums.normal) / size, mean_grad = Sum(row_sums.grad) / size;
      const float mean_product = Sum(row_sums.product) / size - rest * mean_grad;
      ForEachVector(width, [=](int64_t i, int64_t count) {
        const Vec grad = LoadPartial(grad_output + i, count);
        const Vec normal = (LoadPartial(x + i, count) - mean) * rstd - rest;
        const Vec centred = grad * LoadPartial(weight + i, count) - mean_grad - normal * mean_product;
        Vec total = centred * rstd;
        if (residual != nullptr) total = total + LoadPartial(residual + i, count);
        StorePartial(grad_x + i, total, count);
        Store(sums + i, Load(sums + i) + grad * normal);
        Store(bias_sums + i, Load(bias_sums + i) + grad);
      });
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
