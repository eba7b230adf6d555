// Does the emulator find faults? A product and a row sum, each with faults planted one at a time. Every fault is run
// once under the process's seed; one JSON line each says how it was caught: the launch failed or the result is wrong.
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "core/convert.h"
#include "cuda/device/mma.cuh"
#include "trials.h"

namespace sas::cuda {
namespace {

enum class Fault {
  kNone,
  kNoBarrierBeforeReuse,
  kNoBarrierAfterWait,
  kNoBarrierInEpilogue,
  kWaitTooShort,
  kNoCommit,
  kNoWait,
  kNoZeroFill,
  kStoreOverCopy,
  kLastRowLeftOut,
  kLastStepLeftOut,
  kReadPastLastRow,
  kNoBoundsCheckOnStore,
  kWrongAccumulator,
  kNoStart,
  kWrongFragment,
  kTransposedLoad,
  kUnalignedStride,
  kUnalignedStore,
  kSharedTooSmall,
  kTooMuchShared,
  kSharedNotAskedFor,
  kBlockTooLarge,
  kBlockNotWhole,
  kShuffleWithoutLane,
  kMixedShuffles,
  kEarlyReturn,
  kBarrierInBranch,
  kNoBarrierInSum,
  kNoWarpBarrier,
  kPlainWritePastEnd,
  kPlainReadPastEnd,
  kSharedWritePastEnd,
};

// ---- c [rows, columns] = a [rows, depth] b [columns, depth]^T; columns and depth are multiples of 8

constexpr int kTile = 64, kStep = 32, kProductThreads = 128;
constexpr int kOutputStride = kTile + 8;

// Elements between two rows of a tile: 16 bytes more than a row has, against bank conflicts.
template <Fault kFault>
constexpr int kStride = kFault == Fault::kUnalignedStride ? kStep + 4 : kStep + 8;

template <Fault kFault>
constexpr size_t kProductShared = 2 * 2 * kTile* kStride<kFault> * sizeof(BFloat16);

// Starts copying rows [row0, row0 + kTile) and columns [k0, k0 + kStep) of source [rows, depth], zeros outside.
template <Fault kFault>
__device__ __forceinline__ void CopyTile(BFloat16* tile, const BFloat16* source, int rows, int depth, int row0,
                                         int k0) {
  constexpr int kVectors = kStep / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kVectors; i += kProductThreads) {
    const int row = i / kVectors, k = i % kVectors * 8;
    bool valid = row0 + row < rows && k0 + k < depth;
    if (kFault == Fault::kLastRowLeftOut) valid = row0 + row < rows - 1 && k0 + k < depth;
    if (kFault == Fault::kReadPastLastRow) valid = row0 + row <= rows && k0 + k < depth;
    if (kFault == Fault::kNoZeroFill && !valid) continue;
    CopyAsync16(tile + row * kStride<kFault> + k, valid ? source + (row0 + row) * depth + k0 + k : source, valid);
    if (kFault == Fault::kStoreOverCopy && !valid) Store16(tile + row * kStride<kFault> + k, make_uint4(0, 0, 0, 0));
  }
}

template <Fault kFault>
__global__ void __launch_bounds__(kProductThreads)
    ProductKernel(int rows, int columns, int depth, const BFloat16* a, const BFloat16* b, BFloat16* c) {
  constexpr int kTileElements = kTile * kStride<kFault>;
  auto* const shared = reinterpret_cast<BFloat16*>(SharedMemory());
  const auto tile_a = [&](int step) { return shared + step % 2 * 2 * kTileElements; };
  const auto tile_b = [&](int step) { return tile_a(step) + kTileElements; };
  const int row0 = static_cast<int>(blockIdx.x) * kTile, column0 = static_cast<int>(blockIdx.y) * kTile;
  const int steps = kFault == Fault::kLastStepLeftOut ? depth / kStep : (depth + kStep - 1) / kStep;
  const int warp = static_cast<int>(threadIdx.x) / 32;

  const auto copy = [&](int step) {
    CopyTile<kFault>(tile_a(step), a, rows, depth, row0, step * kStep);
    CopyTile<kFault>(tile_b(step), b, columns, depth, column0, step * kStep);
  };
  Accumulator sums[kTile / 8];
  if (kFault != Fault::kNoStart) {
    for (Accumulator& sum : sums) sum = {};
  }
  copy(0);
  CopyAsyncCommit();
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) copy(step + 1);
    if (kFault != Fault::kNoCommit || step % 2 == 1) CopyAsyncCommit();
    if (kFault != Fault::kNoWait) CopyAsyncWait<kFault == Fault::kWaitTooShort ? 2 : 1>();
    if (kFault != Fault::kNoBarrierAfterWait) __syncthreads();
    for (int k = 0; k < kStep; k += kDepth<BFloat16>) {
      FragmentA<BFloat16> left;
      LoadA(left, tile_a(step) + (warp * 16 + RowOfA<BFloat16>()) * kStride<kFault> + k + DepthOfA<BFloat16>());
      if (kFault == Fault::kWrongFragment) std::swap(left.r[1], left.r[2]);
      for (int j = 0; j < kTile / 8; j += 2) {
        FragmentB<BFloat16> right[2];
        if (kFault == Fault::kTransposedLoad) {
          LoadBTransposed(right[0], right[1], tile_b(step) + j * 8 * kStride<kFault> + k, kStride<kFault>);
        } else {
          LoadB(right[0], right[1], tile_b(step) + j * 8 * kStride<kFault> + k, kStride<kFault>);
        }
        Multiply(sums[j], left, right[0]);
        Multiply(sums[j + 1], left, right[1]);
      }
    }
    if (kFault != Fault::kNoBarrierBeforeReuse) __syncthreads();
  }
  CopyAsyncCommit();
  CopyAsyncWait<0>();

  // Through shared memory, so that whole rows are stored.
  const int g = LaneId() / 4, t = LaneId() % 4;
  if (kFault == Fault::kNoBarrierBeforeReuse) __syncthreads();
  for (int j = 0; j < kTile / 8; ++j) {
    if (kFault == Fault::kWrongAccumulator) std::swap(sums[j].c[1], sums[j].c[2]);
    for (int half = 0; half < 2; ++half) {
      BFloat16* const at = shared + (warp * 16 + g + half * 8) * kOutputStride + j * 8 + 2 * t;
      Narrow(sums[j].c[2 * half], at);
      Narrow(sums[j].c[2 * half + 1], at + 1);
    }
  }
  if (kFault != Fault::kNoBarrierInEpilogue) __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile / 8; i += kProductThreads) {
    const int row = i / (kTile / 8), column = i % (kTile / 8) * 8;
    if (column0 + column >= columns) continue;
    if (kFault != Fault::kNoBoundsCheckOnStore && row0 + row >= rows) continue;
    const int64_t target = int64_t{row0 + row} * columns + column0 + column;
    Store16(c + target + (kFault == Fault::kUnalignedStore && target > 8 ? 4 : 0),
            Load16(shared + row * kOutputStride + column));
  }
}

