// The byte-level alphabet of GPT-2: one printable character for each byte, and back.
// Called by the tokenizer's normalizers, pre-tokenizers and decoders.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace phalanx {

/// The most UTF-8 bytes that one byte becomes.
constexpr size_t kMaxByteLevelBytes = 2;

/// Writes the characters of the bytes of `bytes` to `out`, which has room for kMaxByteLevelBytes
/// each. Returns the number of bytes written.
size_t write_byte_level(char* out, std::string_view bytes);

/// The bytes that the characters of `text` stand for, or nothing when one of them is not of the
/// alphabet.
std::optional<std::string> byte_level_to_bytes(std::string_view text);

}  // namespace phalanx
