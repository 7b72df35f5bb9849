// Random numbers of a workload: the same on every machine for the same seed, and independent for
// each request, whatever order requests are made in. Used by serve_lengths and serve_workload.
#pragma once

#include <cstdint>

namespace phalanx::bench {

/// A stream of numbers that (seed, purpose, index) decide. Not thread safe.
/// Source: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
class ServeRandom {
 public:
  ServeRandom(uint64_t seed, uint64_t purpose, uint64_t index);

  uint64_t next();
  /// In [0, 1), 53 bits.
  double unit();
  /// In [low, high], all equally likely; low <= high, both of at most 62 bits.
  int64_t integer(int64_t low, int64_t high);
  /// Exponentially distributed with that mean: the gaps between Poisson arrivals.
  double exponential(double mean);
  /// Standard normal (Box-Muller).
  double normal();

 private:
  uint64_t state_;
};

}  // namespace phalanx::bench
