// Counter-based random numbers: element i of (seed, stream) depends on nothing else, so every device and every number
// of threads gives the same tensor. Philox 4x32-10 (Salmon et al. 2011); doubles and libm so that no instruction set
// matters.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "core/params.h"

namespace sas {

inline std::array<uint32_t, 4> Philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  std::array<uint32_t, 4> x{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                            static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * x[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * x[2];
    x = {static_cast<uint32_t>(product1 >> 32) ^ x[1] ^ key0, static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ x[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}

// Elements 2 * pair and 2 * pair + 1, before scaling.
inline std::array<double, 2> RandomPair(Distribution distribution, uint64_t seed, uint64_t stream, uint64_t pair) {
  const auto bits = Philox(seed, stream, pair);
  const auto unit = [](uint32_t high, uint32_t low) {  // [0, 1), 53 bits
    return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
  };
  const double u = unit(bits[0], bits[1]), v = unit(bits[2], bits[3]);
  if (distribution == Distribution::kUniform) return {2 * u - 1, 2 * v - 1};
  const double radius = std::sqrt(-2 * std::log(1 - u));  // Box-Muller; 1 - u is never 0
  const double angle = 2 * 3.14159265358979323846 * v;
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

}  // namespace sas
