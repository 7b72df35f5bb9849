// Multiply-rotate hash over four chains.
#include "runtime/model/content_hash.h"

#include <array>
#include <bit>
#include <cstring>

namespace phalanx::model {

static_assert(std::endian::native == std::endian::little, "words are read as stored");

namespace {

// Odd constants with about half their bits set (from the fractional digits of golden ratio and pi).
constexpr uint64_t kMultiplyWord = 0x9e3779b97f4a7c15ULL;
constexpr uint64_t kMultiplyState = 0xc2b2ae3d27d4eb4fULL;

uint64_t absorb(uint64_t state, uint64_t word) {
  return std::rotl(state ^ (word * kMultiplyWord), 29) * kMultiplyState;
}

uint64_t finish(uint64_t state) {
  state ^= state >> 32;
  state *= kMultiplyWord;
  state ^= state >> 29;
  state *= kMultiplyState;
  return state ^ (state >> 32);
}

}  // namespace

uint64_t content_hash(std::span<const std::byte> bytes, uint64_t seed) {
  std::array<uint64_t, 4> chains = {seed ^ 1, seed ^ 2, seed ^ 3, seed ^ 4};
  const std::byte* next = bytes.data();
  size_t left = bytes.size();
  std::array<uint64_t, 4> words{};
  for (; left >= sizeof(words); left -= sizeof(words), next += sizeof(words)) {
    std::memcpy(words.data(), next, sizeof(words));
    for (size_t i = 0; i < 4; ++i) chains[i] = absorb(chains[i], words[i]);
  }
  words = {};
  if (left > 0) std::memcpy(words.data(), next, left);
  for (size_t i = 0; i < 4; ++i) chains[i] = absorb(chains[i], words[i]);
  uint64_t state = absorb(seed, bytes.size());
  for (uint64_t chain : chains) state = absorb(state, finish(chain));
  return finish(state);
}

std::string hash_text(uint64_t hash) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text(16, '0');
  for (size_t i = 0; i < 16; ++i) text[15 - i] = kDigits[(hash >> (4 * i)) & 0xf];
  return text;
}

}  // namespace phalanx::model
