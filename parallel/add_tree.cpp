// Adds float arrays as a binary tree, with the widest vectors the processor has. Called by the
// all-reduces.
#include "parallel/add_tree.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

/// Sixteen lanes; the compiler makes of it what the function's target has. Each lane is a tree of
/// its own, so the width of the machine's vectors cannot change a bit.
using Lanes [[gnu::vector_size(64)]] = float;
constexpr size_t kNumLanes = sizeof(Lanes) / sizeof(float);

template <int kSources>
[[gnu::always_inline]] inline Lanes tree_lanes(const float* const* sources, size_t i) {
  if constexpr (kSources == 1) {
    Lanes lanes;
    std::memcpy(&lanes, sources[0] + i, sizeof(lanes));
    return lanes;
  } else {
    return tree_lanes<kSources / 2>(sources, i) +
           tree_lanes<kSources / 2>(sources + kSources / 2, i);
  }
}

template <int kSources>
[[gnu::always_inline]] inline float tree_scalar(const float* const* sources, size_t i) {
  if constexpr (kSources == 1) {
    return sources[0][i];
  } else {
    return tree_scalar<kSources / 2>(sources, i) +
           tree_scalar<kSources / 2>(sources + kSources / 2, i);
  }
}

template <int kSources>
[[gnu::always_inline]] inline void add_fixed(const float* const* sources, float* out,
                                             size_t count) {
  const float* own[kSources];  // a local copy, which stores to `out` cannot change
  std::copy_n(sources, kSources, own);
  size_t i = 0;
  for (; i + kNumLanes <= count; i += kNumLanes) {
    const Lanes sum = tree_lanes<kSources>(own, i);
    std::memcpy(out + i, &sum, sizeof(sum));
  }
  for (; i < count; ++i) out[i] = tree_scalar<kSources>(own, i);
}

[[gnu::always_inline]] inline void add_small(const float* const* sources, size_t num_sources,
                                             float* out, size_t count) {
  if (num_sources == 2) {
    add_fixed<2>(sources, out, count);
  } else if (num_sources == 4) {
    add_fixed<4>(sources, out, count);
  } else {
    add_fixed<8>(sources, out, count);
  }
}

using AddSmall = void (*)(const float* const*, size_t, float*, size_t);

void add_small_portable(const float* const* sources, size_t num_sources, float* out, size_t count) {
  add_small(sources, num_sources, out, count);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void add_small_avx2(const float* const* sources, size_t num_sources,
                                            float* out, size_t count) {
  add_small(sources, num_sources, out, count);
}

[[gnu::target("avx512f")]] void add_small_avx512(const float* const* sources, size_t num_sources,
                                                 float* out, size_t count) {
  add_small(sources, num_sources, out, count);
}

AddSmall choose_add_small() {
  if (__builtin_cpu_supports("avx512f")) return add_small_avx512;
  if (__builtin_cpu_supports("avx2")) return add_small_avx2;
  return add_small_portable;
}
#else
AddSmall choose_add_small() { return add_small_portable; }
#endif

constexpr size_t kMaxFixedSources = 8;
constexpr size_t kBlockFloats = 512;  // of the temporary sums of wider trees: 2 KiB, in L1

}  // namespace

void add_tree(std::span<const float* const> sources, float* out, size_t count) {
  static const AddSmall add = choose_add_small();
  const size_t num_sources = sources.size();
  PHALANX_CHECK(num_sources >= 2 && std::has_single_bit(num_sources),
                "a tree over a number of sources that is not a power of two");
  if (num_sources <= kMaxFixedSources) {
    add(sources.data(), num_sources, out, count);
    return;
  }
  // Wider than the unrolled trees: both halves, block by block so that they stay in cache. The left
  // sum does not go to `out` before the right one is made, as `out` may be a source of it.
  const size_t half = num_sources / 2;
  std::array<float, kBlockFloats> left;
  std::array<float, kBlockFloats> right;
  std::array<const float*, 1024> moved;
  PHALANX_CHECK_LE(num_sources, moved.size(), "a tree that wide");
  for (size_t begin = 0; begin < count; begin += kBlockFloats) {
    const size_t length = std::min(kBlockFloats, count - begin);
    for (size_t s = 0; s < num_sources; ++s) moved[s] = sources[s] + begin;
    add_tree(std::span(moved.data(), half), left.data(), length);
    add_tree(std::span(moved.data() + half, half), right.data(), length);
    const float* halves[2] = {left.data(), right.data()};
    add(halves, 2, out + begin, length);
  }
}

}  // namespace phalanx::parallel
