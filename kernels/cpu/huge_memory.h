// Aligned, zeroed memory on 2 MiB pages where it pays: packed weights, arenas, KV pools.
// Called by pack_matrix and by CPU operators' allocate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace phalanx::kernels::cpu {

/// `bytes` of zeroed memory, 64-byte aligned; from 2 MiB up page-aligned to 2 MiB with huge pages
/// advised. Pages are not touched, so the thread that writes first places them. Freed with the last
/// owner. Errors: std::bad_alloc.
std::shared_ptr<std::byte> allocate_zeroed(int64_t bytes);

}  // namespace phalanx::kernels::cpu
