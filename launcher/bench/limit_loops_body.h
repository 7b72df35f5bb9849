// The read loop, written once for every vector width. Included by limit_loops_*.cpp, each compiled
// with its tier's flags; everything has internal linkage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace phalanx::bench {
namespace {

template <int kBytes>
struct VectorOf;
template <>
struct VectorOf<16> {
  using Type = uint64_t __attribute__((vector_size(16)));
};
template <>
struct VectorOf<32> {
  using Type = uint64_t __attribute__((vector_size(32)));
};
template <>
struct VectorOf<64> {
  using Type = uint64_t __attribute__((vector_size(64)));
};

/// kBytes: of a vector register. Eight accumulators hide the latency of the or.
template <int kBytes>
struct ReadLoop {
  using Vector = typename VectorOf<kBytes>::Type;
  static constexpr int64_t kStep = 512;  // bytes a turn
  static constexpr int64_t kLineBytes = 64;

  template <bool kPrefetch>
  static void walk(const std::byte* data, int64_t bytes, int64_t ahead, Vector (&sums)[8]) {
    for (const std::byte *p = data, *end = data + bytes; p != end; p += kStep) {
      if constexpr (kPrefetch) {
        for (int64_t line = 0; line < kStep; line += kLineBytes)
          __builtin_prefetch(p + line + ahead);
      }
#pragma GCC unroll 32
      for (int64_t i = 0; i < kStep / kBytes; ++i) {
        Vector loaded;
        std::memcpy(&loaded, p + i * kBytes, sizeof(loaded));
        sums[i % 8] |= loaded;
      }
    }
  }

  static uint64_t read(const std::byte* data, int64_t bytes, int64_t repeats,
                       int64_t prefetch_bytes) {
    Vector sums[8] = {};
    for (int64_t i = 0; i < repeats; ++i) {
      if (prefetch_bytes > 0) {
        walk<true>(data, bytes, prefetch_bytes, sums);
      } else {
        walk<false>(data, bytes, 0, sums);
      }
      asm volatile("" ::: "memory");  // the next walk reads again
    }
    uint64_t all = 0;
    for (const Vector& sum : sums) {
      for (size_t i = 0; i < sizeof(Vector) / sizeof(uint64_t); ++i) all |= sum[i];
    }
    return all;
  }
};

}  // namespace
}  // namespace phalanx::bench
