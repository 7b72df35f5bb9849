// The counter-based random generator behind sampling. Called by the samplers of CPU and GPU.
#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace phalanx::kernels {

struct PhiloxWords {
  uint32_t words[4];
  bool operator==(const PhiloxWords&) const = default;
};

/// Philox4x32-10: ten rounds over a 128-bit counter under a 64-bit key. Any (key, counter) is
/// reached at the same cost, so a draw depends on nothing but them.
/// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
PHALANX_HOST_DEVICE constexpr PhiloxWords philox4x32_10(const PhiloxWords& counter, uint32_t key0,
                                                        uint32_t key1) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53;
  constexpr uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9;
  constexpr uint32_t kWeyl1 = 0xBB67AE85;
  PhiloxWords x = counter;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * x.words[0];
    const uint64_t product1 = kMultiplier1 * x.words[2];
    x = {{static_cast<uint32_t>(product1 >> 32) ^ x.words[1] ^ key0,
          static_cast<uint32_t>(product1),
          static_cast<uint32_t>(product0 >> 32) ^ x.words[3] ^ key1,
          static_cast<uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return x;
}

/// 24 uniform bits from (seed, position).
PHALANX_HOST_DEVICE constexpr uint32_t counter_bits(uint64_t seed, uint64_t position) {
  const PhiloxWords counter{
      {static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0}};
  return philox4x32_10(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32))
             .words[0] >>
         8;
}

}  // namespace phalanx::kernels
