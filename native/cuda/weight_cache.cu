#include "cuda/context.h"
#include "cuda/weight_cache.h"

namespace sas::cuda {
namespace {

uintptr_t Address(const void* data) { return reinterpret_cast<uintptr_t>(data); }
uintptr_t EndOf(const float* data, int64_t size) { return Address(data) + static_cast<size_t>(size) * sizeof(float); }

}  // namespace

WeightCache::Entry& WeightCache::Find(const WeightKey& key, size_t bytes) {
  const auto [at, added] = entries_.try_emplace(key);
  Entry& entry = at->second;
  entry.operation = operation_;
  entry.used = true;
  if (!added) return entry;
  try {
    for (size_t i = 0; i < key.sources.size() && key.sources[i] != nullptr; ++i) {
      const uintptr_t begin = Address(key.sources[i]), end = EndOf(key.sources[i], key.sizes[i]);
      Region* region = Settle(begin, end);
      if (region == nullptr) region = &regions_.emplace(begin, Region{end, {}}).first->second;
      region->entries.push_back(at);
    }
    entry.data = context_.Allocate(bytes);
  } catch (...) {
    Erase(at);
    throw;
  }
  entry.bytes = bytes;
  bytes_.fetch_add(bytes, std::memory_order_relaxed);
  return entry;
}

void WeightCache::Erase(Entries::iterator entry) noexcept {
  for (const float* source : entry->first.sources) {
    const auto region = regions_.find(Address(source));
    if (region == regions_.end()) continue;
    std::erase(region->second.entries, entry);
    if (region->second.entries.empty()) regions_.erase(region);
  }
  // In stream order: kernels already queued finish on the memory.
  if (entry->second.data != nullptr) static_cast<void>(cudaFreeAsync(entry->second.data, context_.stream()));
  bytes_.fetch_sub(entry->second.bytes, std::memory_order_relaxed);
  entries_.erase(entry);
}

// The region with these bounds, or null. Drops the entries of others that overlap: their parameters are gone.
WeightCache::Region* WeightCache::Settle(uintptr_t begin, uintptr_t end) noexcept {
  while (begin < end) {
    auto region = regions_.lower_bound(begin);
    if (region != regions_.begin() && std::prev(region)->second.end > begin) --region;
    if (region == regions_.end() || region->first >= end) break;
    if (region->first == begin && region->second.end == end) return &region->second;
    Erase(region->second.entries.back());  // the last one takes the region with it
  }
  return nullptr;
}

const WeightCache::Region* WeightCache::RegionOf(const float* parameter, int64_t size) const {
  const auto region = regions_.find(Address(parameter));
  return region != regions_.end() && region->second.end == EndOf(parameter, size) ? &region->second : nullptr;
}

void WeightCache::Written(const void* data, size_t bytes) noexcept {
  const Region* region = Settle(Address(data), Address(data) + bytes);
  if (region == nullptr) return;
  for (const auto& entry : region->entries) entry->second.fresh = false;
}

WeightCache::Entry* WeightCache::UpdatedCopy(const float* parameter, int64_t size, WeightType type) {
  const Region* region = RegionOf(parameter, size);
  if (region == nullptr) return nullptr;
  for (const auto& entry : region->entries) {
    if (entry->first.form != Form::kRounded || entry->first.type != type || !entry->second.used) continue;
    entry->second.operation = operation_;
    return &entry->second;
  }
  return nullptr;
}

void WeightCache::UpdatedPacks(const float* parameter, int64_t size,
                               std::vector<std::pair<const WeightKey*, Entry*>>* packs) {
  const Region* region = RegionOf(parameter, size);
  if (region == nullptr) return;
  for (const auto& at : region->entries) {
    const WeightKey& key = at->first;
    Entry& entry = at->second;
    if (key.form == Form::kRounded || !entry.used) continue;
    if (entry.updated_by != operation_) entry.updated = 0;
    entry.updated_by = entry.operation = operation_;
    const bool last = ++entry.updated == key.sources.size() || key.sources[entry.updated] == nullptr;
    if (last) packs->emplace_back(&key, &entry);
  }
}

bool WeightCache::Drop() noexcept {
  bool any = false;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const auto next = std::next(entry);
    if (entry->second.operation != operation_) {
      Erase(entry);
      any = true;
    }
    entry = next;
  }
  return any;
}

}  // namespace sas::cuda
