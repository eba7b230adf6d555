#include "cpu/kernels/tile.h"

#include <type_traits>

namespace sas::cpu::SAS_ISA {
namespace {

// A part of a product along its depth.
struct DepthSlice {
  int64_t begin, size;
  bool first, last;
};

// One register tile: kRows rows by kVectors vectors, of which `a`, `b` and `c` are the first elements; `m` and `n` are
// its first row and column.
template <int kRows, int kVectors, bool kOverlapping, bool kBf16x2>
SAS_INLINE void MultiplyTile(const Product& p, const DepthSlice& slice, int64_t m, int64_t n, const float* a,
                             const float* b, float* c) {
  const int64_t a_row = p.a_row, a_step = p.a_step, b_step = p.b_step, c_row = p.c_row;
  const int32_t* offsets = kOverlapping ? p.b_offsets + slice.begin : nullptr;

  Vec sum[kRows][kVectors];
  const auto for_each = [](const auto& body) __attribute__((always_inline)) {
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) body(i, v);
    }
  };
  for_each([&](int i, int v) { sum[i][v] = Vec{}; });

  const float* a_rows[kRows];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) a_rows[i] = a + i * a_row;
  int64_t a_offset = 0;
  for (int64_t k = 0; k < slice.size; ++k) {
    const float* row = kOverlapping ? b + offsets[k] : b;
    Vec right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = Load(row + v * kLanes);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const Vec left = Broadcast(a_rows[i][a_offset]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        sum[i][v] = kBf16x2 ? AddPairProducts(sum[i][v], left, right[v]) : sum[i][v] + left * right[v];
      }
    }
    a_offset += a_step;
    if (!kOverlapping) b += b_step;
  }

  if (slice.first) {
    if (p.row_bias) for_each([&](int i, int v) { sum[i][v] += p.row_bias[m + i]; });
    if (p.column_bias) for_each([&](int i, int v) { sum[i][v] += Load(p.column_bias + n + v * kLanes); });
  }
  if (!slice.first || p.accumulate) for_each([&](int i, int v) { sum[i][v] += Load(c + i * c_row + v * kLanes); });
  for_each([&](int i, int v) { Store(c + i * c_row + v * kLanes, sum[i][v]); });
  if (p.relu && slice.last) {
    float* relu = p.relu + m * p.relu_row + n;
    for_each([&](int i, int v) { Store(relu + i * p.relu_row + v * kLanes, VecMax(sum[i][v], Vec{})); });
  }
}

// All rows of kVectors vectors of columns from n on. A sum in registers adds up no more than kLongestChain rows of B,
// and C such sums, so that rounding errors don't grow with the depth; what one slice reads of B stays in L1. The loop
// over tiles is in here, so that the end of one tile overlaps the beginning of the next.
template <int kVectors, bool kOverlapping, bool kBf16x2>
void MultiplyColumns(const Product& p, int64_t n) {
  for (int64_t k = 0; k == 0 || k < p.depth; k += kLongestChain) {
    const DepthSlice slice{k, Min(kLongestChain, p.depth - k), k == 0, k + kLongestChain >= p.depth};
    const float* a = p.a + k * p.a_step;
    const float* b = p.b + n / kTileColumns * p.b_panel + n % kTileColumns + (kOverlapping ? 0 : k * p.b_step);
    float* c = p.c + n;
    int64_t m = 0;
    for (; m + kTileRows <= p.rows; m += kTileRows, a += p.a_panel, c += kTileRows * p.c_row) {
      MultiplyTile<kTileRows, kVectors, kOverlapping, kBf16x2>(p, slice, m, n, a, b, c);
    }
    const auto rest = [&]<int kRows>(std::integral_constant<int, kRows>) __attribute__((always_inline)) {
      if (p.rows - m < kRows) return;
      MultiplyTile<kRows, kVectors, kOverlapping, kBf16x2>(p, slice, m, n, a, b, c);
      m += kRows;
      a += kRows * p.a_row;
      c += kRows * p.c_row;
    };
    rest(std::integral_constant<int, 4>());
    rest(std::integral_constant<int, 2>());
    rest(std::integral_constant<int, 1>());
  }
}

