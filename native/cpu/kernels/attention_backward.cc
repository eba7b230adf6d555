// Attention backward. A block of queries meets all the keys it sees at once: two strips, [queries in the block, keys],
// hold the weights and the gradients of the scores, so memory grows with the length, not its square. With a whole row
// at hand the softmax is taken anew from the row's own maximum and sum, and its gradient from the row's own mean:
// neither the rounding of logSumExp (large scores) nor that of the output (16-bit storage) reaches the gradients, and
// neither is read.
//
// With pairs of bf16 all products take them but gradScore^T q: rounded to bf16, gradients of scores no longer add up to
// zero over the keys, and the part of gradK that all keys share would not vanish.
//
// An item of work owns a key/value head of one sequence, so that gradients of k and v need no atomics. When there are
// too few heads to share, a head's queries are split into parts that depend on the shape alone, and the parts are
// summed in order.
#include "cpu/kernels/attention.h"
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

constexpr int64_t kQueryBlock = 60;  // ten register tiles
constexpr int64_t kSlice = 256;      // keys whose rows stay in L2 while a block of queries passes
// Keys whose products are added up before they are added to a total.
constexpr int64_t kSegment = kLongestChain * kLongestChain;
constexpr int64_t kRowFloats = 4096;    // of scores that softmax takes at a time
constexpr int64_t kDiagonalGroup = 12;  // rows of a triangle that share its width
constexpr int64_t kEnoughItems = 16;    // of work, to keep a few threads busy

struct WeightSums {
  Vec weights, products;
  friend WeightSums operator+(const WeightSums& a, const WeightSums& b) {
    return {a.weights + b.weights, a.products + b.products};
  }
};

// Offsets of a thread's buffers in its scratch memory.
struct Buffers {
  explicit Buffers(const AttentionShape& s)
      : width_row(RoundUp(s.width, kLanes)),
        value_row(RoundUp(s.value_width, kLanes)),
        // One cache line more than a power of two, so that a column of the strip does not fall into a few cache sets.
        strip_row(RoundUp(s.keys, kTileColumns) + 16) {
    const auto take = [&](int64_t size) {
      const int64_t offset = floats;
      floats += RoundUp(size, 16);
      return offset;
    };
    const int64_t padded_keys = RoundUp(s.keys, kTileColumns);
    keys_transposed = take(padded_keys * s.width);
    values_transposed = take(padded_keys * s.value_width);
    keys = take(s.keys * width_row);
    q = take(kQueryBlock * width_row);
    q_along = take(kQueryBlock * width_row);
    grad_output = take(kQueryBlock * value_row);
    grad_output_along = take(kQueryBlock * value_row);
    grad_q = take(kQueryBlock * width_row);
    if (s.keys > kSegment) total_q = take(2 * kQueryBlock * width_row);
    weights = take(kQueryBlock * strip_row);
    grad_scores = take(kQueryBlock * strip_row);
  }
  int64_t width_row, value_row, strip_row;  // floats per row
  int64_t floats = 0;
  int64_t keys_transposed,
      values_transposed;  // panels of kTileColumns keys: [keys / kTileColumns][width][kTileColumns]
  int64_t keys, q, q_along, grad_output, grad_output_along, grad_q, weights, grad_scores;
  int64_t total_q = 0;  // a total and its rest (MoveIntoTotal), where a row has several segments
};

// One key/value head and one block of its queries, with the buffers they are in.
template <bool kBf16x2>
struct Block {
  const AttentionShape& s;
  const Buffers& at;
  float* buffers;
  float *grad_k, *grad_v;  // [keys, width_row], [keys, value_row]
  int64_t first_query, rows;
  bool first;  // of those that add to grad_k and grad_v

  int64_t Visible(int64_t row) const { return VisibleKeys(s, first_query + row); }
  // The first row that sees key j.
  int64_t FirstRow(int64_t j) const { return Min(rows, Max<int64_t>(0, FirstQuery(s, j) - first_query)); }

