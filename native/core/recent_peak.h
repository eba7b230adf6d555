// The highest of a quantity in the time that matters for what is kept in reserve.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace sas {

// Of the last kPeriods periods between two waits.
class RecentPeak {
 public:
  static constexpr size_t kPeriods = 64;

  // A period is over in which the quantity was at most `highest`.
  void Add(size_t highest) {
    const size_t forgotten = highest_[next_];
    highest_[next_] = highest;
    next_ = (next_ + 1) % kPeriods;
    if (highest >= peak_) {
      peak_ = highest;
    } else if (forgotten == peak_) {
      peak_ = *std::max_element(highest_.begin(), highest_.end());
    }
  }
  size_t peak() const { return peak_; }

 private:
  std::array<size_t, kPeriods> highest_{};
  size_t next_ = 0;
  size_t peak_ = 0;
};

}  // namespace sas
