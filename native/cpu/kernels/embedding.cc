// output[b, t] = tokenTable[tokens[b, t]] + positionTable[t].
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/operations.h"

namespace sas::cpu::SAS_ISA {
namespace {

Status CheckTokens(const int32_t* tokens, int64_t count, int64_t vocabulary) {
  for (int64_t i = 0; i < count; ++i) {
    if (tokens[i] < 0 || tokens[i] >= vocabulary) return TokenOutside(tokens[i], i, vocabulary);
  }
  return {};
}

// Tables are summed in tiles of 64 rows x 64 columns: the sums of a row's columns stay in registers.
constexpr int64_t kTile = 64;
constexpr int kTileVectors = kTile / kLanes;

// target [count] = the sum of source(0) .. source(terms - 1), each a pointer to [count]; count <= kTile. Partial sums
// of kLongestChain terms, added with compensation, keep rounding errors from growing with their number.
template <class Source>
SAS_INLINE void SumTerms(float* target, int64_t count, int64_t terms, const Source& source) {
  Vec total[kTileVectors] = {}, rest[kTileVectors] = {};
  for (int64_t term = 0; term < terms;) {
    Vec sums[kTileVectors] = {};
    for (const int64_t stop = Min(term + kLongestChain, terms); term < stop; ++term) {
      const auto* values = source(term);
      if (count == kTile) {
        for (int i = 0; i < kTileVectors; ++i) sums[i] += Load(values + i * kLanes);
      } else {
        for (int i = 0; i < kTileVectors && i * kLanes < count; ++i) {
          sums[i] += LoadPartial(values + i * kLanes, count - i * kLanes);
        }
      }
    }
    for (int i = 0; i < kTileVectors; ++i) AddCompensated(sums[i], total[i], rest[i]);
  }
  for (int i = 0; i < kTileVectors && i * kLanes < count; ++i) {
    StorePartial(target + i * kLanes, total[i], count - i * kLanes);
  }
}

// Calls body(row, column, count) for the tiles' rows of a table [rows, width].
template <class Body>
void ParallelTiles(CpuContext& context, int64_t rows, int64_t width, const Body& body) {
  const int64_t slices = CeilDiv(width, kTile);
  context.pool.Run(CeilDiv(rows, kTile) * slices, [&](int64_t item, int) {
    const int64_t begin = item / slices * kTile, column = item % slices * kTile;
    const int64_t count = Min(width - column, kTile);
    for (int64_t row = begin; row < Min(begin + kTile, rows); ++row) body(row, column, count);
  });
}

}  // namespace

Status Embedding(CpuContext& context, const EmbeddingParams& p) {
  if (Status status = CheckTokens(p.tokens, p.batch * p.length, p.vocabulary); !status.ok()) return status;
  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.width;
    ParallelRows(context, p.batch * p.length, width, [&](int64_t row) {
      const float* token = p.token_table + p.tokens[row] * width;
      const float* position = p.position_table ? p.position_table + row % p.length * width : nullptr;
      T* output = static_cast<T*>(p.output) + row * width;
      ForEachVector(width, [=](int64_t i, int64_t count) {
        const Vec value = LoadPartial(token + i, count);
        StorePartial(output + i, position ? value + LoadPartial(position + i, count) : value, count);
      });
    });
    return Status();
  });
}

Status EmbeddingBackward(CpuContext& context, const EmbeddingBackwardParams& p) {
  const int64_t size = p.batch * p.length;
  if (Status status = CheckTokens(p.tokens, size, p.vocabulary); !status.ok()) return status;

  // The places of each token, in order (a counting sort): those of token i are order[first[i]] .. order[first[i + 1]].
  int64_t* first = reinterpret_cast<int64_t*>(context.scratch.Take(2 * (p.vocabulary + 2)));
  int64_t* order = reinterpret_cast<int64_t*>(context.scratch.Take(2 * size));
  memset(first, 0, static_cast<size_t>(p.vocabulary + 2) * sizeof(int64_t));
  for (int64_t i = 0; i < size; ++i) ++first[p.tokens[i] + 2];
  for (int64_t token = 0; token < p.vocabulary; ++token) first[token + 2] += first[token + 1];
  for (int64_t i = 0; i < size; ++i) order[first[p.tokens[i] + 1]++] = i;

  return DispatchFloat(p.dtype, [&]<class T>(T*) {
    const int64_t width = p.width;
    const T* grad_output = static_cast<const T*>(p.grad_output);
    ParallelTiles(context, p.vocabulary, width, [&](int64_t row, int64_t column, int64_t count) {
      const int64_t* places = order + first[row];
      SumTerms(p.grad_token_table + row * width + column, count, first[row + 1] - first[row],
               [=](int64_t term) { return grad_output + places[term] * width + column; });
    });
    if (!p.grad_position_table) return Status();
    ParallelTiles(context, p.positions, width, [&](int64_t row, int64_t column, int64_t count) {
      const int64_t length = p.length;
      SumTerms(p.grad_position_table + row * width + column, count, row < length ? p.batch : 0,
               [=](int64_t batch) { return grad_output + (batch * length + row) * width + column; });
    });
    return Status();
  });
}

}  // namespace sas::cpu::SAS_ISA
