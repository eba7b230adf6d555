// Rotary position embedding: pair i of a head at position t rotates by the angle t * base^(-2 i / width).
#include "cpu/kernels/rope.h"

#include <cmath>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {

AngleTable MakeAngles(CpuContext& context, const RopeAngles& p, bool interleaved, bool inverse) {
  const int64_t pairs = p.width / 2, columns = interleaved ? p.width : pairs;
  const AngleTable angles{context.scratch.Take(p.length * columns), context.scratch.Take(p.length * columns), p.length,
                          columns};
  ParallelChunks(context, p.length, 64, [&](int64_t begin, int64_t end) {
    for (int64_t pair = 0; pair < pairs; ++pair) {
      // In double: one sine and cosine per 64 positions, then a rotation per step (64 roundings of 1e-16).
      const double step = std::pow(p.base, -2.0 * static_cast<double>(pair) / static_cast<double>(p.width));
      const double start = static_cast<double>(p.offset + begin) * step;
      const double step_cosine = std::cos(step), step_sine = std::sin(step);
      double cosine = std::cos(start), sine = std::sin(start);
      for (int64_t position = begin; position < end; ++position) {
        const float c = static_cast<float>(cosine), s = static_cast<float>(inverse ? -sine : sine);
        float* cosines = angles.cosines + position * columns;
        float* sines = angles.sines + position * columns;
        if (interleaved) {
          cosines[2 * pair] = cosines[2 * pair + 1] = c;
          sines[2 * pair] = -s;
          sines[2 * pair + 1] = s;
        } else {
          cosines[pair] = c;
          sines[pair] = s;
        }
        const double next = cosine * step_cosine - sine * step_sine;
        sine = sine * step_cosine + cosine * step_sine;
        cosine = next;
      }
    }
  });
  return angles;
}

Status Rope(CpuContext& context, const RopeParams& p) {
  const AngleTable angles = MakeAngles(context, {p.length, p.width, p.base, p.offset}, p.interleaved, p.inverse);
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.width, half = width / 2;
    ParallelRows(context, p.batch * p.length, p.heads * width, [&](int64_t row) {
      const float* cosines = angles.cosines + row % p.length * angles.columns;
      const float* sines = angles.sines + row % p.length * angles.columns;
      for (int64_t head = row * p.heads; head < (row + 1) * p.heads; ++head) {
        const T* x = static_cast<const T*>(p.x) + head * width;
        T* output = static_cast<T*>(p.output) + head * width;
        if (p.interleaved) {
          ForEachVector(width, [=](int64_t i, int64_t count) {
            const Vec rotated =
                RotatePairs(LoadPartial(x + i, count), LoadPartial(cosines + i, count), LoadPartial(sines + i, count));
            StorePartial(output + i, rotated, count);
          });
        } else {
          ForEachVector(half, [=](int64_t i, int64_t count) {
            const Vec a = LoadPartial(x + i, count), b = LoadPartial(x + half + i, count);
            const Vec cosine = LoadPartial(cosines + i, count), sine = LoadPartial(sines + i, count);
            StorePartial(output + i, a * cosine - b * sine, count);
            StorePartial(output + half + i, b * cosine + a * sine, count);
          });
        }
      }
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
