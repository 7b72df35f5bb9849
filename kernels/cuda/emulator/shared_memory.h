// A block's dynamic shared memory: exactly as large as asked for, poisoned, with guards that show
// overruns. Owned by a BlockRunner.
#pragma once

#include <cstddef>
#include <memory>

namespace phalanx::kernels::cuda::emulator {

class SharedMemory {
 public:
  /// What a block begins with: `bytes` of poison. Keeps the allocation when the size is the same.
  void begin_block(size_t bytes);
  /// Whether the guards are as begin_block left them. AddressSanitizer sees more: under it there
  /// are no guards, since the memory ends where the allocation ends.
  bool guards_intact() const;

  void* base() const { return base_; }
  size_t bytes() const { return bytes_; }
  bool holds(const void* address, size_t bytes) const;

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::byte* base_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace phalanx::kernels::cuda::emulator
