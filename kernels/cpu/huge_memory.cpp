// mmap with MADV_HUGEPAGE for big blocks, the heap for small ones. Called by the CPU backend.
#include "kernels/cpu/huge_memory.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "runtime/base/check.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kPageBytes = 4096;
constexpr size_t kLineBytes = 64;

size_t round_up(size_t value, size_t to) { return (value + to - 1) / to * to; }

}  // namespace

std::shared_ptr<std::byte> allocate_zeroed(int64_t bytes) {
  PHALANX_CHECK_GE(bytes, 0, "bytes to allocate");
  const auto size = static_cast<size_t>(bytes);
  if (size < kHugePageBytes) {
    const size_t rounded = round_up(size == 0 ? 1 : size, kLineBytes);
    void* memory = std::aligned_alloc(kLineBytes, rounded);
    if (memory == nullptr) throw std::bad_alloc();
    std::memset(memory, 0, rounded);
    return {static_cast<std::byte*>(memory), [](std::byte* p) { std::free(p); }};
  }
  // A mapping one huge page too long is cut to the aligned part.
  const size_t length = round_up(size, kPageBytes);
  void* mapping = mmap(nullptr, length + kHugePageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  auto* start = static_cast<std::byte*>(mapping);
  const size_t head = round_up(reinterpret_cast<uintptr_t>(start), kHugePageBytes) -
                      reinterpret_cast<uintptr_t>(start);
  if (head > 0) munmap(start, head);
  if (head < kHugePageBytes) munmap(start + head + length, kHugePageBytes - head);
  start += head;
  madvise(start, length, MADV_HUGEPAGE);  // advice only: a refusal costs speed, not bits
  return {start, [length](std::byte* p) { munmap(p, length); }};
}

bool interleave(std::byte* memory, int64_t bytes, std::span<const int> nodes) {
  if (bytes < static_cast<int64_t>(kHugePageBytes) || nodes.empty()) return true;
  constexpr size_t kBits = sizeof(unsigned long) * CHAR_BIT;
  const auto highest = static_cast<size_t>(*std::max_element(nodes.begin(), nodes.end()));
  std::vector<unsigned long> mask(highest / kBits + 1, 0);
  for (const int node : nodes) {
    PHALANX_CHECK_GE(node, 0, "a NUMA node");
    mask[static_cast<size_t>(node) / kBits] |= 1UL << static_cast<size_t>(node) % kBits;
  }
  // The kernel reads one bit less than it is told.
  return syscall(SYS_mbind, memory, round_up(static_cast<size_t>(bytes), kPageBytes),
                 MPOL_INTERLEAVE, mask.data(), mask.size() * kBits + 1, 0U) == 0;
}

}  // namespace phalanx::kernels::cpu
