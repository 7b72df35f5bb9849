// What kernels call, handed to the BlockRunner of the thread that runs now.
#include "kernels/cuda/emulator/kernel_thread.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "kernels/cuda/emulator/block_runner.h"

namespace phalanx::kernels::cuda::emulator {

constinit thread_local const ThreadIdentity* current_identity = nullptr;

namespace {

KernelThread& this_thread() {
  // Every identity is that of a KernelThread, of which only the kernel sees it as constant.
  return static_cast<KernelThread&>(const_cast<ThreadIdentity&>(identity()));
}

/// `source` null: zeros.
void issue_copy(void* shared, const void* source) {
  KernelThread& thread = this_thread();
  require_aligned(shared, 16, "cp_async_16 (shared)");
  require_shared(shared, 16, "cp_async_16");
  fill_with_poison(shared, 16);
  thread.copies.push_back({shared, source, thread.num_groups});
}

void finish_copies(KernelThread& thread, uint64_t end_group) {
  const auto covered = [&](const KernelThread::AsyncCopy& copy) { return copy.group < end_group; };
  for (const KernelThread::AsyncCopy& copy : thread.copies) {
    if (!covered(copy)) continue;
    if (copy.source == nullptr) {
      std::memset(copy.target, 0, 16);
    } else {
      std::memcpy(copy.target, copy.source, 16);
    }
  }
  std::erase_if(thread.copies, covered);
}

}  // namespace

void outside_of_kernel() {
  throw InternalError("a function of the device was called outside of a kernel");
}

void fault(FaultKind kind, const std::string& text, const Place& place) {
  KernelThread& thread = this_thread();
  throw KernelFault(kind, thread.block->describe(thread, place) + text);
}

void yield(const char* waits_in, const Place& place) {
  KernelThread& thread = this_thread();
  thread.block->spin(thread, waits_in, place);
}

uint64_t time_ns() {
  const auto since_start = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(since_start).count());
}

int block_barrier(BarrierKind kind, bool predicate, const Place& place) {
  KernelThread& thread = this_thread();
  return thread.block->barrier(thread, kind, predicate, place);
}

void warp_call(uint32_t mask, const WarpFunction& function, void* operand, const Place& place) {
  KernelThread& thread = this_thread();
  thread.block->warp_call(thread, mask, function, operand, place);
}

void* shared_memory_base() { return this_thread().block->shared().base(); }

void require_shared(const void* address, size_t bytes, const char* function) {
  KernelThread& thread = this_thread();
  const SharedMemory& shared = thread.block->shared();
  if (shared.holds(address, bytes)) return;
  const auto offset = static_cast<int64_t>(reinterpret_cast<uintptr_t>(address)) -
                      static_cast<int64_t>(reinterpret_cast<uintptr_t>(shared.base()));
  fault(FaultKind::kSharedOverrun, std::string(function) + ": " + std::to_string(bytes) +
                                       " bytes at offset " + std::to_string(offset) +
                                       " of the shared memory, which has " +
                                       std::to_string(shared.bytes()) + " bytes");
}

void require_aligned(const void* address, size_t alignment, const char* function) {
  const auto past = reinterpret_cast<uintptr_t>(address) % alignment;
  if (past == 0) return;
  fault(FaultKind::kMisaligned, std::string(function) + ": the address is " + std::to_string(past) +
                                    " bytes past a multiple of " + std::to_string(alignment));
}

void copy_async_16(void* shared, const void* source) {
  if (source == nullptr) fault(FaultKind::kBadArgument, "cp_async_16: the source is null");
  require_aligned(source, 16, "cp_async_16 (source)");
  issue_copy(shared, source);
}

void zero_async_16(void* shared) { issue_copy(shared, nullptr); }

void commit_copies() { ++this_thread().num_groups; }

void wait_for_copies(size_t groups) {
  KernelThread& thread = this_thread();
  if (thread.num_groups > groups) finish_copies(thread, thread.num_groups - groups);
}

void wait_for_all_copies() {
  KernelThread& thread = this_thread();
  finish_copies(thread, thread.num_groups + 1);
}

}  // namespace phalanx::kernels::cuda::emulator
