// Memory as kernels see it: dynamic shared memory, asynchronous copies into it, system-wide flags,
// and streaming accesses. Included through kernels/cuda/simt.h.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#else
#include "kernels/cuda/emulator/builtins.h"
#endif

namespace phalanx::kernels::cuda {

/// The block's dynamic shared memory, of LaunchShape::shared_bytes, aligned to 128 bytes.
/// Uninitialized (emulated: 0x7fff7fff, which is no number).
template <typename T>
__device__ __forceinline__ T* shared_memory() {
#if defined(__CUDACC__)
  extern __shared__ __align__(128) unsigned char phalanx_dynamic_shared[];
  return reinterpret_cast<T*>(phalanx_dynamic_shared);
#else
  return static_cast<T*>(emulator::shared_memory_base());
#endif
}

#if defined(__CUDACC__)
/// The address in the shared window, as PTX wants it.
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
#endif

/// Starts the copy of 16 bytes from global to shared memory, past L1. Both aligned to 16. The bytes
/// are there for this thread after the cp_async_wait that covers the copy, for others after a
/// __syncthreads beyond.
__device__ __forceinline__ void cp_async_16(void* shared, const void* source) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)),
               "l"(source)
               : "memory");
#else
  emulator::copy_async_16(shared, source);
#endif
}

/// cp_async_16 if `valid`; else the same with zeros, and `source` is not read (but must be a
/// pointer into global memory).
__device__ __forceinline__ void cp_async_16_or_zero(void* shared, const void* source, bool valid) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(source), "r"(valid ? 16 : 0)
               : "memory");
#else
  if (valid) {
    emulator::copy_async_16(shared, source);
  } else {
    emulator::zero_async_16(shared);
  }
#endif
}

/// Closes this thread's group of copies started since the last commit.
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emulator::commit_copies();
#endif
}

/// Waits until at most the kGroups newest committed groups of this thread are outstanding.
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
  static_assert(kGroups >= 0);
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#else
  emulator::wait_for_copies(kGroups);
#endif
}

/// Waits for every copy this thread started, committed or not.
__device__ __forceinline__ void cp_async_wait_all() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_all;" ::: "memory");
#else
  emulator::wait_for_all_copies();
#endif
}

/// A flag that another block, device or process stores; what that thread wrote before its
/// store_release_system is visible after. The way to spin.
__device__ __forceinline__ uint32_t load_acquire_system(const uint32_t* flag) {
#if defined(__CUDACC__)
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
#else
  emulator::require_aligned(flag, sizeof(uint32_t), "load_acquire_system");
  emulator::yield("load_acquire_system");
  return __atomic_load_n(flag, __ATOMIC_ACQUIRE);
#endif
}

/// Publishes what this thread wrote or, after a __syncthreads, its block.
__device__ __forceinline__ void store_release_system(uint32_t* flag, uint32_t value) {
#if defined(__CUDACC__)
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
#else
  emulator::require_aligned(flag, sizeof(uint32_t), "store_release_system");
  __atomic_store_n(flag, value, __ATOMIC_RELEASE);
#endif
}

/// Nanoseconds of a clock that runs on between launches: for deadlines, not for timing (it may move
/// in steps of a microsecond).
__device__ __forceinline__ uint64_t device_time_ns() {
#if defined(__CUDACC__)
  uint64_t time;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
  return time;
#else
  return emulator::time_ns();
#endif
}

/// 16 bytes, aligned to 16, that are read once and that nobody writes while the kernel runs
/// (weights): past the coherent path, and not kept in L1.
__device__ __forceinline__ uint4 load_streaming(const uint4* source) {
#if defined(__CUDACC__)
  uint4 value;
  asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
      : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
      : "l"(source));
  return value;
#else
  emulator::require_aligned(source, 16, "load_streaming");
  return *source;
#endif
}

/// 16 bytes, aligned to 16, that this kernel does not read again: first to leave the caches.
__device__ __forceinline__ void store_streaming(uint4* target, uint4 value) {
#if defined(__CUDACC__)
  __stcs(target, value);
#else
  emulator::require_aligned(target, 16, "store_streaming");
  *target = value;
#endif
}

}  // namespace phalanx::kernels::cuda