// ---- sums [rows] of x [rows, columns]; half a block per row

constexpr int kRowThreads = 64, kSumThreads = 2 * kRowThreads;

template <Fault kFault>
__global__ void __launch_bounds__(kSumThreads) RowSumKernel(int rows, int columns, const float* x, float* sums) {
  float* const staged = reinterpret_cast<float*>(SharedMemory());  // [kSumThreads]
  float* const partial = staged + kSumThreads;                     // [kSumThreads / 32]
  const int thread = static_cast<int>(threadIdx.x), half = thread / kRowThreads, t = thread % kRowThreads;
  const int row = static_cast<int>(blockIdx.x) * 2 + half;
  if (kFault == Fault::kEarlyReturn && row >= rows) return;

  float sum = 0;
  if (row < rows) {
    const int end = kFault == Fault::kPlainReadPastEnd ? columns + 1 : columns;
    for (int column = t; column < end; column += kRowThreads) sum += x[int64_t{row} * columns + column];
  }
  // The first exchange between neighbours goes through shared memory, the others by shuffles.
  staged[kFault == Fault::kSharedWritePastEnd ? thread + 8 : thread] = sum;
  if (kFault != Fault::kNoWarpBarrier) __syncwarp();
  sum += staged[thread ^ 16];
  for (int lanes = 8; lanes > 0; lanes /= 2) {
    if (kFault == Fault::kShuffleWithoutLane && t >= columns) continue;
    if (kFault == Fault::kMixedShuffles && t >= columns) {
      sum += static_cast<float>(__shfl_xor_sync(0xffffffffu, static_cast<double>(sum), lanes));
    } else {
      sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    }
  }
  if (thread % 32 == 0) partial[thread / 32] = sum;
  if (kFault == Fault::kBarrierInBranch) {
    if (row < rows) __syncthreads();
  } else if (kFault != Fault::kNoBarrierInSum) {
    __syncthreads();
  }
  if (t == 0 && (row < rows || kFault == Fault::kPlainWritePastEnd))
    sums[row] = partial[2 * half] + partial[2 * half + 1];
}

