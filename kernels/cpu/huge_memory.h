// Aligned, zeroed memory on 2 MiB pages where it pays: packed weights, arenas, KV pools; and which
// NUMA nodes it lies on. Called by pack_matrix and by CPU operators' allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace phalanx::kernels::cpu {

/// `bytes` of zeroed memory, 64-byte aligned; from 2 MiB up page-aligned to 2 MiB with huge pages
/// advised. Pages are not touched, so the thread that writes first places them. Freed with the last
/// owner. Errors: std::bad_alloc.
std::shared_ptr<std::byte> allocate_zeroed(int64_t bytes);

/// Asks the kernel to lay the untouched pages of `memory` on the NUMA nodes by turns; of memory too
/// small for pages of its own nothing is asked. False when the kernel refuses (containers may have
/// to): then pages lie where they are touched first. Nothing but speed depends on it.
bool interleave(std::byte* memory, int64_t bytes, std::span<const int> nodes);

}  // namespace phalanx::kernels::cpu
