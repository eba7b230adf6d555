// What operations make of f32 parameters and keep from one to the next: copies in 16 bits for products, the packed
// weights of expansions. An entry is stale from when a task writes the memory of one of its parameters until it is made
// anew, at its next use or by AdamW as it updates them.
//
// Entries of parameters that are gone do not pile up: memory that is written in other bounds than those of a parameter
// has been given to another tensor, and its entries are dropped. So those that are left belong to disjoint ranges of
// memory which nothing else uses, and hold at most a small multiple of it; Trim and lack of memory drop them all.
#pragma once

#include <array>
#include <atomic>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace sas::cuda {

class CudaContext;

// What is made of parameters, and the type of its elements.
enum class Form : uint8_t { kRounded, kExpandForward, kExpandBackward };
enum class WeightType : uint8_t { kF32, kTf32, kBF16, kF16 };
template <class T>
inline constexpr WeightType kWeightType = WeightType::kTf32;
template <>
inline constexpr WeightType kWeightType<float> = WeightType::kF32;
template <>
inline constexpr WeightType kWeightType<BFloat16> = WeightType::kBF16;
template <>
inline constexpr WeightType kWeightType<Float16> = WeightType::kF16;

struct WeightKey {
  static constexpr size_t kMaxSources = 4;

  std::array<const float*, kMaxSources> sources{};  // distinct; null where there are fewer
  std::array<int64_t, kMaxSources> sizes{};         // of the sources, in elements: whole tensors
  Form form = Form::kRounded;
  WeightType type = WeightType::kF32;
  int64_t taps = 0;  // k of an expansion
  auto operator<=>(const WeightKey&) const = default;
};

// Of the executor thread, except `bytes`.
class WeightCache {
 public:
  struct Entry {
    void* data = nullptr;
    size_t bytes = 0;
    bool fresh = false;      // made of what the parameters hold now
    bool used = false;       // since AdamW made it anew
    uint64_t operation = 0;  // the last that used it
    int64_t items = 0;       // threads that making it anew takes, for expand::Repack
    // The parameters that the operation of this number updates, for UpdatedPacks.
    uint64_t updated_by = 0;
    size_t updated = 0;
  };

  explicit WeightCache(CudaContext& context) : context_(context) {}
  ~WeightCache() { Drop(); }
  WeightCache(const WeightCache&) = delete;
  WeightCache& operator=(const WeightCache&) = delete;

  // *data = what `make(entry)` makes of the parameters in `bytes` of memory, unless it is there. Valid until the
  // running operation ends. Throws as CudaContext::Take.
  template <class Make>
  Status Get(const WeightKey& key, size_t bytes, const Make& make, void** data) {
    Entry& entry = Find(key, bytes);
    if (!entry.fresh) {
      if (Status status = make(entry); !status.ok()) return status;
      entry.fresh = true;
    }
    *data = entry.data;
    return {};
  }

  // For an operation that updates a parameter of `size` elements: a copy in 16 bits that it should write as well and
  // then call Refresh; null if there is none of that type, or none that was used since it was last refreshed.
  Entry* UpdatedCopy(const float* parameter, int64_t size, WeightType type);
  // Adds the packs to `packs` whose last parameter this is: the running operation has called this for all others.
  void UpdatedPacks(const float* parameter, int64_t size, std::vector<std::pair<const WeightKey*, Entry*>>* packs);
  static void Refresh(Entry* entry) {
    entry->fresh = true;
    entry->used = false;
  }

  // A task is about to write this memory.
  void Written(const void* data, size_t bytes) noexcept;
  void EndOperation() { ++operation_; }
  // Gives the memory of all entries back that the running operation does not use; false if there are none.
  bool Drop() noexcept;
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  using Entries = std::map<WeightKey, Entry>;
  // The memory of one parameter. Regions do not overlap.
  struct Region {
    uintptr_t end;
    std::vector<Entries::iterator> entries;
  };
  using Regions = std::map<uintptr_t, Region>;  // by its first byte

  Entry& Find(const WeightKey& key, size_t bytes);
  void Erase(Entries::iterator entry) noexcept;
  Region* Settle(uintptr_t begin, uintptr_t end) noexcept;
  const Region* RegionOf(const float* parameter, int64_t size) const;

  CudaContext& context_;
  Entries entries_;
  Regions regions_;
  uint64_t operation_ = 1;
  std::atomic<size_t> bytes_{0};
};

}  // namespace sas::cuda
