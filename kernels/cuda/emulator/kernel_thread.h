// What a kernel thread may ask of the emulated device: who am I, barriers, warp functions, shared
// memory, asynchronous copies. Called by the emulated CUDA builtins and wrappers, in kernels only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels/cuda/emulator/device.h"
#include "kernels/cuda/emulator/vector_types.h"

namespace phalanx::kernels::cuda::emulator {

/// Where in a kernel's source a call stands: a default argument of what kernels call.
struct Place {
  const char* file = nullptr;
  int line = 0;
  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

struct ThreadIdentity {
  uint3 thread_index;
  uint3 block_index;
  dim3 block_dim;
  dim3 grid_dim;
  uint32_t linear_index;  ///< of the thread in its block; x runs fastest, as in CUDA
};

/// The kernel thread that this OS thread runs now; null outside of kernels.
extern constinit thread_local const ThreadIdentity* current_identity;

[[noreturn]] void outside_of_kernel();

inline const ThreadIdentity& identity() {
  if (current_identity == nullptr) [[unlikely]]
    outside_of_kernel();
  return *current_identity;
}
inline uint32_t lane_index() { return identity().linear_index % 32; }

/// Ends the launch with a KernelFault of this thread: "kernel k, block .., thread ..: <text>".
[[noreturn]] void fault(FaultKind kind, const std::string& text, const Place& place = {});

/// Lets the other threads of the block run, as one that waits for somebody's store must.
void yield(const char* waits_in, const Place& place = {});

/// The device's clock.
uint64_t time_ns();

enum class BarrierKind : uint8_t { kPlain, kOr, kAnd, kCount };
/// Waits for all threads of the block that have not returned; the result over their predicates.
int block_barrier(BarrierKind kind, bool predicate, const Place& place);

/// A function that lanes of a warp execute together. The lanes named in a mask wait for one another
/// with an operand each; the last one lets `complete` compute the results into the operands.
struct WarpFunction {
  const char* name;
  /// `operands[lane]` for the lanes in `present`; the others are null.
  void (*complete)(void* const operands[32], uint32_t present);
  /// Whether a lane in the mask that has returned is a mistake; else it counts as absent. Lanes
  /// that a ragged block never had are absent in either case.
  bool needs_live_lanes;
  /// Whether all 32 lanes must be there (.sync.aligned of the matrix instructions).
  bool needs_whole_warp;
};
void warp_call(uint32_t mask, const WarpFunction& function, void* operand, const Place& place);

/// The block's dynamic shared memory; filled with kPoison when the block begins.
void* shared_memory_base();

/// Faults unless [address, address + bytes) lies in the block's shared memory.
void require_shared(const void* address, size_t bytes, const char* function);
/// Faults unless address is a multiple of `alignment`.
void require_aligned(const void* address, size_t alignment, const char* function);

/// Not a number as f32, bf16, f16 (0x7fff) and e4m3 (0xff, 0x7f).
inline constexpr uint32_t kPoison = 0x7fff7fffU;
void fill_with_poison(void* address, size_t bytes);

/// cp.async of 16 bytes: the destination is poison until the wait that covers it, when the source
/// is read. A copy that is never waited for never happens.
void copy_async_16(void* shared, const void* source);
/// The same with zeros instead of a source.
void zero_async_16(void* shared);
void commit_copies();
/// Until at most `groups` committed groups are outstanding.
void wait_for_copies(size_t groups);
/// Every copy issued, committed or not.
void wait_for_all_copies();

}  // namespace phalanx::kernels::cuda::emulator
