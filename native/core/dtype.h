// Element types and their conversions, shared by every backend and by host-side copies.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sas {

// The order is part of the binding (binding.d.ts: DTypeCode).
enum class DType : uint8_t { kF32 = 0, kBF16 = 1, kF16 = 2, kI32 = 3 };

constexpr const char* NameOf(DType dtype) {
  constexpr const char* kNames[] = {"f32", "bf16", "f16", "i32"};
  return kNames[static_cast<size_t>(dtype)];
}
constexpr size_t ItemSize(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF16 ? 2 : 4; }

// Storage-only 16-bit floats: arithmetic is always done in f32.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

}  // namespace sas
