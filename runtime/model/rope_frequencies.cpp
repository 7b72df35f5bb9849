// Inverse rotary frequencies of each rope type, in double.
#include <cmath>
#include <numbers>

#include "runtime/base/check.h"
#include "runtime/model/engine_file.h"

namespace phalanx::model {

namespace {

/// Llama 3.1: long waves are stretched by `factor`, short ones kept, and between the two
/// wavelengths the stretch is interpolated linearly in (original length / wavelength).
double llama3_scaled(double frequency, const engine::Rope& rope) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings());
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < original / rope.high_freq_factor()) return frequency;
  if (wavelength > original / rope.low_freq_factor()) return frequency / rope.factor();
  const double smooth = (original / wavelength - rope.low_freq_factor()) /
                        (rope.high_freq_factor() - rope.low_freq_factor());
  return (1 - smooth) * frequency / rope.factor() + smooth * frequency;
}

}  // namespace

std::vector<double> rope_inverse_frequencies(const engine::Rope& rope) {
  const int64_t half = rope.rotary_dim() / 2;
  PHALANX_CHECK(half > 0 && rope.rotary_dim() % 2 == 0, "rotary_dim must be even");
  PHALANX_CHECK(rope.theta() > 0, "rope theta must be positive");
  std::vector<double> frequencies(static_cast<size_t>(half));
  for (int64_t i = 0; i < half; ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(rope.rotary_dim());
    double frequency = 1.0 / std::pow(rope.theta(), exponent);
    switch (rope.type()) {
      case engine::Rope::DEFAULT:
        break;
      case engine::Rope::LINEAR:
        frequency /= rope.factor();
        break;
      case engine::Rope::LLAMA3:
        frequency = llama3_scaled(frequency, rope);
        break;
      case engine::Rope_Type_Rope_Type_INT_MIN_SENTINEL_DO_NOT_USE_:
      case engine::Rope_Type_Rope_Type_INT_MAX_SENTINEL_DO_NOT_USE_:
        PHALANX_CHECK(false, "rope type " + std::to_string(rope.type()));
    }
    frequencies[static_cast<size_t>(i)] = frequency;
  }
  return frequencies;
}

}  // namespace phalanx::model
