// A 64-bit hash over words and bytes: chains step plans and finds prefix-cache blocks. Used inside
// runtime/scheduler; llm-bench draws its random numbers with mix64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace phalanx {

/// A bijection of 64-bit words in which every input bit reaches every output bit (the finalizer of
/// splitmix64: Steele, Lea, Flood, OOPSLA 2014).
constexpr uint64_t mix64(uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebULL;
  return word ^ (word >> 31);
}

/// `hash` extended by one word. For a fixed hash different words never collide, and the reverse.
constexpr uint64_t hash64_combine(uint64_t hash, uint64_t word) {
  return mix64(hash + 0x9e3779b97f4a7c15ULL + mix64(word));
}

/// `hash` extended by bytes and their number, read as little-endian words (the hosts of one job
/// share their byte order). Not meant to withstand an adversary: whoever needs equality compares.
inline uint64_t hash64_bytes(uint64_t hash, std::span<const std::byte> bytes) {
  const std::byte* next = bytes.data();
  size_t left = bytes.size();
  for (; left >= sizeof(uint64_t); left -= sizeof(uint64_t), next += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, next, sizeof(word));
    hash = mix64(hash ^ word) + 0x9e3779b97f4a7c15ULL;
  }
  uint64_t tail = 0;
  if (left > 0) std::memcpy(&tail, next, left);
  return hash64_combine(hash64_combine(hash, tail), bytes.size());
}

}  // namespace phalanx