  // strip [rows, keys] = a [rows, width] times transposed keys or values, only where a row sees a key (and a little
  // beyond).
  void Scores(const float* a, int64_t a_row, int64_t width, const float* transposed, float* strip) const {
    Product p{};
    p.depth = Depth<kBf16x2>(width);
    p.bf16x2 = kBf16x2;
    p.b_step = kTileColumns;
    p.b_panel = p.depth * kTileColumns;
    const auto multiply = [&](int64_t row, int64_t row_end, int64_t begin, int64_t end) {
      p.rows = row_end - row;
      p.columns = end - begin;
      SetRowsA(p, a + row * a_row, a_row);
      p.b = transposed + begin * p.depth;
      SetC(p, strip + row * at.strip_row + begin, at.strip_row);
      Multiply(p);
    };
    // Whole panels that every row sees, then the triangle in groups of rows.
    const int64_t full = Visible(0) / kTileColumns * kTileColumns;
    if (full > 0) multiply(0, rows, 0, full);
    for (int64_t row = 0; row < rows; row += kDiagonalGroup) {
      const int64_t end = Min(row + kDiagonalGroup, rows);
      if (Visible(end - 1) > full) multiply(row, end, full, Visible(end - 1));
    }
  }

  // From scores and gradP to P and gradScore = P * (gradP - sum over keys of P * gradP) * scale; zero where masked.
  // Some rows at a time, whose maxima and sums are then combined in one go, but no more than stay in L1.
  void Softmax(float* weights, float* grad_scores) const {
    const int64_t padded = RoundUp(Visible(rows - 1), kLanes);
    const int64_t group = Max<int64_t>(1, Min<int64_t>(kLanes, kRowFloats / Max<int64_t>(1, padded)));
    const float log2_scale = Log2Scale(s.scale), sign = s.scale < 0 ? -1.0f : 1.0f;
    for (int64_t first_row = 0; first_row < rows; first_row += group) {
      const int64_t count = Min(group, rows - first_row);
      const auto row_of = [&](float* strip, int64_t i) { return strip + (first_row + i) * at.strip_row; };
      Vec maxima[kLanes], weight_sums[kLanes], product_sums[kLanes];  // of a row each
      for (int64_t i = 0; i < kLanes; ++i) {
        maxima[i] = Broadcast(kMinusInfinity);
        weight_sums[i] = product_sums[i] = Vec{};
      }
      for (int64_t i = 0; i < count; ++i) {
        const float* weight = row_of(weights, i);
        Vec most = Broadcast(kMinusInfinity);
        ForEachVector(Visible(first_row + i), [&](int64_t j, int64_t lanes) {
          most = VecMax(most, KeepLanes(Load(weight + j) * sign, lanes, kMinusInfinity));
        });
        maxima[i] = most;
      }
      // The score with the largest weight; measured from it, that weight is exactly 1.
      const Vec most = MaxRows(maxima);
      float largest[kLanes];
      Store(largest, most == kMinusInfinity ? Vec{} : most * sign);
      for (int64_t i = 0; i < count; ++i) {
        float *weight = row_of(weights, i), *grad = row_of(grad_scores, i);
        const WeightSums sums = SumVectors(Visible(first_row + i), [&](int64_t j, int64_t lanes) {
          const Vec value = KeepLanes(Exp2Bounded((Load(weight + j) - largest[i]) * log2_scale), lanes, 0.0f);
          const Vec grad_weight = KeepLanes(Load(grad + j), lanes, 0.0f);
          if (lanes < kLanes) Store(grad + j, grad_weight);
          Store(weight + j, value);
          return WeightSums{value, value * grad_weight};
        });
        weight_sums[i] = sums.weights;
        product_sums[i] = sums.products;
      }
      const Vec total = SumRows(weight_sums), inverse = total == 0.0f ? Vec{} : 1.0f / total;
      float inverses[kLanes], means[kLanes];
      Store(inverses, inverse);
      Store(means, SumRows(product_sums) * inverse);
      for (int64_t i = 0; i < count; ++i) {
        float *weight = row_of(weights, i), *grad = row_of(grad_scores, i);
        const float factor = inverses[i] * s.scale;
        int64_t j = 0;
        for (const int64_t visible = Visible(first_row + i); j < visible; j += kLanes) {
          const Vec value = Load(weight + j);
          Store(grad + j, value * factor * (Load(grad + j) - means[i]));
          Store(weight + j, value * inverses[i]);
        }
        for (; j < padded; j += kLanes) {
          Store(grad + j, Vec{});
          Store(weight + j, Vec{});
        }
      }
    }
  }

