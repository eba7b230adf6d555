// Anomaly mode (SAS_ANOMALY=1): every op's results are looked at, so that the first one that is not finite is named.
#pragma once

#include <vector>

#include "binding/shape.h"
#include "core/buffer.h"

namespace sas::binding {

// What an op has written.
struct Written {
  const Buffer* buffer;  // alive as long as the op's task
  DType dtype;
  Shape shape;
  bool log_sum_exp;  // may be -infinity: of a query that sees no key
};

// kAnomaly for the first element that is NaN or infinite. Waits for the device. Executor thread.
Status FindAnomaly(Device& device, const std::vector<Written>& results);

}  // namespace sas::binding
