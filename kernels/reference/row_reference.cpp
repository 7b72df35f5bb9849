// The oracle's row operators. Called by reference_operators and attention_reference.
#include "kernels/reference/row_reference.h"

#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>

namespace phalanx::kernels::reference {

float sum_of_squares(const float* x, int64_t num_cols) {
  float lanes[16] = {};
  for (int64_t k = 0; k < num_cols; ++k) lanes[k % 16] = std::fma(x[k], x[k], lanes[k % 16]);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

void rms_norm(const float* x, const float* weight, float eps, int64_t num_cols, float* y) {
  const float mean = sum_of_squares(x, num_cols) / static_cast<float>(num_cols);
  const float inverse = 1.0F / std::sqrt(mean + eps);
  for (int64_t k = 0; k < num_cols; ++k) y[k] = (x[k] * inverse) * weight[k];
}

float exp(float x) {
  if (std::isnan(x)) return x;
  if (x <= -0x1.5d58ap+6F) return 0.0F;
  if (x > 0x1.62e42ep+6F) return std::numeric_limits<float>::infinity();
  constexpr float kRounder = 0x1.8p+23F;
  const float n = std::fma(x, 0x1.715476p+0F, kRounder) - kRounder;
  float r = std::fma(n, -0x1.62e43p-1F, x);
  r = std::fma(n, 0x1.05c61p-29F, r);
  float p = 0x1.6a241ep-10F;
  for (const float c :
       {0x1.1239e6p-7F, 0x1.5558f2p-5F, 0x1.555492p-3F, 0x1.fffffcp-2F, 1.0F, 1.0F}) {
    p = std::fma(p, r, c);
  }
  return std::ldexp(p, static_cast<int>(n));
}

float silu(float x) { return x / (1.0F + exp(-x)); }

}  // namespace phalanx::kernels::reference
