// Shared memory of emulated blocks. Used by block_runner.cpp.
#include "kernels/cuda/emulator/shared_memory.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>

#include "kernels/cuda/emulator/kernel_thread.h"

namespace phalanx::kernels::cuda::emulator {

namespace {

constexpr std::align_val_t kAlignment{128};  // what the strictest unit (TMA) wants
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kGuardBytes = 0;
#else
constexpr size_t kGuardBytes = 1024;
#endif
constexpr std::byte kGuard{0xa5};

bool is_guard(const std::byte* begin) {
  return std::all_of(begin, begin + kGuardBytes, [](std::byte byte) { return byte == kGuard; });
}

}  // namespace

void fill_with_poison(void* address, size_t bytes) {
  auto* target = static_cast<std::byte*>(address);
  const uint32_t poison = kPoison;
  for (size_t i = 0; i < bytes; i += sizeof(poison))
    std::memcpy(target + i, &poison, std::min(sizeof(poison), bytes - i));
}

void SharedMemory::Free::operator()(std::byte* memory) const {
  ::operator delete(memory, kAlignment);
}

void SharedMemory::begin_block(size_t bytes) {
  if (base_ == nullptr || bytes != bytes_) {
    memory_.reset(
        static_cast<std::byte*>(::operator new(kGuardBytes + bytes + kGuardBytes, kAlignment)));
    base_ = memory_.get() + kGuardBytes;
    bytes_ = bytes;
  }
  fill_with_poison(base_, bytes_);
  std::fill_n(memory_.get(), kGuardBytes, kGuard);
  std::fill_n(base_ + bytes_, kGuardBytes, kGuard);
}

bool SharedMemory::guards_intact() const {
  return is_guard(memory_.get()) && is_guard(base_ + bytes_);
}

bool SharedMemory::holds(const void* address, size_t bytes) const {
  const auto begin = reinterpret_cast<uintptr_t>(base_);
  const auto wanted = reinterpret_cast<uintptr_t>(address);
  return wanted >= begin && wanted - begin <= bytes_ && bytes <= bytes_ - (wanted - begin);
}

}  // namespace phalanx::kernels::cuda::emulator
