// A plan of failures, read from a variable: which calls of which functions fail, and how.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace sas::emulator {

// "function:when:error,...", where `when` is
//   N     the N-th call, counted from 1
//   N+    the N-th and every later one
//   1/N   each with this probability, drawn from the seed
// A plan that cannot be read ends the process: a misspelt one would let a test pass.
class FaultPlan {
 public:
  // The error called `name`, or -1.
  using ErrorOf = int (*)(const std::string& name);
  FaultPlan(const char* variable, uint64_t seed, ErrorOf error_of);
  // At the end of the process: tells on stderr of functions that were never called, misspelt perhaps.
  void Report();

  // Counts a call of `function`: the error that it fails with, if it does. Any thread.
  std::optional<int> Count(const char* function);

 private:
  struct Entry {
    uint64_t first = 0, last = 0;  // calls; 0: by chance
    uint64_t odds = 0;             // one in so many
    uint64_t calls = 0;
    int error = 0;
  };
  void Add(const std::string& text, ErrorOf error_of);

  const char* variable_;
  std::multimap<std::string, Entry> entries_;  // never changes in shape
  std::mutex mutex_;                           // guards the counts and the generator
  std::mt19937_64 random_;
};

}  // namespace sas::emulator
