#include "fault_plan.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>

namespace sas::emulator {
namespace {

[[noreturn]] void Reject(const char* variable, const std::string& text) {
  std::fprintf(stderr, "%s: '%s': expected function:N:error, function:N+:error or function:1/N:error\n", variable,
               text.c_str());
  std::exit(2);
}

}  // namespace

FaultPlan::FaultPlan(const char* variable, uint64_t seed, ErrorOf error_of) : variable_(variable), random_(seed) {
  const char* value = std::getenv(variable);
  const std::string plan = value == nullptr ? "" : value;
  for (size_t begin = 0; begin < plan.size();) {
    const size_t end = std::min(plan.find(',', begin), plan.size());
    Add(plan.substr(begin, end - begin), error_of);
    begin = end + 1;
  }
}

void FaultPlan::Report() {
  const std::lock_guard lock(mutex_);
  for (const auto& [function, entry] : entries_) {
    if (entry.calls == 0) std::fprintf(stderr, "%s: %s was never called\n", variable_, function.c_str());
  }
}

void FaultPlan::Add(const std::string& text, ErrorOf error_of) {
  const size_t when = text.find(':'), error = text.rfind(':');
  if (when == std::string::npos || error == when) Reject(variable_, text);
  Entry entry;
  entry.error = error_of(text.substr(error + 1));
  const std::string calls = text.substr(when + 1, error - when - 1);
  char* rest = nullptr;
  entry.first = std::strtoull(calls.c_str(), &rest, 10);
  entry.last = entry.first;
  if (*rest == '+') {
    entry.last = std::numeric_limits<uint64_t>::max();
    ++rest;
  } else if (*rest == '/' && entry.first == 1) {
    entry.odds = std::strtoull(rest + 1, &rest, 10);
    if (entry.odds == 0) Reject(variable_, text);
    entry.first = entry.last = 0;
  }
  if (entry.error < 0 || *rest != '\0' || (entry.first == 0 && entry.odds == 0)) Reject(variable_, text);
  entries_.emplace(text.substr(0, when), entry);
}

std::optional<int> FaultPlan::Count(const char* function) {
  if (entries_.empty()) return std::nullopt;
  const auto [begin, end] = entries_.equal_range(function);
  if (begin == end) return std::nullopt;
  const std::lock_guard lock(mutex_);
  std::optional<int> error;
  for (auto at = begin; at != end; ++at) {
    Entry& entry = at->second;
    ++entry.calls;
    const bool due =
        entry.odds != 0 ? random_() % entry.odds == 0 : entry.calls >= entry.first && entry.calls <= entry.last;
    if (due && !error.has_value()) error = entry.error;
  }
  return error;
}

}  // namespace sas::emulator
