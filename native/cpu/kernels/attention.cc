// Attention forward in the FlashAttention manner: blocks of keys stream past a tile of queries, softmax is kept online,
// and no matrix of all scores exists.
#include "cpu/kernels/attention.h"

#include <cmath>

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

// Queries per item of work: whole register tiles. Every item packs the keys and values it meets, at the price of about
// 5 queries' worth of products per block, and memory latency on top, so long tiles pay; their q, scores and output (460
// KB at the reference widths) still fit L2. With few heads to share among threads, short tiles balance better.
constexpr int64_t kLongTile = 528, kShortTile = 192;
constexpr int64_t kManyHeads = 32;
// Queries meet a block of keys some at a time, so that their scores stay in L1; on the diagonal in smaller groups, each
// with just the keys it sees.
constexpr int64_t kGroup = 8 * kTileRows, kDiagonalGroup = 2 * kTileRows;
// Rows of what comes next (keys, values, output) to ask for meanwhile, per group.
constexpr int64_t kRowsPerGroup = 12;

// Operands of products (q, keys, weights, values) are f32 or pairs of bf16; the rest is f32.
struct Tile {
  int64_t depth, value_row;  // floats per row of q, and of output
  float log2_scale;          // > 0; of what q times keys gives
  const float* q;            // [queries, depth]
  const float* keys;         // [depth, kKeyBlock]: a block of k, transposed
  const float* values;       // [kKeyBlock, value_row]
  float* scores;             // [kGroup, kKeyBlock]; then the weights
  float* output;             // [queries, value_row], not yet divided by `sum`
  float* max;                // [queries], of the scores before scaling
  float* sum;                // [queries, kLanes]: lanes are added up at the end
};

// Takes one block of keys into at most kGroup queries [first, last), of which query r sees the first visible(r) keys of
// the block.
template <bool kBf16x2, class Visible>
void AddKeys(const Tile& t, int64_t first, int64_t last, int64_t keys, const Visible& visible) {
  Product p{};
  p.rows = last - first;
  p.columns = keys;
  p.depth = t.depth;
  p.bf16x2 = kBf16x2;
  SetRowsA(p, t.q + first * t.depth, t.depth);
  SetRowsB(p, t.keys, kKeyBlock);
  SetC(p, t.scores, kKeyBlock);
  Multiply(p);

  const int64_t padded = RoundUp(keys, kLanes);
  for (int64_t r = first; r < last; r += kLanes) {
    const int64_t count = Min<int64_t>(kLanes, last - r);
    // The maxima of kLanes rows, each row in a lane.
    Vec rows[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      rows[i] = Broadcast(kMinusInfinity);
      if (i >= count) continue;
      float* scores = t.scores + (r + i - first) * kKeyBlock;
      for (int64_t j = visible(r + i); j < padded; ++j) scores[j] = kMinusInfinity;
      for (int64_t j = 0; j < padded; j += kLanes) rows[i] = VecMax(rows[i], Load(scores + j));
    }
    const Vec before = LoadPartial(t.max + r, count), max = VecMax(before, MaxRows(rows));
    StorePartial(t.max + r, max, count);
    // What was summed so far shrinks where the maximum moved. A row that has seen no score but -inf keeps max = -inf;
    // measured from 0 its weights come out 0 instead of NaN.
    const Vec reference = max == kMinusInfinity ? Vec{} : max;
    float references[kLanes], shrinks[kLanes];
    Store(references, reference);
    Store(shrinks, Exp2NonPositive((before - reference) * t.log2_scale));
    for (int64_t i = 0; i < count; ++i) {
      float* scores = t.scores + (r + i - first) * kKeyBlock;
      float* sums = t.sum + (r + i) * kLanes;
      if (shrinks[i] != 1.0f) {
        Store(sums, Load(sums) * shrinks[i]);
        float* output = t.output + (r + i) * t.value_row;
        for (int64_t d = 0; d < t.value_row; d += kLanes) Store(output + d, Load(output + d) * shrinks[i]);
      }
      Vec sum = Load(sums);
      for (int64_t j = 0; j < padded; j += kLanes) {
        const Vec weight = Exp2NonPositive((Load(scores + j) - references[i]) * t.log2_scale);
        Store(scores + j, weight);
        sum += weight;
      }
      Store(sums, sum);
      if constexpr (kBf16x2) PackAlong<true>(scores, kKeyBlock, 1, keys, scores, kKeyBlock);
    }
  }

  p.columns = t.value_row;
  p.depth = Depth<kBf16x2>(keys);
  SetRowsA(p, t.scores, kKeyBlock);
  SetRowsB(p, t.values, t.value_row);
  SetC(p, t.output + first * t.value_row, t.value_row);
  p.accumulate = true;
  Multiply(p);
}

}  // namespace