template <bool kOverlapping, bool kBf16x2>
void MultiplyTiles(const Product& p) {
  for (int64_t n = 0; n < p.columns;) {
    const int64_t vectors = Min<int64_t>(CeilDiv(p.columns - n, kLanes), kTileVectors);
    if constexpr (kTileVectors == 4) {
      if (vectors == 4) MultiplyColumns<4, kOverlapping, kBf16x2>(p, n);
      if (vectors == 3) MultiplyColumns<3, kOverlapping, kBf16x2>(p, n);
    }
    if (vectors == 2) MultiplyColumns<2, kOverlapping, kBf16x2>(p, n);
    if (vectors == 1) MultiplyColumns<1, kOverlapping, kBf16x2>(p, n);
    n += vectors * kLanes;
  }
}

}  // namespace

void Multiply(const Product& p) {
  const bool overlapping = p.b_offsets != nullptr;
  if constexpr (kHasBf16x2) {
    if (p.bf16x2) return overlapping ? MultiplyTiles<true, true>(p) : MultiplyTiles<false, true>(p);
  }
  overlapping ? MultiplyTiles<true, false>(p) : MultiplyTiles<false, false>(p);
}

namespace {

// Sums in registers: 6 x 4 of 32 registers, or 4 x 3 of 16.
constexpr int kTapRows = kVectorRegisters == 32 ? 6 : 4;
constexpr int kTapColumns = kVectorRegisters == 32 ? 4 : 3;
constexpr int kTapSums = static_cast<int>(RoundUp(kTapRows * kTapColumns, kLanes));

}  // namespace

void AccumulateTaps(const TapGradient& p) {
  const int64_t chain_blocks = Max<int64_t>(1, kLongestChain / Max<int64_t>(1, CeilDiv(p.width, kLanes)));
  for (int64_t m = 0; m < p.rows; m += kTapRows) {
    const int64_t rows = Min<int64_t>(kTapRows, p.rows - m);
    for (int64_t j = 0; j < p.columns; j += kTapColumns) {
      const int64_t columns = Min<int64_t>(kTapColumns, p.columns - j);
      // Beyond the edge the last row or column is computed again, and not stored.
      const float* a[kTapRows];
      const float* b[kTapColumns];
      for (int i = 0; i < kTapRows; ++i) a[i] = p.a + Min(m + i, p.rows - 1) * p.a_row;
      for (int i = 0; i < kTapColumns; ++i) b[i] = p.b + p.offsets[Min(j + i, p.columns - 1)];
      for (int64_t first = 0; first < p.blocks; first += chain_blocks) {
        Vec sums[kTapSums] = {};
        for (int64_t block = first; block < Min(first + chain_blocks, p.blocks); ++block) {
          const int64_t a_start = block * p.a_block, b_start = block * p.b_block;
          for (int64_t d = 0; d < p.width; d += kLanes) {
            Vec right[kTapColumns];
#pragma GCC unroll 4
            for (int c = 0; c < kTapColumns; ++c) right[c] = Load(b[c] + b_start + d);
#pragma GCC unroll 6
            for (int r = 0; r < kTapRows; ++r) {
              const Vec left = Load(a[r] + a_start + d);
#pragma GCC unroll 4
              for (int c = 0; c < kTapColumns; ++c) sums[r * kTapColumns + c] += left * right[c];
            }
          }
        }
        float lanes[kTapSums];
#pragma GCC unroll 4
        for (int i = 0; i < kTapSums; i += kLanes) {
          Vec group[kLanes];
#pragma GCC unroll 16
          for (int lane = 0; lane < kLanes; ++lane) group[lane] = sums[i + lane];
          Store(lanes + i, SumRows(group));
        }
        for (int64_t r = 0; r < rows; ++r) {
          float* row = p.gradient + (m + r) * p.columns + j;
          for (int64_t c = 0; c < columns; ++c) row[c] += lanes[r * kTapColumns + c];
        }
      }
    }
  }
}

}  // namespace sas::cpu::SAS_ISA
