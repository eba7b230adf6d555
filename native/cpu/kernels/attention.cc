// Attention forward in the FlashAttention manner: blocks of keys stream past a tile of queries, softmax is kept online,
// and no matrix of all scores exists.
#include "cpu/kernels/attention.h"

#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"
#include "cpu/kernels/vector_math.h"

namespace sas::cpu::SAS_ISA {
namespace {

// Queries per item of work: whole register tiles. Every item packs the keys and values it meets, at the price of about
// 5 queries' worth of products per block, and memory latency on top, so long tiles pay; their q, scores and output (460
// KB at the reference widths) still fit L2. With few heads to share among threads, short tiles balance better.
constexpr int64_t kLongTile = 528, kShortTile = 192;
constexpr int64_t kManyHeads = 32;
// Queries meet a block of keys some at a time, so that their scores stay in L1.
constexpr int64_t kGroup = 8 * kTileRows;
// Rows of what comes next (keys, values, output) to ask for meanwhile, per group.
constexpr int64_t kRowsPerGroup = 24;
// Blocks of keys whose weighted values are added up before they are added to the total.
constexpr int64_t kSegment = kLongestChain * kKeyBlock;
// Scores are measured from a reference that follows the maximum of the row only when that is this much above it, in
// units of log2: weights stay below 2^8, and what was summed so far is seldom scaled (which rounds).
constexpr float kSlack = 8;

// Operands of products (q, keys, weights, values) are f32 or pairs of bf16; the rest is f32.
struct Tile {
  int64_t depth, value_row;  // floats per row of q, and of output
  float log2_scale;          // > 0; of what q times keys gives
  float slack;               // kSlack in units of scores
  const float* q;            // [queries, depth]
  const float* keys;         // [depth, kKeyBlock]: a block of k, transposed
  const float* values;       // [kKeyBlock, value_row]
  float* scores;             // [kGroup, kKeyBlock]; then the weights
  float* output;             // [queries, value_row], not yet divided by `sum`
  float* reference;          // [queries]: the score whose weight is 1; -inf before any
  float* sum;                // [queries, kLanes]: lanes are added up at the end
};

// One block of keys, of which query r sees the first visible(r).
template <class Visible>
struct KeyBlock {
  int64_t keys;
  const Visible& visible;
  bool first;  // nothing has been summed before it
};

// Calls body(row, row_end, keys) for groups of queries of [first, last) that together meet `keys` keys: all at once
// where the first query sees the whole block, register tiles otherwise.
template <class Visible, class Body>
SAS_INLINE void ForEachTile(int64_t first, int64_t last, const KeyBlock<Visible>& block, const Body& body) {
  if (block.visible(first) == block.keys) return body(first, last, block.keys);
  for (int64_t row = first; row < last; row += kTileRows) {
    const int64_t end = Min<int64_t>(row + kTileRows, last);
    body(row, end, block.visible(end - 1));
  }
}

// `value` for the keys from j on that are before `visible`, `other` for the rest.
SAS_INLINE Vec KeepSeen(Vec value, int64_t j, int64_t visible, float other) {
  return LaneIndex() < BroadcastInt(static_cast<int32_t>(visible - j)) ? value : Broadcast(other);
}

// The largest of a row's scores, of which it sees the first `visible`, lane by lane; kVectors, if not 0, is their
// number, and the row sees them all.
template <int kVectors>
SAS_INLINE Vec Largest(const float* scores, int64_t vectors, int64_t visible) {
  Vec most = Broadcast(kMinusInfinity);
#pragma GCC unroll 4
  for (int64_t j = 0; j < (kVectors > 0 ? kVectors : vectors); ++j) {
    const Vec score = Load(scores + j * kLanes);
    most = VecMax(most, kVectors > 0 ? score : KeepSeen(score, j * kLanes, visible, kMinusInfinity));
  }
  return most;
}

// The row's scores to weights, 0 for keys that it does not see. Returns their sum, lane by lane.
template <int kVectors>
SAS_INLINE Vec ToWeights(float* scores, int64_t vectors, int64_t visible, float reference, float log2_scale) {
  Vec sum{};
#pragma GCC unroll 4
  for (int64_t j = 0; j < (kVectors > 0 ? kVectors : vectors); ++j) {
    Vec weight = Exp2Bounded((Load(scores + j * kLanes) - reference) * log2_scale);
    if (kVectors == 0) weight = KeepSeen(weight, j * kLanes, visible, 0.0f);
    Store(scores + j * kLanes, weight);
    sum += weight;
  }
  return sum;
}

// The scores of queries [r, r + count), count <= kLanes, to weights, measured from a reference that is moved first.
// Each row has that many vectors of them; kVectors, if not 0, is their number, and the rows see all their keys.
template <bool kBf16x2, int kVectors, class Visible>
void Weigh(const Tile& t, int64_t r, int64_t count, float* scores, int64_t vectors, const KeyBlock<Visible>& block) {
  Vec rows[kLanes];  // each row in a lane, once they are combined
#pragma GCC unroll 1
  for (int64_t i = 0; i < kLanes; ++i) {
    rows[i] = i < count ? Largest<kVectors>(scores + i * kKeyBlock, vectors, block.visible(r + i))
                        : Broadcast(kMinusInfinity);
  }
  const Vec before = LoadPartial(t.reference + r, count), max = MaxRows(rows);
  const Vec after = max > before + t.slack ? max : before;
  StorePartial(t.reference + r, after, count);
  // A row that has seen no score but -inf keeps -inf; measured from 0 its weights come out 0 instead of NaN.
  const Vec reference = after == kMinusInfinity ? Vec{} : after;
  float references[kLanes], shrinks[kLanes];
  Store(references, reference);
  Store(shrinks, Exp2Bounded((before - reference) * t.log2_scale));
  for (int64_t i = 0; i < count; ++i) {
    float* sums = t.sum + (r + i) * kLanes;
    Vec sum = ToWeights<kVectors>(scores + i * kKeyBlock, vectors, block.visible(r + i), references[i], t.log2_scale);
    if (!block.first) {
      // What was summed so far shrinks where the reference has moved.
      if (shrinks[i] != 1.0f) {
        float* output = t.output + (r + i) * t.value_row;
        for (int64_t d = 0; d < t.value_row; d += kLanes) Store(output + d, Load(output + d) * shrinks[i]);
      }
      sum += Load(sums) * shrinks[i];
    }
    Store(sums, sum);
    if constexpr (kBf16x2) {
      float* row = scores + i * kKeyBlock;
      PackAlong<true>(row, kKeyBlock, 1, vectors * kLanes, row, kKeyBlock);
    }
  }
}

// Takes one block of keys into at most kGroup queries [first, last).
template <bool kBf16x2, class Visible>
void AddKeys(const Tile& t, int64_t first, int64_t last, const KeyBlock<Visible>& block) {
  constexpr int kBlockVectors = kKeyBlock / kLanes;
  Product p{};
  p.bf16x2 = kBf16x2;
  const auto scores_of = [&](int64_t row) { return t.scores + (row - first) * kKeyBlock; };
  ForEachTile(first, last, block, [&](int64_t row, int64_t end, int64_t keys) {
    p.rows = end - row;
    p.columns = keys;
    p.depth = t.depth;
    SetRowsA(p, t.q + row * t.depth, t.depth);
    SetRowsB(p, t.keys, kKeyBlock);
    SetC(p, scores_of(row), kKeyBlock);
    Multiply(p);
  });

  for (int64_t r = first; r < last; r += kLanes) {
    const int64_t count = Min<int64_t>(kLanes, last - r);
    if (block.visible(r) == kKeyBlock) {
      Weigh<kBf16x2, kBlockVectors>(t, r, count, scores_of(r), kBlockVectors, block);
    } else {
      // As many as the products of the last row's tile meet.
      const int64_t tile_end = Min(first + ((r + count - 1 - first) / kTileRows + 1) * kTileRows, last);
      Weigh<kBf16x2, 0>(t, r, count, scores_of(r), CeilDiv(block.visible(tile_end - 1), kLanes), block);
    }
  }

  p.accumulate = !block.first;
  p.columns = t.value_row;
  ForEachTile(first, last, block, [&](int64_t row, int64_t end, int64_t keys) {
    p.rows = end - row;
    p.depth = Depth<kBf16x2>(keys);
    SetRowsA(p, scores_of(row), kKeyBlock);
    SetRowsB(p, t.values, t.value_row);
    SetC(p, t.output + row * t.value_row, t.value_row);
    Multiply(p);
  });
}

// Sums over segments of keys, each measured from the reference of the row when it was added.
struct Totals {
  float *output, *sum, *reference;  // as in Tile