  // grad [keys, width] = strip^T b [rows, width], added to what is there unless `first`; `kRowPairs`: pairs of rows in
  // both.
  template <bool kRowPairs>
  void AddToKeys(const float* strip, const float* b, int64_t b_row, int64_t width, float* grad) const {
    Product p{};
    p.columns = width;
    p.accumulate = !first;
    p.bf16x2 = kRowPairs;
    const auto multiply = [&](int64_t first_row, int64_t begin, int64_t end) {
      const int64_t row = kRowPairs ? first_row / 2 : first_row;
      p.rows = end - begin;
      p.depth = Depth<kRowPairs>(rows) - row;
      SetColumnsA(p, strip + row * at.strip_row + begin, at.strip_row);
      SetRowsB(p, b + row * b_row, b_row);
      SetC(p, grad + begin * b_row, b_row);
      Multiply(p);
    };
    const int64_t full = Visible(0), last = Visible(rows - 1);
    if (full > 0) multiply(0, 0, full);
    for (int64_t j = full; j < last; j += kDiagonalGroup) multiply(FirstRow(j), j, Min(j + kDiagonalGroup, last));
  }

  // grad_q [rows, width] = strip keys, in pairs of keys. Returns where it is.
  const float* GradQ(const float* strip, const float* keys, float* grad_q, float* total) const {
    Product p{};
    p.columns = s.width;
    const auto multiply = [&](int64_t row, int64_t row_end, int64_t begin, int64_t end) {
      p.rows = row_end - row;
      p.depth = Depth<kBf16x2>(end - begin);
      p.bf16x2 = kBf16x2;
      p.accumulate = begin > 0;
      SetRowsA(p, strip + row * at.strip_row + Depth<kBf16x2>(begin), at.strip_row);
      SetRowsB(p, keys + Depth<kBf16x2>(begin) * at.width_row, at.width_row);
      SetC(p, grad_q + row * at.width_row, at.width_row);
      Multiply(p);
    };
    const int64_t full = Visible(0) / kSlice * kSlice, floats = rows * at.width_row;
    const bool several = Visible(rows - 1) > kSegment;
    if (several) memset(total, 0, static_cast<size_t>(2 * floats) * sizeof(float));
    for (int64_t j = 0; j < full; j += kSlice) {
      multiply(0, rows, j, j + kSlice);
      if (several && (j + kSlice) % kSegment == 0) MoveIntoTotal(grad_q, floats, total, total + floats);
    }
    for (int64_t row = 0; row < rows; row += kDiagonalGroup) {
      const int64_t end = Min(row + kDiagonalGroup, rows);
      if (full == 0 || Visible(end - 1) > full) multiply(row, end, full, Visible(end - 1));
    }
    if (!several) return grad_q;
    MoveIntoTotal(grad_q, floats, total, total + floats);
    return total;
  }
};

