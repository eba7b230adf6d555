#include "cpu/kernels/gemm.h"

#include <cstring>
#include <type_traits>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/pack.h"

namespace sas::cpu::SAS_ISA {
namespace {

// A block of C is at most kRowBlock x kColumnBlock, accumulated over slices of kDepthBlock: packed A (96 KB), a panel
// of B (64 KB) and the block of C (96 KB) stay in L2 while A's panels pass through L1.
constexpr int64_t kRowBlock = 96;
constexpr int64_t kColumnBlock = 256;
constexpr int64_t kDepthBlock = 256;
// Of the depth, what is added up in C before it is added to a total.
constexpr int64_t kSegment = kLongestChain * kLongestChain;
// Where C has fewer blocks than this, its depth is split into parts of at least kPartDepth, so that several threads
// have work.
constexpr int64_t kEnoughItems = 16;
constexpr int64_t kPartDepth = 512;
// Rows of a deep product: its block of C, as wide as kColumnBlock, still fits L2.
constexpr int64_t kDeepRows = 512;

// How [0, size) is split into blocks of at most `most`, whole multiples of `unit` but for the end, none more than one
// unit larger than another: threads are given ranges of blocks.
struct Split {
  Split(int64_t whole, int64_t most, int64_t each)
      : size(whole),
        unit(each),
        units(CeilDiv(whole, each)),
        block(RoundUp(CeilDiv(whole, CeilDiv(whole, most)), each)),
        count(CeilDiv(whole, block)) {}
  int64_t begin(int64_t i) const { return Min(size, i * units / count * unit); }
  int64_t length(int64_t i) const { return begin(i + 1) - begin(i); }
  int64_t size, unit, units;
  int64_t block, count;  // of the largest block; of blocks
};

// B[k][n] for n in one panel of kTileColumns, as [depth][kTileColumns], zero beyond the last column.
template <bool kBf16x2, class T>
void PackPanelB(const T* b, int64_t row, int64_t column, int64_t depth, int64_t columns, float* panel) {
  if (column == 1) {
    PackAcross<kBf16x2>(b, row, depth, columns, panel, kTileColumns, kTileColumns);
  } else {
    PackTransposed<kBf16x2>(b, column, columns, depth, panel, kTileColumns, kTileColumns);
  }
}

// gradient [rows, columns] = g^T x with g [depth, rows] and x [depth, columns], and sums [rows] over the depth of g
// unless null: a product as deep as it is small. Each part of the depth is one item of work, which packs what it needs
// of both.
template <bool kBf16x2, class A, class B>
void DeepProduct(CpuContext& context, int64_t rows, int64_t columns, int64_t depth, const A* g, const B* x,
                 float* gradient, float* sums) {
  const Split column_split(columns, kColumnBlock, kTileColumns);
  const int64_t enough = Max(CeilDiv(kEnoughItems, column_split.count), CeilDiv(depth, kSegment));
  const Split parts(depth, CeilDiv(depth, Min(enough, CeilDiv(depth, kDepthBlock))), kDepthBlock);
  const int64_t row_floats = RoundUp(columns, kLanes), sum_floats = RoundUp(rows, kLanes);
  const int64_t part_floats = rows * row_floats + sum_floats;
  float* part_sums = context.scratch.Take(parts.count * part_floats);
  constexpr int64_t kThreadFloats = kDepthBlock * (kColumnBlock + kRowBlock);
  const ThreadBlocks packed = context.scratch.TakeEach(kThreadFloats);

  context.pool.Run(parts.count * column_split.count, [&](int64_t item, int thread) {
    const int64_t part = item / column_split.count, n = column_split.begin(item % column_split.count);
    const int64_t block_columns = column_split.length(item % column_split.count);
    float* packed_x = packed[thread];
    float* packed_g = packed_x + kDepthBlock * kColumnBlock;
    float* target = part_sums + part * part_floats;
    float* row_sums = sums != nullptr && n == 0 ? target + rows * row_floats : nullptr;
    if (row_sums != nullptr) memset(row_sums, 0, static_cast<size_t>(sum_floats) * sizeof(float));
    const int64_t first = parts.begin(part), end = first + parts.length(part);
    for (int64_t k = first; k < end; k += kDepthBlock) {
      if (context.pool.cancelled()) return;  // an item may take seconds
      const int64_t slice = Min(kDepthBlock, end - k);
      const int64_t panel_floats = Depth<kBf16x2>(slice) * kTileColumns;
      for (int64_t j = 0; j < block_columns; j += kTileColumns) {
        PackAcross<kBf16x2>(x + k * columns + n + j, columns, slice, Min<int64_t>(kTileColumns, block_columns - j),
                            packed_x + j / kTileColumns * panel_floats, kTileColumns, kTileColumns);
      }
      for (int64_t m = 0; m < rows; m += kRowBlock) {
        const int64_t block_rows = Min(kRowBlock, rows - m);
        PackAcross<kBf16x2>(g + k * rows + m, rows, slice, block_rows, packed_g, kRowBlock, block_rows);
        if (row_sums != nullptr) {
          AddRows(g + k * rows + m, rows, slice, block_rows, row_sums + m);
        }
        Product product{};
        product.rows = block_rows;
        product.columns = block_columns;
        product.depth = Depth<kBf16x2>(slice);
        product.bf16x2 = kBf16x2;
        SetColumnsA(product, packed_g, kRowBlock);
        product.b = packed_x;
        product.b_step = kTileColumns;
        product.b_panel = panel_floats;
        SetC(product, target + m * row_floats + n, row_floats);
        product.accumulate = k > first;
        Multiply(product);
      }
    }
  });

  const auto add_parts = [&](int64_t offset, int64_t size, float* result) {
    ForEachVector(size, [&](int64_t i, int64_t count) {
      Vec total{}, rest{};
      for (int64_t part = 0; part < parts.count; ++part) {
        AddCompensated(Load(part_sums + part * part_floats + offset + i), total, rest);
      }
      StorePartial(result + i, total, count);
    });
  };
  ParallelRows(context, rows, columns,
               [&](int64_t row) { add_parts(row * row_floats, columns, gradient + row * columns); });
  if (sums != nullptr) add_parts(rows * row_floats, rows, sums);
}

}  // namespace

Status Gemm(CpuContext& context, int64_t rows, int64_t columns, int64_t depth, const Matrix& a, const Matrix& b,
            const float* bias, void* c, DType c_dtype) {
  const int64_t panels = CeilDiv(columns, kTileColumns), padded_columns = RoundUp(columns, kLanes);
  const Split row_split(rows, kRowBlock, kTileRows), column_split(columns, kColumnBlock, kTileColumns);
  const int64_t blocks = row_split.count * column_split.count;
  const int64_t parts = blocks == 0 ? 1 : Max<int64_t>(1, Min(CeilDiv(kEnoughItems, blocks), depth / kPartDepth));
  const Split depth_split(Max<int64_t>(depth, 1), CeilDiv(Max<int64_t>(depth, 1), parts), kDepthBlock);
  const bool segmented = depth_split.block > kSegment;
  // Threads get ranges of blocks: rows of C, as the ops before and after do, or, where that costs less between their
  // caches, columns. By rows all read what each has packed of B; by columns half of A and C lies in the other's.
  const bool by_columns = 3 * columns * depth > rows * (columns + depth);

  float* packed_b = context.scratch.Take(panels * depth * kTileColumns);
  constexpr int64_t kBlockFloats = kRowBlock * kColumnBlock;
  const int64_t thread_floats = kRowBlock * kDepthBlock + (segmented ? 3 : 1) * kBlockFloats;
  const ThreadBlocks thread_blocks = context.scratch.TakeEach(thread_floats);
  // C of each part of the depth, where there are several.
  const int64_t part_floats = rows * padded_columns;
  float* part_c = depth_split.count > 1 ? context.scratch.Take(depth_split.count * part_floats) : nullptr;
  float* padded_bias = nullptr;  // readable in whole vectors
  if (bias != nullptr) {
    padded_bias = context.scratch.Take(padded_columns);
    CopyRows(bias, columns, 1, columns, padded_bias, columns, padded_columns);
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
      context.pool.Run(depth_split.count * blocks, [&](int64_t item, int thread) {
        const int64_t part = item / blocks, block = item % blocks;
        const int64_t i = by_columns ? block % row_split.count : block / column_split.count;
        const int64_t j = by_columns ? block / row_split.count : block % column_split.count;
        const int64_t m = row_split.begin(i), n = column_split.begin(j), first = depth_split.begin(part);
        const int64_t block_rows = row_split.length(i), block_columns = column_split.length(j);
        float* packed_a = thread_blocks[thread];
        float* own_c = packed_a + kRowBlock * kDepthBlock;
        C* output = static_cast<C*>(c) + m * columns + n;
        // Where it is summed: in C itself or the part's, if that is f32 and whole vectors may be written to it.
        float* block_c = own_c;
        int64_t block_row = kColumnBlock;
        if (!segmented && part_c != nullptr) {
          block_c = part_c + part * part_floats + m * padded_columns + n;
          block_row = padded_columns;
        } else if constexpr (std::is_same_v<C, float>) {
          if (!segmented && columns == padded_columns) {
            block_c = output;
            block_row = columns;
          }
        }
        const int64_t own_floats = block_rows * kColumnBlock;
        float *total = own_c + kBlockFloats, *rest = total + kBlockFloats;
        if (segmented) memset(total, 0, static_cast<size_t>(2 * kBlockFloats) * sizeof(float));

        const int64_t end = first + depth_split.length(part);
        for (int64_t k = first; k < Max(end, int64_t{1}); k += kDepthBlock) {
          const int64_t slice = Min(kDepthBlock, Min(end, depth) - k);
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
          product.accumulate = k > first;
          if (k == 0 && padded_bias != nullptr) product.column_bias = padded_bias + n;
          Multiply(product);
          const int64_t summed = k + kDepthBlock - first;
          if (segmented && (summed % kSegment == 0 || k + kDepthBlock >= end)) {
            MoveIntoTotal(own_c, own_floats, total, rest);
          }
        }
        if (segmented) block_c = total;
        if (part_c != nullptr) {
          if (!segmented) return;
          float* target = part_c + part * part_floats + m * padded_columns + n;
          StoreRows(block_c, block_row, block_rows, RoundUp(block_columns, kLanes), target, padded_columns);
          return;
        }
        if constexpr (std::is_same_v<C, float>) {
          if (block_c == output) return;
        }
        StoreRows(block_c, block_row, block_rows, block_columns, output, columns);
      });
      if (part_c == nullptr) return Status();
      ParallelRows(context, rows, columns, [&](int64_t row) {
        ForEachVector(columns, [&](int64_t j, int64_t count) {
          Vec sum{};
          for (int64_t part = 0; part < depth_split.count; ++part) {
            sum += Load(part_c + part * part_floats + row * padded_columns + j);
          }
          StorePartial(static_cast<C*>(c) + row * columns + j, sum, count);
        });
      });
      return Status();
    });
  });
}

Status WeightGradient(CpuContext& context, int64_t rows, int64_t columns, int64_t depth, const void* g, const void* x,
                      DType dtype, float* gradient, float* sums) {
  return DispatchFloat(dtype, [&]<class T>(T*) {
    const T* grad_output = static_cast<const T*>(g);
    if (rows <= kDeepRows && depth >= 4 * kDepthBlock) {
      DeepProduct<kUsesBf16x2<T>>(context, rows, columns, depth, grad_output, static_cast<const T*>(x), gradient, sums);
      return Status();
    }
    const Matrix transposed{g, dtype, 1, rows}, input{x, dtype, columns, 1};
    Status status = Gemm(context, rows, columns, depth, transposed, input, nullptr, gradient, DType::kF32);
    if (!status.ok() || sums == nullptr) return status;
    SumRows<1>(context, depth, rows, {sums}, [&](int64_t row, float* row_sums, int64_t) {
      AddRows(grad_output + row * rows, rows, 1, rows, row_sums);
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