  // Adds the tile's sums and empties them.
  void Take(const Tile& t, int64_t rows, bool first) const {
    for (int64_t r = 0; r < rows; ++r) {
      const float now = t.reference[r], base = now == kMinusInfinity ? 0.0f : now;
      const float shrink = first ? 0.0f : Exp2Bounded(Broadcast((reference[r] - base) * t.log2_scale))[0];
      const auto take = [&](float* total, float* part, int64_t size) {
        for (int64_t d = 0; d < size; d += kLanes) {
          const Vec earlier = first ? Vec{} : Load(total + d) * shrink;
          Store(total + d, earlier + Load(part + d));
          Store(part + d, Vec{});
        }
      };
      take(output + r * t.value_row, t.output + r * t.value_row, t.value_row);
      take(sum + r * kLanes, t.sum + r * kLanes, kLanes);
      reference[r] = now;
    }
  }
};

}  // namespace

Status Attention(CpuContext& context, const AttentionParams& p) {
  const AttentionShape& s = p.shape;
  const int64_t value_row = RoundUp(s.value_width, kLanes);
  const int64_t heads = s.batch * s.heads, tile = heads < kManyHeads ? kShortTile : kLongTile;
  const int64_t tiles = CeilDiv(s.queries, tile), tile_rows = Min(tile, s.queries);
  const int64_t q_floats = RoundUp(tile_rows * s.width, 16), key_floats = s.width * kKeyBlock;
  const int64_t value_floats = kKeyBlock * value_row, score_floats = kGroup * kKeyBlock;
  const int64_t output_floats = tile_rows * value_row;
  const int64_t reference_floats = RoundUp(tile_rows, 16), sum_floats = tile_rows * kLanes;
  const int64_t sums_floats = output_floats + reference_floats + sum_floats;
  const bool segmented = s.keys > kSegment;
  const int64_t thread_floats = q_floats + key_floats + value_floats + score_floats + (segmented ? 2 : 1) * sums_floats;
  const ThreadBlocks scratch = context.scratch.TakeEach(thread_floats);

  // Scores grow with scale times products; a negative scale's sign goes to q, where it is exact.
  const float sign = s.scale < 0 ? -1.0f : s.scale > 0 ? 1.0f : 0.0f;
  const float magnitude = sign * s.scale;
  const float log2_scale = sign == 0 ? 1.0f : Log2Scale(magnitude);

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    constexpr bool kBf16x2 = kUsesBf16x2<T>;
    const int64_t q_stride = s.heads * s.width, k_stride = s.kv_heads * s.width;
    const int64_t v_stride = s.kv_heads * s.value_width, output_stride = s.heads * s.value_width;
    // One head's queries from the first of a tile on, and its keys and values.
    struct Item {
      int64_t batch, head, first_query, rows;
      const T *q, *k, *v;
    };
    const int64_t items = heads * tiles;
    const auto item_of = [&](int64_t index) {
      Item item{};
      item.batch = index / tiles / s.heads;
      item.head = index / tiles % s.heads;
      // The last tile of a head's queries sees the most keys, so it goes first.
      item.first_query = (tiles - 1 - index % tiles) * tile;
      item.rows = Min(tile, s.queries - item.first_query);
      const int64_t kv_head = item.head / (s.heads / s.kv_heads);
      item.q =
          static_cast<const T*>(p.q) + (item.batch * s.queries + item.first_query) * q_stride + item.head * s.width;
      item.k = static_cast<const T*>(p.k) + item.batch * s.keys * k_stride + kv_head * s.width;
      item.v = static_cast<const T*>(p.v) + item.batch * s.keys * v_stride + kv_head * s.value_width;
      return item;
    };

    context.pool.Run(items, [&](int64_t index, int thread) {
      const Item item = item_of(index);
      const int64_t rows = item.rows, first_query = item.first_query;
      float* next_floats = scratch[thread];
      const auto take = [&](int64_t floats) { return std::exchange(next_floats, next_floats + floats); };
      float *tile_q = take(q_floats), *keys = take(key_floats), *values = take(value_floats);
      Tile t{};
      t.depth = Depth<kBf16x2>(s.width);
      t.value_row = value_row;
      t.log2_scale = log2_scale;
      t.slack = Min(kSlack / log2_scale, std::numeric_limits<float>::max());
      t.q = tile_q;
      t.keys = keys;
      t.values = values;
      t.scores = take(score_floats);
      t.output = take(output_floats);
      t.sum = take(sum_floats);
      t.reference = take(reference_floats);
      Totals totals{};
      if (segmented) totals = {take(output_floats), take(sum_floats), take(reference_floats)};

      T* output = static_cast<T*>(p.output) + (item.batch * s.queries + first_query) * output_stride +
                  item.head * s.value_width;
      const Item next = item_of(Min(index + 1, items - 1));
      RowsAhead<const T> next_queries{item.q, q_stride, s.width, rows};
      RowsAhead<T> next_output{output, output_stride, s.value_width, rows};
      next_queries.Ask(kGroup);

      for (int64_t r = 0; r < rows; ++r) t.reference[r] = kMinusInfinity;
      const int64_t last_key = VisibleKeys(s, first_query + rows - 1);
      // Rows before this one see no key at all.
      const int64_t blind = last_key == 0 ? rows : Max<int64_t>(0, FirstQuery(s, 0) - first_query);
      memset(t.output, 0, static_cast<size_t>(blind * value_row) * sizeof(float));
      memset(t.sum, 0, static_cast<size_t>(blind * kLanes) * sizeof(float));

      for (int64_t j = 0; j < last_key; j += kKeyBlock) {
        if (j > 0 && j % kSegment == 0) totals.Take(t, rows, j == kSegment);
        const int64_t block = Min(kKeyBlock, last_key - j);
        PackTransposed<kBf16x2>(item.k + j * k_stride, k_stride, block, s.width, keys, kKeyBlock,
                                RoundUp(block, kLanes));
        PackAcross<kBf16x2>(item.v + j * v_stride, v_stride, block, s.value_width, values, value_row, value_row);
        const auto visible = [&](int64_t r) {
          return Max<int64_t>(0, Min(VisibleKeys(s, first_query + r) - j, block));
        };
        const KeyBlock<decltype(visible)> key_block{block, visible, j == 0};
        // The next keys and values: of this item, or the first ones of the thread's next one, and its first queries.
        const bool ends = j + kKeyBlock >= last_key;
        const T* k = ends ? next.k : item.k + (j + kKeyBlock) * k_stride;
        const T* v = ends ? next.v : item.v + (j + kKeyBlock) * v_stride;
        const int64_t ahead = ends ? Min(kKeyBlock, s.keys) : Min(kKeyBlock, last_key - j - kKeyBlock);
        RowsAhead<const T> next_keys{k, k_stride, s.width, ahead}, next_values{v, v_stride, s.value_width, ahead};
        if (ends && j > 0) next_queries = {next.q, q_stride, s.width, Min(kGroup, next.rows)};

        for (int64_t r = Max<int64_t>(0, FirstQuery(s, j) - first_query); r < rows; r += kGroup) {
          const int64_t end = Min(r + kGroup, rows);
          if (j == 0)
            PackAlong<kBf16x2>(item.q + r * q_stride, q_stride, end - r, s.width, tile_q + r * t.depth, t.depth, sign);
          next_queries.Ask(end - r);
          AddKeys<kBf16x2>(t, r, end, key_block);
          next_keys.Ask(kRowsPerGroup);
          next_values.Ask(kRowsPerGroup);
          next_output.Ask(kRowsPerGroup);
        }
      }
      if (last_key > kSegment) {
        totals.Take(t, rows, false);
        t.output = totals.output;
        t.sum = totals.sum;
      }

      for (int64_t r = 0; r < rows; r += kLanes) {
        const int64_t count = Min<int64_t>(kLanes, rows - r);
        Vec lanes[kLanes];
        for (int64_t i = 0; i < kLanes; ++i) lanes[i] = i < count ? Load(t.sum + (r + i) * kLanes) : Vec{};
        const Vec sum = SumRows(lanes);  // 0 only where no key is seen; NaN remains
        const VecInt unseen = sum == 0.0f;
        float inverses[kLanes];
        Store(inverses, unseen ? Vec{} : 1.0f / sum);
        for (int64_t i = 0; i < count; ++i) {
          const float* from = t.output + (r + i) * value_row;
          T* to = output + (r + i) * output_stride;
          int64_t d = 0;
          for (; d + kLanes <= s.value_width; d += kLanes) Store(to + d, Load(from + d) * inverses[i]);
          if (d < s.value_width) StorePartial(to + d, Load(from + d) * inverses[i], s.value_width - d);
        }
        const Vec log_sum_exp = LoadPartial(t.reference + r, count) * magnitude + Log(sum);
        StorePartial(p.log_sum_exp + (item.batch * s.heads + item.head) * s.queries + first_query + r,
                     unseen ? Broadcast(kMinusInfinity) : log_sum_exp, count);
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
