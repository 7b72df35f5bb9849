// SplitMix64 and the distributions over it, spelled out because the standard library's differ
// between implementations.
#include "launcher/bench/serve_random.h"

#include <cmath>
#include <numbers>

#include "runtime/scheduler/hash64.h"

namespace phalanx::bench {
namespace {

constexpr uint64_t kGamma = 0x9e3779b97f4a7c15ULL;

}  // namespace

ServeRandom::ServeRandom(uint64_t seed, uint64_t purpose, uint64_t index)
    : state_(mix64(mix64(mix64(seed + kGamma) + purpose + kGamma) + index + kGamma)) {}

uint64_t ServeRandom::next() {
  state_ += kGamma;
  return mix64(state_);
}

double ServeRandom::unit() { return static_cast<double>(next() >> 11U) * 0x1p-53; }

int64_t ServeRandom::integer(int64_t low, int64_t high) {
  // A remainder's bias is below 2^-32 for the ranges of lengths and token ids.
  const auto count = static_cast<uint64_t>(high - low) + 1;
  return low + static_cast<int64_t>(next() % count);
}

double ServeRandom::exponential(double mean) { return -mean * std::log1p(-unit()); }

double ServeRandom::normal() {
  const double radius = std::sqrt(-2 * std::log1p(-unit()));
  return radius * std::cos(2 * std::numbers::pi * unit());
}

}  // namespace phalanx::bench