// Panels of kTileColumns keys, transposed.
template <bool kBf16x2, class T>
void TransposePanels(const T* source, int64_t stride, int64_t keys, int64_t width, float* target) {
  for (int64_t j = 0; j < keys; j += kTileColumns) {
    const int64_t count = Min<int64_t>(kTileColumns, keys - j);
    PackTransposed<kBf16x2>(source + j * stride, stride, count, width, target + j * Depth<kBf16x2>(width), kTileColumns,
                            RoundUp(count, kLanes));
  }
}

}  // namespace

Status AttentionBackward(CpuContext& context, const AttentionBackwardParams& p) {
  const AttentionShape& s = p.shape;
  const Buffers at(s);
  const int64_t group = s.heads / s.kv_heads, blocks = CeilDiv(s.queries, kQueryBlock);
  const int64_t parts = Min(CeilDiv(kEnoughItems, s.batch * s.kv_heads), blocks);
  const int64_t items = s.batch * s.kv_heads * parts;
  const int64_t grad_k_floats = s.keys * at.width_row, grad_v_floats = s.keys * at.value_row;
  const int64_t grad_floats = grad_k_floats + grad_v_floats;
  const ThreadBlocks scratch = context.scratch.TakeEach(at.floats);
  float* grad_parts = parts > 1 ? context.scratch.Take(items * grad_floats) : nullptr;
  const ThreadBlocks own_grads = context.scratch.TakeEach(parts > 1 ? 0 : grad_floats);
  // Each block of queries adds to grad_k and grad_v: many of them, to totals (and their rests).
  const bool many_blocks = group * CeilDiv(blocks, parts) > kLongestChain;
  const ThreadBlocks totals = context.scratch.TakeEach(many_blocks ? 2 * grad_floats : 0);

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    constexpr bool kBf16x2 = kUsesBf16x2<T>;
    const auto store_grads = [&](int64_t b, int64_t kv_head, const float* grads) {
      const int64_t row = b * s.keys * s.kv_heads + kv_head;
      StoreRowsAs<T>(p.grad_dtype, grads, at.width_row, s.keys, s.width, p.grad_k, row * s.width, s.kv_heads * s.width);
      StoreRowsAs<T>(p.grad_dtype, grads + grad_k_floats, at.value_row, s.keys, s.value_width, p.grad_v,
                     row * s.value_width, s.kv_heads * s.value_width);
    };

    context.pool.Run(items, [&](int64_t item, int thread) {
      // The last part of a head's queries sees the most keys, so it goes first.
      const int64_t part = parts - 1 - item % parts;
      const int64_t b = item / parts / s.kv_heads, kv_head = item / parts % s.kv_heads;
      float* buffers = scratch[thread];
      float* grads =
          parts > 1 ? grad_parts + ((b * s.kv_heads + kv_head) * parts + part) * grad_floats : own_grads[thread];
      float* total = totals[thread];
      if (many_blocks) memset(total, 0, static_cast<size_t>(2 * grad_floats) * sizeof(float));
      int64_t summed = 0;  // blocks
      float *q = buffers + at.q, *grad_output = buffers + at.grad_output, *grad_q = buffers + at.grad_q;
      float* q_along = kBf16x2 ? buffers + at.q_along : q;
      float* grad_output_along = kBf16x2 ? buffers + at.grad_output_along : grad_output;
      float *weights = buffers + at.weights, *grad_scores = buffers + at.grad_scores;

      const int64_t kv_row = b * s.keys * s.kv_heads + kv_head;
      const T* k = static_cast<const T*>(p.k) + kv_row * s.width;
      const T* v = static_cast<const T*>(p.v) + kv_row * s.value_width;
      TransposePanels<kBf16x2>(k, s.kv_heads * s.width, s.keys, s.width, buffers + at.keys_transposed);
      TransposePanels<kBf16x2>(v, s.kv_heads * s.value_width, s.keys, s.value_width, buffers + at.values_transposed);
      PackAcross<kBf16x2>(k, s.kv_heads * s.width, s.keys, s.width, buffers + at.keys, at.width_row, at.width_row);

      const int64_t first_block = blocks * part / parts, last_block = blocks * (part + 1) / parts;
      for (int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
        // The last block sees the most keys: what it leaves of their gradients are zeros.
        for (int64_t i = (last_block - 1) * kQueryBlock; i >= first_block * kQueryBlock; i -= kQueryBlock) {
          if (context.pool.cancelled()) return;  // an item may take seconds
          const bool first = h == kv_head * group && i == (last_block - 1) * kQueryBlock;
          const Block<kBf16x2> block{
              s, at, buffers, grads, grads + grad_k_floats, i, Min(kQueryBlock, s.queries - i), first};
          if (first) {
            const auto clear = [&](float* grad, int64_t row_floats) {
              const int64_t seen = block.Visible(block.rows - 1);
              memset(grad + seen * row_floats, 0, static_cast<size_t>((s.keys - seen) * row_floats) * sizeof(float));
            };
            clear(block.grad_k, at.width_row);
            clear(block.grad_v, at.value_row);
          }
          const int64_t row = (b * s.queries + i) * s.heads + h;
          const T* source_q = static_cast<const T*>(p.q) + row * s.width;
          const T* source_grad = static_cast<const T*>(p.grad_output) + row * s.value_width;
          const int64_t q_stride = s.heads * s.width, grad_stride = s.heads * s.value_width;
          CopyRows(source_q, q_stride, block.rows, s.width, q, at.width_row, at.width_row);
          PackAcross<kBf16x2>(source_grad, grad_stride, block.rows, s.value_width, grad_output, at.value_row,
                              at.value_row);
          if constexpr (kBf16x2) {
            PackAlong<true>(source_q, q_stride, block.rows, s.width, q_along, at.width_row);
            PackAlong<true>(source_grad, grad_stride, block.rows, s.value_width, grad_output_along, at.value_row);
          }
          block.Scores(q_along, at.width_row, s.width, buffers + at.keys_transposed, weights);
          block.Scores(grad_output_along, at.value_row, s.value_width, buffers + at.values_transposed, grad_scores);
          block.Softmax(weights, grad_scores);
          const int64_t seen = block.Visible(block.rows - 1), strip = at.strip_row;
          if constexpr (kBf16x2)
            PackAcross<true>(weights, strip, block.rows, seen, weights, strip, RoundUp(seen, kLanes));
          block.template AddToKeys<kBf16x2>(weights, grad_output, at.value_row, s.value_width, block.grad_v);
          block.template AddToKeys<false>(grad_scores, q, at.width_row, s.width, block.grad_k);
          if constexpr (kBf16x2) PackAlong<true>(grad_scores, strip, block.rows, seen, grad_scores, strip);
          const float* result = block.GradQ(grad_scores, buffers + at.keys, grad_q, buffers + at.total_q);
          StoreRowsAs<T>(p.grad_dtype, result, at.width_row, block.rows, s.width, p.grad_q, row * s.width,
                         s.heads * s.width);
          if (many_blocks && ++summed % kLongestChain == 0)
            MoveIntoTotal(grads, grad_floats, total, total + grad_floats);
        }
      }
      if (many_blocks) {
        MoveIntoTotal(grads, grad_floats, total, total + grad_floats);
        memcpy(grads, total, static_cast<size_t>(grad_floats) * sizeof(float));
      }
      if (parts == 1) store_grads(b, kv_head, grads);
    });
    if (parts == 1) return Status();

    // Sums the parts into the first one.
    context.pool.Run(s.batch * s.kv_heads, [&](int64_t item, int) {
      float* first = grad_parts + item * parts * grad_floats;
      for (int64_t part = 1; part < parts; ++part) {
        const float* other = first + part * grad_floats;
        for (int64_t i = 0; i < grad_floats; i += kLanes) Store(first + i, Load(first + i) + Load(other + i));
      }
      store_grads(item / s.kv_heads, item % s.kv_heads, first);
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