Status Attention(CpuContext& context, const AttentionParams& p) {
  const AttentionShape& s = p.shape;
  const int64_t value_row = RoundUp(s.value_width, kLanes);
  const int64_t tile = s.batch * s.heads < kManyHeads ? kShortTile : kLongTile;
  const int64_t tiles = CeilDiv(s.queries, tile), tile_rows = Min(tile, s.queries);
  const int64_t q_floats = RoundUp(tile_rows * s.width, 16), key_floats = s.width * kKeyBlock;
  const int64_t value_floats = kKeyBlock * value_row, score_floats = kGroup * kKeyBlock;
  const int64_t output_floats = tile_rows * value_row;
  const int64_t max_floats = RoundUp(tile_rows, 16), sum_floats = tile_rows * kLanes;
  const int64_t thread_floats =
      q_floats + key_floats + value_floats + score_floats + output_floats + max_floats + sum_floats;
  float* scratch = context.scratch.Take(context.pool.threads() * thread_floats);

  // Scores grow with scale times products; a negative scale's sign goes to q, where it is exact.
  const float sign = s.scale < 0 ? -1.0f : s.scale > 0 ? 1.0f : 0.0f;
  const float magnitude = sign * s.scale;
  const float log2_scale = sign == 0 ? 1.0f : Log2Scale(magnitude);

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    constexpr bool kBf16x2 = kUsesBf16x2<T>;
    // The last tile of queries sees the most keys, so it goes first.
    context.pool.Run(tiles * s.batch * s.heads, [&](int64_t item, int thread) {
      const int64_t first_query = (tiles - 1 - item / (s.batch * s.heads)) * tile;
      const int64_t b = item % (s.batch * s.heads) / s.heads, h = item % s.heads;
      const int64_t kv_head = h / (s.heads / s.kv_heads);
      const int64_t rows = Min(tile, s.queries - first_query);
      const T* q = static_cast<const T*>(p.q) + ((b * s.queries + first_query) * s.heads + h) * s.width;
      const T* k = static_cast<const T*>(p.k) + (b * s.keys * s.kv_heads + kv_head) * s.width;
      const int64_t q_stride = s.heads * s.width, k_stride = s.kv_heads * s.width,
                    v_stride = s.kv_heads * s.value_width;
      const T* v = static_cast<const T*>(p.v) + (b * s.keys * s.kv_heads + kv_head) * s.value_width;

      float* tile_q = scratch + thread * thread_floats;
      float* keys = tile_q + q_floats;
      float* values = keys + key_floats;
      Tile t{};
      t.depth = Depth<kBf16x2>(s.width);
      t.log2_scale = log2_scale;
      t.value_row = value_row;
      t.q = tile_q;
      t.keys = keys;
      t.values = values;
      t.scores = values + value_floats;
      t.output = t.scores + score_floats;
      t.max = t.output + output_floats;
      t.sum = t.max + max_floats;

      T* output = static_cast<T*>(p.output) + ((b * s.queries + first_query) * s.heads + h) * s.value_width;
      RowsAhead<const T> next_queries{q, q_stride, s.width, rows};
      RowsAhead<T> next_output{output, s.heads * s.value_width, s.value_width, rows};
      next_queries.Ask(kGroup);

      for (int64_t r = 0; r < rows; ++r) t.max[r] = kMinusInfinity;
      for (int64_t i = 0; i < rows * kLanes; ++i) t.sum[i] = 0;
      for (int64_t i = 0; i < rows * value_row; ++i) t.output[i] = 0;

      const int64_t last_key = VisibleKeys(s, first_query + rows - 1);
      for (int64_t j = 0; j < last_key; j += kKeyBlock) {
        const int64_t block = Min(kKeyBlock, last_key - j);
        PackTransposed<kBf16x2>(k + j * k_stride, k_stride, block, s.width, keys, kKeyBlock, RoundUp(block, kLanes));
        PackAcross<kBf16x2>(v + j * v_stride, v_stride, block, s.value_width, values, value_row, value_row);
        const auto visible = [&](int64_t r) {
          return Max<int64_t>(0, Min(VisibleKeys(s, first_query + r) - j, block));
        };
        // Rows before `some` see none of the block, rows from `all` on see all of it.
        const int64_t some = Max<int64_t>(0, FirstQuery(s, j) - first_query);
        const int64_t all = Max(some, Min(rows, FirstQuery(s, j + block - 1) - first_query));
        RowsAhead<const T> next_keys{k + (j + block) * k_stride, k_stride, s.width,
                                     Min(kKeyBlock, last_key - j - block)};
        RowsAhead<const T> next_values{v + (j + block) * v_stride, v_stride, s.value_width, next_keys.rows};
        for (int64_t r = some, end; r < rows; r = end) {
          end = r < all ? Min(r + kDiagonalGroup, all) : Min(r + kGroup, rows);
          if (j == 0) {
            next_queries.Ask(end - r);
            PackAlong<kBf16x2>(q + r * q_stride, q_stride, end - r, s.width, tile_q + r * t.depth, t.depth, sign);
          }
          AddKeys<kBf16x2>(t, r, end, r < all ? visible(end - 1) : block, visible);
          next_keys.Ask(kRowsPerGroup);
          next_values.Ask(kRowsPerGroup);
          next_output.Ask(kRowsPerGroup);
        }
      }

      for (int64_t r = 0; r < rows; ++r) {
        const float sum = Sum(Load(t.sum + r * kLanes));  // 0 only where no key is seen; NaN remains
        const float inverse = sum == 0 ? 0.0f : 1.0f / sum;
        ForEachVector(s.value_width, [&](int64_t d, int64_t count) {
          StorePartial(output + r * s.heads * s.value_width + d, Load(t.output + r * value_row + d) * inverse, count);
        });
        p.log_sum_exp[(b * s.heads + h) * s.queries + first_query + r] =
            sum == 0 ? kMinusInfinity : t.max[r] * magnitude + std::log(sum);
      }
    });
    return Status();
  });
}

Status AttentionMean(CpuContext& context, const AttentionMeanParams& p) {
  const AttentionShape& s = p.shape;
  const int64_t tokens = s.batch * s.queries, size = tokens * s.heads * s.value_width;
  const int64_t item_bytes = static_cast<int64_t>(ItemSize(p.dtype));
  float* outputs = context.scratch.Take(CeilDiv(size * item_bytes, 4));
  float* log_sum_exp = context.scratch.Take(tokens * s.heads);
  const Status status = Attention(context, {p.dtype, s, p.q, p.k, p.v, outputs, log_sum_exp});
  if (!status.ok()) return status;
  return Aggregate(context, {p.dtype, tokens, s.heads / p.groups, s.heads, s.value_width, outputs, p.output});
}

}  // namespace sas::cpu::SAS_ISA