// ---- host

struct Device {
  void* data = nullptr;
  Device(const void* source, size_t bytes) {
    if (cudaMallocAsync(&data, bytes, nullptr) != cudaSuccess) std::abort();
    if (source != nullptr) cudaMemcpyAsync(data, source, bytes, cudaMemcpyHostToDevice, nullptr);
  }
  ~Device() { cudaFreeAsync(data, nullptr); }
};

double Uniform(std::mt19937_64& random) { return std::uniform_real_distribution<double>(-1, 1)(random); }

// How a wrong result shows, or nothing.
std::string Judge(const std::vector<double>& results, const std::vector<double>& expected, double limit) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (results[i] - expected[i]) * (results[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double error = std::sqrt(difference / norm);
  if (error <= limit) return "";
  if (std::isnan(error)) return "wrong result: NaN";
  char text[80];
  std::snprintf(text, sizeof text, "wrong result: relative error %.2g, at most %.2g is right", error, limit);
  return text;
}

// Launches and waits; on failure, what the device says.
template <class... Parameters, class... Arguments>
std::string Run(void (*kernel)(Parameters...), dim3 blocks, unsigned threads, size_t shared, bool ask,
                Arguments... arguments) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaSuccess;
  if (ask) {
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  }
  const cudaLaunchConfig_t config{blocks, dim3(threads), shared, nullptr};
  if (error == cudaSuccess) error = cudaLaunchKernelEx(&config, kernel, arguments...);
  if (error == cudaSuccess) error = cudaStreamSynchronize(nullptr);
  return emulator::Describe(error);
}

template <Fault kFault>
std::string TryProduct() {
  constexpr int kRows = 83, kColumns = 72, kDepthTotal = 104;  // ragged: one tile and a part of each
  std::mt19937_64 random(1);
  std::vector<BFloat16> a(kRows * kDepthTotal), b(kColumns * kDepthTotal), c(kRows * kColumns);
  for (BFloat16& value : a) FromFloat(static_cast<float>(Uniform(random)), &value);
  for (BFloat16& value : b) FromFloat(static_cast<float>(Uniform(random)), &value);
  const Device on_a(a.data(), a.size() * 2), on_b(b.data(), b.size() * 2), on_c(nullptr, c.size() * 2);

  size_t shared = kProductShared<kFault>;
  unsigned threads = kProductThreads;
  if (kFault == Fault::kSharedTooSmall) shared -= 1024;
  if (kFault == Fault::kTooMuchShared) shared = 200 << 10;
  if (kFault == Fault::kSharedNotAskedFor) shared = 64 << 10;
  if (kFault == Fault::kBlockTooLarge) threads = 1056;
  if (kFault == Fault::kBlockNotWhole) threads = 120;
  const dim3 blocks((kRows + kTile - 1) / kTile, (kColumns + kTile - 1) / kTile);
  if (std::string failure = Run(ProductKernel<kFault>, blocks, threads, shared, kFault == Fault::kTooMuchShared, kRows,
                                kColumns, kDepthTotal, static_cast<BFloat16*>(on_a.data),
                                static_cast<BFloat16*>(on_b.data), static_cast<BFloat16*>(on_c.data));
      !failure.empty()) {
    return failure;
  }
  cudaMemcpyAsync(c.data(), on_c.data, c.size() * 2, cudaMemcpyDeviceToHost, nullptr);
  std::vector<double> results(c.size()), expected(c.size());
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < kColumns; ++column) {
      double sum = 0;
      for (int k = 0; k < kDepthTotal; ++k) {
        sum += static_cast<double>(ToFloat(a[row * kDepthTotal + k])) * ToFloat(b[column * kDepthTotal + k]);
      }
      results[row * kColumns + column] = ToFloat(c[row * kColumns + column]);
      expected[row * kColumns + column] = sum;
    }
  }
  return Judge(results, expected, 4e-3);
}

