// Parallel loops over tensors, sums that keep their accuracy, and the choice of storage type.
#pragma once

#include "cpu/context.h"
#include "cpu/kernels/simd.h"

namespace sas::cpu::SAS_ISA {

// Calls body with a null pointer of the storage type: DispatchFloat(dtype, [&](auto* type) { using T = ...; }).
template <class Body>
Status DispatchFloat(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF32:
      return body(static_cast<float*>(nullptr));
    case DType::kBF16:
      return body(static_cast<BFloat16*>(nullptr));
    case DType::kF16:
      return body(static_cast<Float16*>(nullptr));
    case DType::kI32:
      break;
  }
  return Status(StatusCode::kInternal, "dtype i32 where a float type was expected");
}

// Calls body(begin, end) for [0, size) in chunks that are worth a thread; chunk edges are multiples of `chunk`.
template <class Body>
void ParallelChunks(CpuContext& context, int64_t size, int64_t chunk, const Body& body) {
  context.pool.Run(CeilDiv(size, chunk), [&](int64_t item, int) { body(item * chunk, Min((item + 1) * chunk, size)); });
}
inline constexpr int64_t kElementChunk = 16384;

// Calls body(row) for [0, rows), in parallel, in groups that are worth a thread.
template <class Body>
void ParallelRows(CpuContext& context, int64_t rows, int64_t width, const Body& body) {
  ParallelChunks(context, rows, Max<int64_t>(1, kElementChunk / Max<int64_t>(1, width)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t row = begin; row < end; ++row) body(row);
                 });
}

// One parallel loop over the elements of many tensors, structs with a `size`: Run calls body(tensor, begin, end, item)
// for every chunk, item counting the chunks.
template <class Tensor>
class TensorChunks {
 public:
  TensorChunks(CpuContext& context, const Tensor* tensors, int64_t count)
      : context_(context),
        tensors_(tensors),
        count_(count),
        first_(reinterpret_cast<int64_t*>(context.scratch.Take(2 * count))) {
    for (int64_t i = 0; i < count; ++i) {
      first_[i] = items_;
      items_ += CeilDiv(tensors[i].size, kElementChunk);
    }
  }
  int64_t items() const { return items_; }

  template <class Body>
  void Run(const Body& body) const {
    context_.pool.Run(items_, [&](int64_t item, int) {
      int64_t low = 0, high = count_;  // the last tensor whose first item is not after this one
      while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        (first_[middle] <= item ? low : high) = middle;
      }
      const int64_t begin = (item - first_[low]) * kElementChunk;
      body(tensors_[low], begin, Min(begin + kElementChunk, tensors_[low].size), item);
    });
  }

 private:
  CpuContext& context_;
  const Tensor* tensors_;
  int64_t count_, items_ = 0;
  int64_t* first_;  // [count], the first item of each tensor
};

// The sum of term(offset, count) over [0, size) in steps of a vector, lane by lane; lanes from count on must be 0. The
// value is a Vec or a struct of them with `+`. Four chains hide the latency of an addition; three levels of sums, of
// kLongestChain terms at most, keep rounding errors from growing with the size (beyond 4 million, slowly).
template <class Term>
SAS_INLINE auto SumVectors(int64_t size, const Term& term) {
  using Value = decltype(term(int64_t{}, int64_t{}));
  constexpr int64_t kBlock = kLongestChain * kLanes, kSegment = kLongestChain * kBlock;
  Value total{}, segment{};
  int64_t i = 0;
  while (i + 4 * kLanes <= size) {
    const int64_t end = Min(i + kBlock, size);
    Value a{}, b{}, c{}, d{};
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      a = a + term(i, int64_t{kLanes});
      b = b + term(i + kLanes, int64_t{kLanes});
      c = c + term(i + 2 * kLanes, int64_t{kLanes});
      d = d + term(i + 3 * kLanes, int64_t{kLanes});
    }
    segment = segment + ((a + b) + (c + d));
    if (i % kSegment == 0) {
      total = total + segment;
      segment = Value{};
    }
  }
  ForEachVector(size - i, [&](int64_t offset, int64_t count) { segment = segment + term(i + offset, count); });
  return total + segment;
}

// Adds to a total of any number of terms: `rest` has what the total cannot hold (Kahan's sum). Both begin with zeros.
SAS_INLINE void AddCompensated(Vec term, Vec& total, Vec& rest) {
  const Vec before = total, missing = term - rest;
  total = before + missing;
  const Vec surplus = (total - before) - missing;
  rest = surplus == surplus ? surplus : Vec{};  // of infinities: none
}

// sums[c] += sum over rows of source[r][c]; sums is readable in whole vectors.
template <class T>
void AddRows(const T* source, int64_t stride, int64_t rows, int64_t columns, float* sums) {
  for (int64_t first = 0; first < rows; first += kLongestChain) {
    const int64_t end = Min(first + kLongestChain, rows);
    ForEachVector(columns, [&](int64_t c, int64_t count) {
      Vec sum{};
      for (int64_t r = first; r < end; ++r) sum += LoadPartial(source + r * stride + c, count);
      Store(sums + c, Load(sums + c) + sum);
    });
  }
}

// Moves an array [size, in whole vectors] into such a total, and leaves zeros.
SAS_INLINE void MoveIntoTotal(float* terms, int64_t size, float* total, float* rest) {
  for (int64_t i = 0; i < size; i += kLanes) {
    Vec sum = Load(total + i), surplus = Load(rest + i);
    AddCompensated(Load(terms + i), sum, surplus);
    Store(total + i, sum);
    Store(rest + i, surplus);
    Store(terms + i, Vec{});
  }
}

// Sums over rows, for gradients of parameters: body(row, sums, stride) adds a row's terms to sums [kSums, stride], of
// which each row is [width] padded to whole vectors. Rows are split into partitions whose number depends on the shape
// only, each added up apart (32 rows at a time, so that rounding errors don't grow with the number of rows); then the
// partitions are added in order into `outputs`.
template <int kSums, class Body>
void SumRows(CpuContext& context, int64_t rows, int64_t width, float* const (&outputs)[kSums], const Body& body) {
  const int64_t stride = RoundUp(width, 16), size = kSums * stride;
  const int64_t partitions = Min<int64_t>(Max<int64_t>(rows / 16, 1), kLongestChain);
  float* partials = context.scratch.Take(partitions * 3 * size);  // [partitions, 3, kSums, stride]
  context.pool.Run(partitions, [&](int64_t partition, int) {
    float* total = partials + partition * 3 * size;
    float *rest = total + size, *sums = rest + size;
    memset(total, 0, static_cast<size_t>(3 * size) * sizeof(float));
    const int64_t end = rows * (partition + 1) / partitions;
    for (int64_t row = rows * partition / partitions; row < end;) {
      for (const int64_t stop = Min(row + 32, end); row < stop; ++row) body(row, sums, stride);
      MoveIntoTotal(sums, size, total, rest);
    }
  });
  ParallelChunks(context, width, 512, [&](int64_t begin, int64_t end) {
    for (int sum = 0; sum < kSums; ++sum) {
      ForEachVector(end - begin, [&](int64_t offset, int64_t count) {
        const float* source = partials + sum * stride + begin + offset;
        Vec value{};
        for (int64_t partition = 0; partition < partitions; ++partition) value += Load(source + partition * 3 * size);
        StorePartial(outputs[sum] + begin + offset, value, count);
      });
    }
  });
}

}  // namespace sas::cpu::SAS_ISA
