// AdamW (Loshchilov and Hutter 2019), with PyTorch's equations, in place on all parameters at once.
#include <atomic>
#include <cmath>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

Status AdamW(CpuContext& context, const AdamWParams& p) {
  using State = AdamWParams::State;
  const double step = static_cast<double>(p.step);
  const float decay = static_cast<float>(1 - p.lr * p.weight_decay);
  const float beta1 = static_cast<float>(p.beta1), rest1 = static_cast<float>(1 - p.beta1);
  const float beta2 = static_cast<float>(p.beta2), rest2 = static_cast<float>(1 - p.beta2);
  const float rate = static_cast<float>(p.lr / (1 - std::pow(p.beta1, step)));
  const float root_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(p.beta2, step)));
  const float eps = static_cast<float>(p.eps);

  const TensorChunks<State> chunks(context, p.states.data(), static_cast<int64_t>(p.states.size()));
  if (p.skipped != nullptr) {
    std::atomic<bool> finite{true};
    chunks.Run([&](const State& state, int64_t begin, int64_t end, int64_t) {
      Vec zero{};  // x - x is 0, or NaN for what is not finite
      ForEachVector(end - begin, [&](int64_t i, int64_t count) {
        const Vec grad = LoadPartial(state.gradient + begin + i, count);
        zero += grad - grad;
      });
      if (!(Sum(zero) == 0)) finite.store(false, std::memory_order_relaxed);
    });
    if (!finite) {
      ++*p.skipped;
      return {};
    }
  }
  chunks.Run([=](const State& state, int64_t begin, int64_t end, int64_t) {
    float* parameter = state.parameter + begin;
    const float* gradient = state.gradient + begin;
    float* first_moment = state.first_moment + begin;
    float* second_moment = state.second_moment + begin;
    ForEachVector(end - begin, [=](int64_t i, int64_t count) {
      const Vec grad = LoadPartial(gradient + i, count);
      const Vec first = LoadPartial(first_moment + i, count) * beta1 + grad * rest1;
      const Vec second = LoadPartial(second_moment + i, count) * beta2 + grad * grad * rest2;
      const Vec update = first * rate / (Sqrt(second) * root_scale + eps);
      StorePartial(parameter + i, LoadPartial(parameter + i, count) * decay - update, count);
      StorePartial(first_moment + i, first, count);
      StorePartial(second_moment + i, second, count);
    });
  });
  return {};
}

}  // namespace sas::cpu::SAS_ISA
