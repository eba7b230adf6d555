// The result of native work: a code that JavaScript code can rely on, and a message for people.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace sas {

enum class StatusCode { kOk, kShape, kArgument, kDevice, kOutOfMemory, kAnomaly, kInternal };

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

// Of work that was cancelled, which nobody is left to wait for.
Status DroppedAtShutdown();
// Values that index a table or classes and do not.
Status TokenOutside(int32_t token, int64_t position, int64_t vocabulary);
Status TargetOutside(int32_t target, int64_t position, int64_t classes);

// The stable `code` property of the JavaScript error.
inline const char* CodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kShape:
      return "SAS_SHAPE";
    case StatusCode::kArgument:
      return "SAS_ARGUMENT";
    case StatusCode::kDevice:
      return "SAS_DEVICE";
    case StatusCode::kOutOfMemory:
      return "SAS_OUT_OF_MEMORY";
    case StatusCode::kAnomaly:
      return "SAS_ANOMALY";
    case StatusCode::kInternal:
      break;
  }
  return "SAS_INTERNAL";
}

}  // namespace sas
