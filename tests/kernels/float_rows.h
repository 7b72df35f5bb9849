// Random rows, and their bits to compare. Called by the kernels' tests.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace phalanx::kernels::test {

/// Normally distributed around 0; the same for the same seed.
inline std::vector<float> random_values(size_t count, uint32_t seed, float spread = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

/// Of values of up to 4 bytes.
template <typename T>
std::vector<uint32_t> bits_of(const std::vector<T>& values) {
  static_assert(sizeof(T) <= sizeof(uint32_t));
  std::vector<uint32_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) std::memcpy(&bits[i], &values[i], sizeof(T));
  return bits;
}

/// "" when all bits agree, else where they first differ.
inline std::string first_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return "sizes differ";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i])) continue;
    std::ostringstream text;
    text << "element " << i << " of " << a.size() << ": " << std::hexfloat << a[i] << " against "
         << b[i];
    return text.str();
  }
  return "";
}

}  // namespace phalanx::kernels::test
