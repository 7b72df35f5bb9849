// The all-reduce as a formula, and numbers whose sum depends on its order. Used by the tests of
// everything that adds over ranks.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace phalanx::parallel {

/// A float of sign and size that only (seed, rank, index) decides. Sizes span 24 powers of two, so
/// that another order of additions gives other bits.
inline float scattered_value(uint64_t seed, int rank, size_t index) {
  uint64_t x = seed * 0x9E3779B97F4A7C15U + static_cast<uint64_t>(rank) * 0xD1B54A32D192ED03U +
               index * 0x8CB92BA72F3D8DD7U;
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93U;
  x ^= x >> 29;
  x *= 0xD6E8FEB86659FD93U;
  x ^= x >> 32;
  const float fraction = static_cast<float>(x & 0xFFFFFF) / 16777216.0F + 1.0F;
  const float size = std::ldexp(fraction, static_cast<int>((x >> 24) % 24) - 12);
  return ((x >> 60) & 1) != 0 ? -size : size;
}

inline std::vector<float> scattered_values(uint64_t seed, int rank, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = scattered_value(seed, rank, i);
  return values;
}

/// The tree over ranks [first, first + num_ranks) at one index.
inline float tree_value(uint64_t seed, int first, int num_ranks, size_t index) {
  if (num_ranks == 1) return scattered_value(seed, first, index);
  const int half = num_ranks / 2;
  return tree_value(seed, first, half, index) + tree_value(seed, first + half, half, index);
}

inline std::vector<float> tree_values(uint64_t seed, int num_ranks, size_t count) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = tree_value(seed, 0, num_ranks, i);
  return values;
}

}  // namespace phalanx::parallel
