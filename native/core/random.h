// Counter-based random numbers: element i of (seed, stream) depends on nothing else, so every device and every number
// of threads gives the same tensor. Philox 4x32-10 (Salmon et al. 2011); doubles and libm so that no instruction set
// matters.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/params.h"

// One source for the host and for CUDA kernels.
#ifdef __CUDACC__
#define SAS_HOST_DEVICE __host__ __device__
#else
#define SAS_HOST_DEVICE
#endif

namespace sas {

struct RandomBits {
  uint32_t word[4];
};

SAS_HOST_DEVICE inline RandomBits Philox(uint64_t seed, uint64_t stream, uint64_t counter) {
  RandomBits x{{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), static_cast<uint32_t>(stream),
                static_cast<uint32_t>(stream >> 32)}};
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * x.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * x.word[2];
    x = {{static_cast<uint32_t>(product1 >> 32) ^ x.word[1] ^ key0, static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ x.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return x;
}

// [0, 1), 53 bits.
SAS_HOST_DEVICE inline double UnitInterval(uint32_t high, uint32_t low) {
  return static_cast<double>((uint64_t{high} << 32 | low) >> 11) * 0x1p-53;
}

struct RandomValues {
  double value[2];
};

// Elements 2 * pair and 2 * pair + 1, before scaling.
SAS_HOST_DEVICE inline RandomValues RandomPair(Distribution distribution, uint64_t seed, uint64_t stream,
                                               uint64_t pair) {
  const RandomBits bits = Philox(seed, stream, pair);
  const double u = UnitInterval(bits.word[0], bits.word[1]), v = UnitInterval(bits.word[2], bits.word[3]);
  if (distribution == Distribution::kUniform) return {{2 * u - 1, 2 * v - 1}};
  const double radius = std::sqrt(-2 * std::log(1 - u));  // Box-Muller; 1 - u is never 0
  double sine, cosine;
#ifdef __CUDA_ARCH__
  sincospi(2 * v, &sine, &cosine);  // without the reduction of large angles, which takes local memory
#else
  const double angle = 2 * 3.14159265358979323846 * v;
  sine = std::sin(angle);
  cosine = std::cos(angle);
#endif
  return {{radius * cosine, radius * sine}};
}

}  // namespace sas
