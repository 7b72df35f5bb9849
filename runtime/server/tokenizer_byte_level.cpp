// The byte-level alphabet of GPT-2: one printable character for each byte, and back.
// Called by the tokenizer's normalizers, pre-tokenizers and decoders.
#include "runtime/server/tokenizer_byte_level.h"

#include <array>
#include <cstdint>

#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

// The printable Latin-1 characters stand for themselves; the other bytes, in order, for U+0100 on.
struct Alphabet {
  std::array<char16_t, 256> character{};
  std::array<int16_t, 0x180> byte{};  // -1: not of the alphabet

  Alphabet() {
    byte.fill(-1);
    char16_t next = 0x100;
    for (int value = 0; value < 256; ++value) {
      const bool printable =
          (value >= '!' && value <= '~') || (value >= 0xA1 && value <= 0xAC) || value >= 0xAE;
      const char16_t c = printable ? static_cast<char16_t>(value) : next++;
      character[static_cast<size_t>(value)] = c;
      byte[c] = static_cast<int16_t>(value);
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

size_t write_byte_level(char* out, std::string_view bytes) {
  const Alphabet& table = alphabet();
  char* end = out;
  for (char byte : bytes) {
    const char16_t c = table.character[static_cast<unsigned char>(byte)];
    if (c < 0x80) {
      *end++ = static_cast<char>(c);
    } else {
      *end++ = static_cast<char>(0xC0 | (c >> 6));
      *end++ = static_cast<char>(0x80 | (c & 0x3F));
    }
  }
  return static_cast<size_t>(end - out);
}

std::optional<std::string> byte_level_to_bytes(std::string_view text) {
  const Alphabet& table = alphabet();
  std::string bytes;
  bytes.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Char c = read_utf8(text, i);
    i += c.num_bytes;
    if (c.code_point >= table.byte.size() || table.byte[c.code_point] < 0) return std::nullopt;
    bytes += static_cast<char>(table.byte[c.code_point]);
  }
  return bytes;
}

}  // namespace phalanx
