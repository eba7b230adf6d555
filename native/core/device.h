// What a backend must offer: its devices, and for an opened device one table of operations and raw memory.
#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "core/params.h"
#include "core/status.h"

namespace sas {

// What an operation runs on (threads and scratch memory, or a stream). Each backend derives its own.
class Context {
 public:
  virtual ~Context() = default;
};

// Every operation, once: X(Name, Params). Fused operations and their unfused `Naive` twins share parameter structs.
#define SAS_OPERATIONS(X)                               \
  X(Fill, FillParams)                                   \
  X(Random, RandomParams)                               \
  X(Cast, CastParams)                                   \
  X(Expand, ExpandParams)                               \
  X(ExpandBackward, ExpandBackwardParams)               \
  X(NaiveExpand, ExpandParams)                          \
  X(NaiveExpandBackward, ExpandBackwardParams)          \
  X(Attention, AttentionParams)                         \
  X(AttentionBackward, AttentionBackwardParams)         \
  X(AttentionMean, AttentionMeanParams)                 \
  X(NaiveAttention, AttentionParams)                    \
  X(NaiveAttentionBackward, AttentionBackwardParams)    \
  X(Aggregate, AggregateParams)                         \
  X(AggregateBackward, AggregateParams)                 \
  X(Concat, ConcatParams)                               \
  X(ConcatBackward, ConcatBackwardParams)               \
  X(TensorProduct, TensorProductParams)                 \
  X(TensorProductBackward, TensorProductBackwardParams) \
  X(Linear, LinearParams)                               \
  X(LinearBackward, LinearBackwardParams)               \
  X(LayerNorm, LayerNormParams)                         \
  X(LayerNormBackward, LayerNormBackwardParams)         \
  X(RmsNorm, RmsNormParams)                             \
  X(RmsNormBackward, RmsNormBackwardParams)             \
  X(Gelu, GeluParams)                                   \
  X(GeluBackward, GeluBackwardParams)                   \
  X(Add, AddParams)                                     \
  X(Embedding, EmbeddingParams)                         \
  X(EmbeddingBackward, EmbeddingBackwardParams)         \
  X(Rope, RopeParams)                                   \
  X(CrossEntropy, CrossEntropyParams)                   \
  X(CrossEntropyBackward, CrossEntropyBackwardParams)   \
  X(ClipGradNorm, ClipGradNormParams)                   \
  X(AdamW, AdamWParams)

template <class Params>
using Operation = Status (*)(Context&, const Params&);

// A device's table of operations. They run on the device's executor thread, in order.
struct Operations {
#define SAS_ENTRY(Name, Params) Operation<Params> Name;
  SAS_OPERATIONS(SAS_ENTRY)
#undef SAS_ENTRY
};

struct DeviceInfo {
  std::string id;    // "cpu", "cuda:0"
  std::string kind;  // "cpu", "cuda"
  std::string name;
  std::string reason;  // why it cannot be used, in words a user can act on; empty when usable
  uint64_t memory_bytes = 0;
  std::string isa;                           // cpu
  int threads = 0;                           // cpu
  int compute_major = 0, compute_minor = 0;  // cuda, as the next two
  std::string driver;
  std::string blas;

  bool usable() const { return reason.empty(); }
};

// What the user asks of all devices of a kind.
struct Settings {
  std::string isa;          // cpu: the instruction set; empty: the best that the processor has
  int threads = 0;          // cpu; 0: one per processor, or as many as a container's quota is worth
  size_t memory_limit = 0;  // bytes that tensors may reserve; 0: the device's memory
  std::string system_root;  // where /proc and /sys are looked for, which say what a container may have; for tests
  bool tf32 = false;        // cuda: products of f32 operands in TF32
};

// Bytes that a device holds beside the memory it has given out by AllocateRaw.
struct DeviceReserve {
  size_t scratch = 0;  // for the scratch memory of operations
  size_t kept = 0;     // what operations keep of weights
  size_t idle = 0;     // returned by FreeRaw, and kept for what AllocateRaw gives out next

