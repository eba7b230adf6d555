// Copies between tensors of any storage type and f32 blocks laid out for Multiply.
#pragma once

#include <type_traits>

#include "cpu/kernels/simd.h"
#include "cpu/kernels/tile.h"

namespace sas::cpu::SAS_ISA {

// Rows of one head lie kilobytes apart, where the processor's own prefetching gives up at page ends: asks for a row
// ahead.
template <class T>
SAS_INLINE void PrefetchRow(const T* row, int64_t columns) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t c = 0; c < columns; c += kLine) __builtin_prefetch(row + c);
}
inline constexpr int64_t kRowsAhead = 8;

// Rows that will be read or (T not const) written later, asked for a few at a time while the processor computes.
template <class T>
struct RowsAhead {
  const T* next;
  int64_t stride, columns, rows;

  SAS_INLINE void Ask(int64_t count) {
    constexpr int64_t kLine = 64 / sizeof(T);
    for (; count > 0 && rows > 0; --count, --rows, next += stride) {
      for (int64_t c = 0; c < columns; c += kLine) __builtin_prefetch(next + c, !std::is_const_v<T>, 2);  // into L2
    }
  }
};

// target[r][c] = source[r][c], zero for columns <= c < padded.
template <class T>
void CopyRows(const T* source, int64_t source_stride, int64_t rows, int64_t columns, float* target,
              int64_t target_stride, int64_t padded) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = source + r * source_stride;
    float* to = target + r * target_stride;
    if (r + kRowsAhead < rows) PrefetchRow(from + kRowsAhead * source_stride, columns);
    int64_t c = 0;
    for (; c + kLanes <= columns; c += kLanes) Store(to + c, Load(from + c));
    if (c < padded) {
      StorePartial(to + c, LoadPartial(from + c, columns - c), padded - c);
      for (c += kLanes; c < padded; c += kLanes) StorePartial(to + c, Vec{}, padded - c);
    }
  }
}

// target[r][c] = source[r][c] in the storage type, rounded.
template <class T>
void StoreRows(const float* source, int64_t source_stride, int64_t rows, int64_t columns, T* target,
               int64_t target_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = source + r * source_stride;
    T* to = target + r * target_stride;
    ForEachVector(columns,
                  [&](int64_t c, int64_t count) { StorePartial(to + c, LoadPartial(from + c, count), count); });
  }
}

// Rows of a tensor whose storage type is T or, if `dtype` says so, f32; from element `offset` on.
template <class T>
void CopyRowsAs(DType dtype, const void* source, int64_t offset, int64_t source_stride, int64_t rows, int64_t columns,
                float* target, int64_t target_stride, int64_t padded) {
  if (dtype == DType::kF32) {
    CopyRows(static_cast<const float*>(source) + offset, source_stride, rows, columns, target, target_stride, padded);
  } else {
    CopyRows(static_cast<const T*>(source) + offset, source_stride, rows, columns, target, target_stride, padded);
  }
}
template <class T>
void StoreRowsAs(DType dtype, const float* source, int64_t source_stride, int64_t rows, int64_t columns, void* target,
                 int64_t offset, int64_t target_stride) {
  if (dtype == DType::kF32) {
    StoreRows(source, source_stride, rows, columns, static_cast<float*>(target) + offset, target_stride);
  } else {
    StoreRows(source, source_stride, rows, columns, static_cast<T*>(target) + offset, target_stride);
  }
}

// ---- operands of a product, as f32 or (kBf16x2) as pairs of bf16 along its depth; an odd depth ends with a zero

// Whether a product of tensors stored as T takes pairs.
template <class T>
inline constexpr bool kUsesBf16x2 = kHasBf16x2&& std::is_same_v<T, BFloat16>;
// How deep the product is in floats.
template <bool kBf16x2>
constexpr int64_t Depth(int64_t depth) {
  return kBf16x2 ? CeilDiv(depth, 2) : depth;
}

// The next floats along the depth, times `factor`; `count` elements are left.
template <bool kBf16x2, class T>
SAS_INLINE Vec LoadAlong(const T* source, int64_t count, float factor = 1) {
  const Vec first = LoadPartial(source, Min<int64_t>(count, kLanes)) * factor;
  if constexpr (!kBf16x2) return first;
  const Vec second = LoadPartial(source + kLanes, Max<int64_t>(0, Min<int64_t>(count - kLanes, kLanes))) * factor;
  return PairNeighbours(first, second);
}

