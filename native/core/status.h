// The result of native work: a code that JavaScript code can rely on, and a message for people.
#pragma once

#include <string>
#include <utility>

namespace sas {

enum class StatusCode { kOk, kShape, kDevice, kOutOfMemory, kInternal };

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

// The stable `code` property of the JavaScript error.
inline const char* CodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "OK";
    case StatusCode::kShape:
      return "SAS_SHAPE";
    case StatusCode::kDevice:
      return "SAS_DEVICE";
    case StatusCode::kOutOfMemory:
      return "SAS_OUT_OF_MEMORY";
    case StatusCode::kInternal:
      break;
  }
  return "SAS_INTERNAL";
}

}  // namespace sas