  size_t sum() const { return scratch + kept + idle; }
};

class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceInfo info() const = 0;
  virtual const Operations& operations() const = 0;
  virtual Context& context() = 0;

  // Memory from the system, 64-byte aligned. kOutOfMemory where there is none; any other failure is the device's own.
  // Called from the environment's thread.
  virtual Status AllocateRaw(size_t bytes, void** data) = 0;
  virtual void FreeRaw(void* data, size_t bytes) = 0;
  // Whether FreeRaw takes parts of large memory (256 KB and more), in multiples of 64 KB, too.
  virtual bool FreesParts() const { return false; }
  // How an operation that finds no memory for scratch space takes back what tensors no longer use: set once, before the
  // first task, and called on the executor thread.
  virtual void SetReclaim(std::function<void()>) {}
  virtual DeviceReserve reserve() const = 0;
  // The most scratch memory that one operation has taken since the last call. Any thread.
  virtual size_t TakeScratchPeak() = 0;

  // Whether the host may read and write device memory directly.
  virtual bool HostAccessible() const = 0;
  // The multiply-add rate of all threads together, counted as 2, measured for about `seconds` on the executor thread:
  // the peak that a benchmark holds its kernels against.
  virtual double MeasurePeakFlops(double seconds) = 0;
  // Blocking copies, on the executor thread, in order with the operations.
  virtual Status CopyToDevice(void* target, const void* source, size_t bytes) = 0;
  virtual Status CopyToHost(void* target, const void* source, size_t bytes) = 0;
  // A copy to the host that is under way. Executor thread.
  class Fetch {
   public:
    virtual ~Fetch() = default;
    // Whether it is over, without waiting.
    virtual bool Done() = 0;
    // Then: how it ended, and what was copied, which is there while this object is.
    virtual Status status() const = 0;
    virtual const void* data() const = 0;
    // The results of the checks started between the last wait and this copy, in order.
    virtual std::vector<Status> CheckResults() const = 0;
  };
  // Starts a copy that nobody needs to wait for, in order with the operations. Null where only CopyToHost will do: for
  // more bytes than a few, or while many are under way.
  virtual Status StartFetch(const void* /*source*/, size_t /*bytes*/, std::unique_ptr<Fetch>* /*fetch*/) { return {}; }
  // Waits until the device has done what the operations so far have asked of it. Executor thread.
  virtual Status Synchronize() = 0;
  // Whether it has, without waiting. Any thread.
  virtual bool Idle() const { return true; }
  // Gives memory that it keeps for later operations back to the system. Executor thread, or while no task is queued.
  virtual void Trim() = 0;
  // The same, but for what operations keep of weights, and scratch memory that is of use to one that takes `scratch`.
  virtual void TrimTo(size_t scratch) = 0;
  // From now on operations and waits end as soon as they can, the one that runs too, and fail. Any thread.
  virtual void Cancel() = 0;
  // An operation whose data only the device can check (its tokens, say) starts one check and returns; its result comes
  // with a later wait. Between two waits there are at most kMaxChecks. Executor thread.
  static constexpr size_t kMaxChecks = 256;
  // Those started since the last wait.
  virtual size_t ChecksStarted() const { return 0; }
  // The results of all of them, in order, once a CopyToHost or Synchronize has succeeded that found any.
  virtual std::vector<Status> TakeCheckResults() { return {}; }
  // Before an operation that writes in place: it must leave its operands alone if one of these checks fails. (Such an
  // operation starts no check itself.)
  virtual void Guard(const std::bitset<kMaxChecks>&) {}
  // Before a task that writes this memory: what was derived from its content is no longer. Executor thread.
  virtual void Written(const void*, size_t) noexcept {}
  // Overwrites memory with NaN (all bits set), in order; for tests.
  virtual Status Poison(void* target, size_t bytes) = 0;
};

// A kind of device. The addon holds one of each; core knows none of them.
struct Backend {
  std::vector<DeviceInfo> (*list)(const Settings& settings);
  // `id` is one that `list` gave as usable.
  std::variant<std::unique_ptr<Device>, Status> (*open)(const std::string& id, const Settings& settings);
};

}  // namespace sas