// target[r][k] = factor * source[r][k] for k along the depth. Pairs may take the place of their source.
template <bool kBf16x2, class T>
void PackAlong(const T* source, int64_t source_stride, int64_t rows, int64_t depth, float* target,
               int64_t target_stride, float factor = 1) {
  for (int64_t r = 0; r < rows; ++r) {
    const T* from = source + r * source_stride;
    float* to = target + r * target_stride;
    if (r + kRowsAhead < rows) PrefetchRow(from + kRowsAhead * source_stride, depth);
    ForEachVector(Depth<kBf16x2>(depth), [&](int64_t k, int64_t count) {
      const int64_t element = kBf16x2 ? 2 * k : k;
      StorePartial(to + k, LoadAlong<kBf16x2>(from + element, depth - element, factor), count);
    });
  }
}

// target[k][c] = source[k][c] for k along the depth, or max(., 0) of it; zero for columns <= c < padded.
template <bool kBf16x2, bool kRelu = false, class T>
void PackAcross(const T* source, int64_t source_stride, int64_t depth, int64_t columns, float* target,
                int64_t target_stride, int64_t padded) {
  if constexpr (!kBf16x2) {
    static_assert(!kRelu);
    CopyRows(source, source_stride, depth, columns, target, target_stride, padded);
  } else {
    for (int64_t k = 0; k < depth; k += 2) {
      const T* from = source + k * source_stride;
      float* to = target + k / 2 * target_stride;
      if (k + kRowsAhead + 1 < depth) {
        PrefetchRow(from + kRowsAhead * source_stride, columns);
        PrefetchRow(from + (kRowsAhead + 1) * source_stride, columns);
      }
      ForEachVector(padded, [&](int64_t c, int64_t count) {
        const int64_t present = Max<int64_t>(0, Min<int64_t>(columns - c, kLanes));
        Vec first = LoadPartial(from + c, present);
        Vec second = k + 1 < depth ? LoadPartial(from + source_stride + c, present) : Vec{};
        if (kRelu) {
          first = VecMax(first, Vec{});
          second = VecMax(second, Vec{});
        }
        StorePartial(to + c, PairLanes(first, second), count);
      });
    }
  }
}

// target[k][r] = source[r][k] for k along the depth, zero for rows <= r < padded, which is a multiple of kLanes.
template <bool kBf16x2, class T>
void PackTransposed(const T* source, int64_t source_stride, int64_t rows, int64_t depth, float* target,
                    int64_t target_stride, int64_t padded) {
  const int64_t floats = Depth<kBf16x2>(depth);
  for (int64_t r = 0; r < padded; r += kLanes) {
    for (int64_t i = r + kLanes; i < Min(r + 2 * kLanes, rows); ++i) PrefetchRow(source + i * source_stride, depth);
    for (int64_t k = 0; k < floats; k += kLanes) {
      const int64_t element = kBf16x2 ? 2 * k : k;
      Vec block[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        block[i] =
            r + i < rows ? LoadAlong<kBf16x2>(source + (r + i) * source_stride + element, depth - element) : Vec{};
      }
      Transpose(block);
      for (int64_t i = 0; i < Min<int64_t>(kLanes, floats - k); ++i)
        Store(target + (k + i) * target_stride + r, block[i]);
    }
  }
}

// A[m][k] = source[m * row + k * step] in panels [ceil(rows / 6)][depth][6], zero beyond the last row.
template <class T>
void PackPanels(const T* source, int64_t row, int64_t step, int64_t rows, int64_t depth, float* target) {
  for (int64_t m = 0; m < rows; m += kTileRows) {
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < kTileRows; ++i) {
        *target++ = m + i < rows ? ToFloat(source[(m + i) * row + k * step]) : 0.0f;
      }
    }
  }
}
constexpr int64_t PanelFloats(int64_t rows, int64_t depth) { return RoundUp(rows, kTileRows) * depth; }

}  // namespace sas::cpu::SAS_ISA