template <Fault kFault>
std::string TryRowSum() {
  constexpr int kRows = 7, kColumns = 45;
  std::mt19937_64 random(2);
  std::vector<float> x(kRows * kColumns), sums(kRows);
  for (float& value : x) value = static_cast<float>(Uniform(random));
  const Device on_x(x.data(), x.size() * 4), on_sums(nullptr, sums.size() * 4);
  constexpr size_t kShared = (kSumThreads + kSumThreads / 32) * sizeof(float);
  if (std::string failure = Run(RowSumKernel<kFault>, dim3((kRows + 1) / 2), kSumThreads, kShared, false, kRows,
                                kColumns, static_cast<const float*>(on_x.data), static_cast<float*>(on_sums.data));
      !failure.empty()) {
    return failure;
  }
  cudaMemcpyAsync(sums.data(), on_sums.data, sums.size() * 4, cudaMemcpyDeviceToHost, nullptr);
  std::vector<double> results(sums.begin(), sums.end()), expected(kRows);
  for (int i = 0; i < kRows * kColumns; ++i) expected[i / kColumns] += x[i];
  return Judge(results, expected, 1e-6);
}

void RunAll() {
#define SAS_PRODUCT(fault, text) emulator::Try("product", text, TryProduct<Fault::fault>);
  SAS_PRODUCT(kNone, "none")
  SAS_PRODUCT(kNoBarrierBeforeReuse, "no __syncthreads before a tile is copied over")
  SAS_PRODUCT(kNoBarrierAfterWait, "no __syncthreads after the wait for asynchronous copies")
  SAS_PRODUCT(kNoBarrierInEpilogue, "no __syncthreads between writing and reading the staged result")
  SAS_PRODUCT(kNoWait, "no wait for asynchronous copies")
  SAS_PRODUCT(kWaitTooShort, "the wait leaves one group of copies too many pending")
  SAS_PRODUCT(kNoCommit, "copies are committed at every other step only")
  SAS_PRODUCT(kNoZeroFill, "no zeros where the tile reaches over the edge")
  SAS_PRODUCT(kStoreOverCopy, "a plain store into the target of a pending copy")
  SAS_PRODUCT(kLastRowLeftOut, "off by one: the last row is not read")
  SAS_PRODUCT(kLastStepLeftOut, "the last, partial step along K is left out")
  SAS_PRODUCT(kReadPastLastRow, "off by one: a row too many is read")
  SAS_PRODUCT(kNoBoundsCheckOnStore, "no bounds check when rows are stored")
  SAS_PRODUCT(kWrongAccumulator, "accumulators 1 and 2 exchanged")
  SAS_PRODUCT(kNoStart, "accumulators that do not start from zero")
  SAS_PRODUCT(kWrongFragment, "registers 1 and 2 of the A fragment exchanged")
  SAS_PRODUCT(kTransposedLoad, "ldmatrix.trans in place of ldmatrix")
  SAS_PRODUCT(kUnalignedStride, "rows in shared memory not aligned to 16 bytes")
  SAS_PRODUCT(kUnalignedStore, "16-byte stores not aligned to 16 bytes")
  SAS_PRODUCT(kSharedTooSmall, "less shared memory than the tiles take")
  SAS_PRODUCT(kTooMuchShared, "more shared memory than the device has")
  SAS_PRODUCT(kSharedNotAskedFor, "more than 48 KB of shared memory without asking for it")
  SAS_PRODUCT(kBlockTooLarge, "1056 threads in a block")
  SAS_PRODUCT(kBlockNotWhole, "120 threads in a block")
#define SAS_ROW_SUM(fault, text) emulator::Try("row sum", text, TryRowSum<Fault::fault>);
  SAS_ROW_SUM(kNone, "none")
  SAS_ROW_SUM(kShuffleWithoutLane, "lanes missing from a shuffle")
  SAS_ROW_SUM(kMixedShuffles, "lanes of a warp in two different shuffles")
  SAS_ROW_SUM(kEarlyReturn, "threads leave before a __syncthreads")
  SAS_ROW_SUM(kBarrierInBranch, "__syncthreads in a branch that some threads do not take")
  SAS_ROW_SUM(kNoBarrierInSum, "no __syncthreads between writing and reading partial sums")
  SAS_ROW_SUM(kNoWarpBarrier, "no __syncwarp between writing and reading shared memory")
  SAS_ROW_SUM(kPlainWritePastEnd, "a plain store past the end of an allocation")
  SAS_ROW_SUM(kPlainReadPastEnd, "off by one: a column too many is read")
  SAS_ROW_SUM(kSharedWritePastEnd, "a store past the end of shared memory")
}

}  // namespace
}  // namespace sas::cuda

int main() { sas::cuda::RunAll(); }
