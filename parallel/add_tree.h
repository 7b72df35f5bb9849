// The sum of the collectives: float32, in the order of a binary tree over its sources. Used by the
// shared-memory reducer and for what comes from other hosts.
#pragma once

#include <cstddef>
#include <span>

namespace phalanx::parallel {

/// out[i] = ((s0[i] + s1[i]) + (s2[i] + s3[i])) + ... for i < count. sources.size() is a power of
/// two, at least 2. `out` may be one of the sources (the same address) and else overlaps none.
/// Cost: memory-bound, (sources + 1) * count elements.
void add_tree(std::span<const float* const> sources, float* out, size_t count);

}  // namespace phalanx::parallel
