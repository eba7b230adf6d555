#include "cpu/kernels/gemm.h"

#include <type_traits>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/pack.h"

namespace sas::cpu::SAS_ISA {
namespace {

// A block of C is kRowBlock x kColumnBlock, accumulated over slices of kDepthBlock: packed A (96 KB), a panel of B (64
// KB) and the block of C (96 KB) stay in L2 while A's panels pass through L1.
constexpr int64_t kRowBlock = 96;
constexpr int64_t kColumnBlock = 256;
constexpr int64_t kDepthBlock = 256;

// B[k][n] for n in one panel of kTileColumns, as [depth][kTileColumns], zero beyond the last column.
template <bool kBf16x2, class T>
void PackPanelB(const T* b, int64_t row, int64_t column, int64_t depth, int64_t columns, float* panel) {
  if (column == 1) {
    PackAcross<kBf16x2>(b, row, depth, columns, panel, kTileColumns, kTileColumns);
  } else {
    PackTransposed<kBf16x2>(b, column, columns, depth, panel, kTileColumns, kTileColumns);
  }
}

}  // namespace

Status Gemm(CpuContext& context, int64_t rows, int64_t columns, int64_t depth, const Matrix& a, const Matrix& b,
            const float* bias, void* c, DType c_dtype) {
  const int64_t panels = CeilDiv(columns, kTileColumns);
  const int64_t row_blocks = CeilDiv(rows, kRowBlock), column_blocks = CeilDiv(columns, kColumnBlock);
  float* packed_b = context.scratch.Take(panels * depth * kTileColumns);
  constexpr int64_t kThreadFloats = kRowBlock * (kDepthBlock + kColumnBlock);
  float* thread_blocks = context.scratch.Take(context.pool.threads() * kThreadFloats);
  float* padded_bias = nullptr;  // readable in whole vectors
  if (bias != nullptr) {
    padded_bias = context.scratch.Take(RoundUp(columns, kLanes));
    CopyRows(bias, columns, 1, columns, padded_bias, columns, RoundUp(columns, kLanes));
  }

  return DispatchFloat(a.dtype, [&]<class A>(A*) {
    constexpr bool kBf16x2 = kUsesBf16x2<A>;
    const int64_t panel_floats = Depth<kBf16x2>(depth) * kTileColumns;
    Status status = DispatchFloat(b.dtype, [&]<class T>(T*) {
      context.pool.Run(panels, [&](int64_t panel, int) {
        const int64_t n = panel * kTileColumns;
        PackPanelB<kBf16x2>(static_cast<const T*>(b.data) + n * b.column, b.row, b.column, depth,
                            Min<int64_t>(kTileColumns, columns - n), packed_b + panel * panel_floats);
      });
      return Status();
    });
    if (!status.ok()) return status;

    return DispatchFloat(c_dtype, [&]<class C>(C*) {
      context.pool.Run(row_blocks * column_blocks, [&](int64_t item, int thread) {
        const int64_t m = item / column_blocks * kRowBlock, n = item % column_blocks * kColumnBlock;
        const int64_t block_rows = Min(kRowBlock, rows - m), block_columns = Min(kColumnBlock, columns - n);
        float* packed_a = thread_blocks + thread * kThreadFloats;
        C* output = static_cast<C*>(c) + m * columns + n;
        // C itself where it is f32 and whole vectors may be written to it.
        float* block_c = packed_a + kRowBlock * kDepthBlock;
        int64_t block_row = kColumnBlock;
        if constexpr (std::is_same_v<C, float>) {
          if (columns % kLanes == 0) {
            block_c = output;
            block_row = columns;
          }
        }
        for (int64_t k = 0; k < depth; k += kDepthBlock) {
          const int64_t slice = Min(kDepthBlock, depth - k);
          Product product{};
          product.rows = block_rows;
          product.columns = block_columns;
          product.depth = Depth<kBf16x2>(slice);
          product.bf16x2 = kBf16x2;
          const A* source = static_cast<const A*>(a.data) + m * a.row + k * a.column;
          if (a.column != 1) {
            PackAcross<kBf16x2>(source, a.column, slice, block_rows, packed_a, kRowBlock, block_rows);
            SetColumnsA(product, packed_a, kRowBlock);
          } else if constexpr (std::is_same_v<A, float>) {
            SetRowsA(product, source, a.row);
          } else {
            PackAlong<kBf16x2>(source, a.row, block_rows, slice, packed_a, kDepthBlock);
            SetRowsA(product, packed_a, kDepthBlock);
          }
          product.b = packed_b + n / kTileColumns * panel_floats + Depth<kBf16x2>(k) * kTileColumns;
          product.b_step = kTileColumns;
          product.b_panel = panel_floats;
          SetC(product, block_c, block_row);
          product.accumulate = k > 0;
          if (k == 0 && padded_bias != nullptr) product.column_bias = padded_bias + n;
          Multiply(product);
        }
        if constexpr (std::is_same_v<C, float>) {
          if (block_c == output) return;
        }
        StoreRows(block_c, block_row, block_rows, block_columns, output, columns);
      });
      return Status();
    });
  });
}

}  // namespace sas::cpu::SAS_ISA
