// Stands in for native/cuda/device/ptx.cuh in the emulated build: the same functions in plain C++.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>

#include "core/convert.h"
#include "core/dtype.h"

namespace sas::cuda {

inline unsigned char* SharedMemory() { return emulator::Current().block->shared; }

// ---- asynchronous copies

inline void CopyAsync16(void* shared, const void* global, bool valid) {
  emulator::CopyAsync(shared, global, 16, valid);
}
inline void CopyAsyncCommit() { emulator::CopyAsyncCommit(); }
template <int kPending>
inline void CopyAsyncWait() {
  emulator::CopyAsyncWait(kPending);
}

// ---- 16-byte accesses

inline uint4 Load16(const void* pointer) {
  emulator::CountVector(pointer);
  return *static_cast<const uint4*>(pointer);
}
inline void Store16(void* pointer, uint4 value) {
  emulator::CountVector(pointer);
  *static_cast<uint4*>(pointer) = value;
}

// ---- 8-byte accesses

inline void CheckAligned8(const void* pointer) {
  if (reinterpret_cast<uintptr_t>(pointer) % 8 != 0) emulator::Fail("8-byte access to an address not aligned to 8");
}
inline uint2 Load8(const void* pointer) {
  CheckAligned8(pointer);
  return *static_cast<const uint2*>(pointer);
}
inline void Store8(void* pointer, uint2 value) {
  CheckAligned8(pointer);
  *static_cast<uint2*>(pointer) = value;
}

// ---- matrices

// Loads kCount 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8.
template <int kCount, bool kTransposed>
inline void EmulatedLoadMatrix(uint32_t (&r)[kCount], const void* row) {
  struct Operand {
    const void* row;
    uint32_t* r;
  } operand{row, r};
  emulator::Exchange(kTransposed ? "ldmatrix.trans" : "ldmatrix", &operand, [](const emulator::Operands& operands) {
    emulator::Operands rows{};
    for (int lane = 0; lane < 8 * kCount; ++lane) {
      rows[lane] = const_cast<void*>(static_cast<const Operand*>(operands[lane])->row);
    }
    emulator::CountMatrixRows(rows, kCount);
    for (int matrix = 0; matrix < kCount; ++matrix) {
      uint16_t elements[8][8];
      for (int i = 0; i < 8; ++i) memcpy(elements[i], rows[8 * matrix + i], 16);
      for (int lane = 0; lane < 32; ++lane) {
        const int g = lane / 4, t = lane % 4;
        const uint32_t low = kTransposed ? elements[2 * t][g] : elements[g][2 * t];
        const uint32_t high = kTransposed ? elements[2 * t + 1][g] : elements[g][2 * t + 1];
        static_cast<const Operand*>(operands[lane])->r[matrix] = low | high << 16;
      }
    }
  });
}
inline void LoadMatrix4(uint32_t (&r)[4], const void* row) { EmulatedLoadMatrix<4, false>(r, row); }
inline void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row) { EmulatedLoadMatrix<4, true>(r, row); }
inline void LoadMatrix2(uint32_t (&r)[2], const void* row) { EmulatedLoadMatrix<2, false>(r, row); }
inline void LoadMatrix2Transposed(uint32_t (&r)[2], const void* row) { EmulatedLoadMatrix<2, true>(r, row); }

// ---- products

// c [16, 8] += a [16, kK] b [kK, 8], kPacked neighbours along K in one register: a in registers of rows g and g + 8 by
// turns, every second one and every one of b 4 * kPacked further along K.
template <int kK, int kPacked, class Decode>
inline void EmulatedMma(const char* name, float* c, const uint32_t* a, const uint32_t* b) {
  struct Operand {
    float* c;
    const uint32_t *a, *b;
  } operand{c, a, b};
  emulator::Exchange(name, &operand, [](const emulator::Operands& operands) {
    constexpr int kRegisters = kK / (4 * kPacked);  // of b; a has twice as many
    // Wholly written below: spared the pattern that fresh variables get.
    __attribute__((uninitialized)) float left[16][kK], right[kK][8], sums[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      const Operand& own = *static_cast<const Operand*>(operands[lane]);
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < kRegisters; ++i) {
        for (int part = 0; part < kPacked; ++part) {
          const int k = kPacked * (t + 4 * i) + part;
          left[g][k] = Decode::At(own.a[2 * i], part);
          left[g + 8][k] = Decode::At(own.a[2 * i + 1], part);
          right[k][g] = Decode::At(own.b[i], part);
        }
      }
      for (int i = 0; i < 4; ++i) sums[g + i / 2 * 8][2 * t + i % 2] = own.c[i];
    }
    emulator::MultiplyTile(kK, &left[0][0], &right[0][0], &sums[0][0]);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      float* result = static_cast<const Operand*>(operands[lane])->c;
      for (int i = 0; i < 4; ++i) result[i] = sums[g + i / 2 * 8][2 * t + i % 2];
    }
    ++emulator::Counts().products;
  });
}
struct DecodeBF16 {
  static float At(uint32_t r, int part) { return ToFloat(BFloat16{static_cast<uint16_t>(r >> 16 * part)}); }
};
struct DecodeF16 {
  static float At(uint32_t r, int part) { return ToFloat(Float16{static_cast<uint16_t>(r >> 16 * part)}); }
};
struct DecodeTf32 {
  static float At(uint32_t r, int) { return sas::BitsToFloat(r & 0xffffe000u); }  // the lowest bits are not read
};
inline void MmaBF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  EmulatedMma<16, 2, DecodeBF16>("mma.m16n8k16.bf16", c, a, b);
}
inline void MmaBF16(float (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  EmulatedMma<8, 2, DecodeBF16>("mma.m16n8k8.bf16", c, a, &b);
}
inline void MmaF16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  EmulatedMma<16, 2, DecodeF16>("mma.m16n8k16.f16", c, a, b);
}
inline void MmaTf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  EmulatedMma<8, 1, DecodeTf32>("mma.m16n8k8.tf32", c, a, b);
}

// ---- conversions

inline int Opaque(int value) { return value; }

inline uint32_t FloatBits(float value) { return sas::FloatBits(value); }
inline float BitsToFloat(uint32_t bits) { return sas::BitsToFloat(bits); }

inline uint32_t RoundToTf32(float value) {
  const uint32_t bits = FloatBits(value), magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffffffu;  // NaN
  return magnitude == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

inline float Widen(float value) { return value; }
inline float Widen(BFloat16 value) { return ToFloat(value); }
inline float Widen(Float16 value) { return ToFloat(value); }
inline void Narrow(float value, float* out) { FromFloat(value, out); }
inline void Narrow(float value, BFloat16* out) { FromFloat(value, out); }
inline void Narrow(float value, Float16* out) { FromFloat(value, out); }

template <class T>
inline uint32_t Pack(float low, float high) {
  T parts[2];
  FromFloat(low, &parts[0]);
  FromFloat(high, &parts[1]);
  return parts[0].bits | static_cast<uint32_t>(parts[1].bits) << 16;
}

template <class T>
inline uint32_t ReluPacked(uint32_t pair) {
  uint32_t result = 0;
  for (int part = 0; part < 2; ++part) {
    const uint32_t bits = pair >> 16 * part & 0xffffu;
    const float value = ToFloat(T{static_cast<uint16_t>(bits)});
    result |= (value <= 0 ? 0u : bits) << 16 * part;  // NaN is not <= 0
  }
  return result;
}

inline float Exp2(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126f ? 0.0f : result;
}

}  // namespace sas::cuda
