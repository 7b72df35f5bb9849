// All memory of a test program, where its host code and the GPU both read and write it: kernels
// take the std::vectors of tests written for the emulated device. Linked by the tests with label
// gpu, instead of the heap and of kernels/cpu/huge_memory.cpp. No .cu: nvcc takes operator new for
// a function of the device too.
//
// One block of managed memory, taken at the first allocation and never more, since a device asked
// for more managed memory than it has may hang. Without a device, or when the block is full, memory
// comes from the heap.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <span>

#include <cuda_runtime.h>

#include "kernels/cpu/huge_memory.h"

namespace phalanx::testing {
namespace {

constexpr size_t kArenaBytes = size_t{2} << 30;
constexpr size_t kAlignment = 256;  // as cudaMalloc's
constexpr int kNumClasses = 32;     // of powers of two

/// Blocks of powers of two, cut from one end, kept in a list of each size when they come back.
class Arena {
 public:
  void* allocate(size_t bytes) {
    const int size_class = class_of(bytes);
    const std::lock_guard lock(mutex_);
    if (!is_tried_ && !is_opening_) open();
    if (base_ == nullptr || size_class >= kNumClasses) return nullptr;
    if (Free* block = free_[size_class]; block != nullptr) {
      free_[size_class] = block->next;
      return block;
    }
    const size_t size = kAlignment << size_class;
    if (kArenaBytes - used_ < size) return nullptr;
    std::byte* block = base_ + used_;
    used_ += size;
    classes_[(block - base_) / kAlignment] = static_cast<uint8_t>(size_class);
    return block;
  }

  bool owns(const void* memory) const {
    const auto* block = static_cast<const std::byte*>(memory);
    return base_ != nullptr && block >= base_ && block < base_ + kArenaBytes;
  }

  void release(void* memory) {
    const std::lock_guard lock(mutex_);
    const int size_class = classes_[(static_cast<std::byte*>(memory) - base_) / kAlignment];
    auto* block = static_cast<Free*>(memory);
    block->next = free_[size_class];
    free_[size_class] = block;
  }

 private:
  struct Free {
    Free* next;
  };

  static int class_of(size_t bytes) {
    int size_class = 0;
    while ((kAlignment << size_class) < bytes && size_class < kNumClasses) ++size_class;
    return size_class;
  }

  void open() {
    is_opening_ = true;  // the runtime may allocate: that comes from the heap
    void* memory = nullptr;
    auto* classes = static_cast<uint8_t*>(std::calloc(kArenaBytes / kAlignment, 1));
    if (classes != nullptr && cudaMallocManaged(&memory, kArenaBytes) == cudaSuccess) {
      classes_ = classes;
      base_ = static_cast<std::byte*>(memory);
    } else {
      (void)cudaGetLastError();
      std::free(classes);
    }
    is_tried_ = true;
    is_opening_ = false;
  }

  std::recursive_mutex mutex_;
  bool is_tried_ = false;
  bool is_opening_ = false;
  std::byte* base_ = nullptr;
  uint8_t* classes_ = nullptr;
  size_t used_ = 0;
  Free* free_[kNumClasses] = {};
};

/// Never destroyed: objects that die later still give memory back.
Arena& arena() {
  alignas(Arena) static std::byte memory[sizeof(Arena)];
  static Arena* const kArena = new (memory) Arena();
  return *kArena;
}

void* allocate(size_t bytes) {
  if (void* block = arena().allocate(bytes); block != nullptr) return block;
  void* block = std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

void release(void* memory) noexcept {
  if (memory == nullptr) return;
  if (arena().owns(memory)) {
    arena().release(memory);
  } else {
    std::free(memory);
  }
}

}  // namespace
}  // namespace phalanx::testing

void* operator new(size_t bytes) { return phalanx::testing::allocate(bytes); }
void* operator new[](size_t bytes) { return phalanx::testing::allocate(bytes); }
void* operator new(size_t bytes, std::align_val_t) { return phalanx::testing::allocate(bytes); }
void* operator new[](size_t bytes, std::align_val_t) { return phalanx::testing::allocate(bytes); }
void operator delete(void* memory) noexcept { phalanx::testing::release(memory); }
void operator delete[](void* memory) noexcept { phalanx::testing::release(memory); }
void operator delete(void* memory, size_t) noexcept { phalanx::testing::release(memory); }
void operator delete[](void* memory, size_t) noexcept { phalanx::testing::release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { phalanx::testing::release(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept {
  phalanx::testing::release(memory);
}
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  phalanx::testing::release(memory);
}
void operator delete[](void* memory, size_t, std::align_val_t) noexcept {
  phalanx::testing::release(memory);
}

namespace phalanx::kernels::cpu {

std::shared_ptr<std::byte> allocate_zeroed(int64_t bytes) {
  auto* memory = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes) + 1));
  std::memset(memory, 0, static_cast<size_t>(bytes));
  return {memory, [](std::byte* owned) { ::operator delete(owned); }};
}

bool interleave(std::byte* /*memory*/, int64_t /*bytes*/, std::span<const int> /*nodes*/) {
  return true;
}

}  // namespace phalanx::kernels::cpu
