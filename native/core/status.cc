#include "core/status.h"

namespace sas {

Status DroppedAtShutdown() { return Status(StatusCode::kDevice, "the work was dropped at shutdown"); }

Status TokenOutside(int32_t token, int64_t position, int64_t vocabulary) {
  return Status(StatusCode::kDevice, "token " + std::to_string(token) + " at position " + std::to_string(position) +
                                         " is outside the vocabulary of " + std::to_string(vocabulary));
}

Status TargetOutside(int32_t target, int64_t position, int64_t classes) {
  return Status(StatusCode::kDevice, "target " + std::to_string(target) + " at position " + std::to_string(position) +
                                         " is outside the " + std::to_string(classes) + " classes");
}

}  // namespace sas
