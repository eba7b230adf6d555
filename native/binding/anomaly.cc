#include "binding/anomaly.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "core/convert.h"

namespace sas::binding {
namespace {

constexpr size_t kChunkBytes = 4 << 20;  // copied from the device at a time

template <class T>
Status FindIn(Device& device, const Written& result) {
  const size_t size = static_cast<size_t>(result.shape.elements()), step = kChunkBytes / sizeof(T);
  const T* data = static_cast<const T*>(result.buffer->data);
  std::vector<T> copy;
  for (size_t begin = 0; begin < size; begin += step) {
    const size_t count = std::min(step, size - begin);
    const T* values = data + begin;
    if (!device.HostAccessible()) {
      copy.resize(count);
      if (Status status = device.CopyToHost(copy.data(), values, count * sizeof(T)); !status.ok()) return status;
      values = copy.data();
    }
    for (size_t i = 0; i < count; ++i) {
      const float value = ToFloat(values[i]);
      if (std::isfinite(value) || (result.log_sum_exp && value == -INFINITY)) continue;
      Shape place = result.shape;  // of the element: its index along each axis
      size_t rest = begin + i;
      for (int axis = place.rank; axis-- > 0; rest /= static_cast<size_t>(result.shape.sizes[axis])) {
        place.sizes[axis] = static_cast<int64_t>(rest % static_cast<size_t>(result.shape.sizes[axis]));
      }
      const char* name = std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
      return Status(StatusCode::kAnomaly, std::string("its result of shape ") + Describe(result.shape) + " has " +
                                              name + " at " + Describe(place));
    }
  }
  return {};
}

}  // namespace

Status FindAnomaly(Device& device, const std::vector<Written>& results) {
  for (const Written& result : results) {
    Status status;
    if (result.dtype == DType::kF32) status = FindIn<float>(device, result);
    if (result.dtype == DType::kBF16) status = FindIn<BFloat16>(device, result);
    if (result.dtype == DType::kF16) status = FindIn<Float16>(device, result);
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace sas::binding
