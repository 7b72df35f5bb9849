// A 64-bit fingerprint of bytes, for telling engines apart: not cryptographic, fast, the same on
// every machine. Called by the builder (weight files, manifest) and by engine_file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace phalanx::model {

/// Hash of `bytes`, chained after `seed`. Reads 8-byte little-endian words in four interleaved
/// chains; the length is mixed in, so a tail of zeros matters.
uint64_t content_hash(std::span<const std::byte> bytes, uint64_t seed = 0);

/// 16 lower-case hex digits.
std::string hash_text(uint64_t hash);

}  // namespace phalanx::model
