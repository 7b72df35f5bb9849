// UTF-8 reading and writing by code point.
// Called by the tokenizer, the token stream and the chat templates.
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

unsigned char byte_at(std::string_view text, size_t offset) {
  return static_cast<unsigned char>(text[offset]);
}

// Length that a lead byte announces; 0 when it cannot begin a sequence.
size_t sequence_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xC2) return 0;
  if (lead < 0xE0) return 2;
  if (lead < 0xF0) return 3;
  if (lead < 0xF5) return 4;
  return 0;
}

// The second byte is narrower than 80..BF after four leads: overlong forms, surrogates and code
// points above 10FFFF are ill-formed already there.
bool second_byte_fits(unsigned char lead, unsigned char byte) {
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  return byte >= low && byte <= high;
}

bool is_continuation(unsigned char byte) { return (byte & 0xC0U) == 0x80U; }

// Length of the well-formed sequence at offset, 0 when it is ill-formed.
size_t well_formed_length(std::string_view text, size_t offset) {
  const unsigned char lead = byte_at(text, offset);
  const size_t length = sequence_length(lead);
  if (length <= 1) return length;
  if (length > text.size() - offset) return 0;
  if (!second_byte_fits(lead, byte_at(text, offset + 1))) return 0;
  for (size_t i = 2; i < length; ++i)
    if (!is_continuation(byte_at(text, offset + i))) return 0;
  return length;
}

}  // namespace

Utf8Char read_utf8(std::string_view text, size_t offset) {
  const unsigned char lead = byte_at(text, offset);
  if (lead < 0x80) return {lead, 1};
  const size_t length = well_formed_length(text, offset);
  if (length == 0) return {0xFFFD, 1};
  char32_t code_point = lead & (0x7FU >> length);
  for (size_t i = 1; i < length; ++i)
    code_point = (code_point << 6) | (byte_at(text, offset + i) & 0x3FU);
  return {code_point, length};
}

void append_utf8(std::string& text, char32_t code_point) {
  if (code_point < 0x80) {
    text += static_cast<char>(code_point);
  } else if (code_point < 0x800) {
    text += static_cast<char>(0xC0 | (code_point >> 6));
    text += static_cast<char>(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    text += static_cast<char>(0xE0 | (code_point >> 12));
    text += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (code_point & 0x3F));
  } else {
    text += static_cast<char>(0xF0 | (code_point >> 18));
    text += static_cast<char>(0x80 | ((code_point >> 12) & 0x3F));
    text += static_cast<char>(0x80 | ((code_point >> 6) & 0x3F));
    text += static_cast<char>(0x80 | (code_point & 0x3F));
  }
}

std::optional<size_t> find_ill_formed_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (byte_at(text, i) < 0x80) {
      ++i;
      continue;
    }
    const size_t length = well_formed_length(text, i);
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (char c : text) count += is_continuation(static_cast<unsigned char>(c)) ? 0 : 1;
  return count;
}

size_t code_point_offset(std::string_view text, size_t index) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (is_continuation(byte_at(text, i))) continue;
    if (index == 0) return i;
    --index;
  }
  return text.size();
}

void Utf8Assembler::replace_pending(std::string& out) {
  const size_t count = on_error_ == OnError::kOnePerByte ? num_pending_ : 1;
  for (size_t i = 0; i < count; ++i) out += kReplacementCharacter;
  num_pending_ = 0;
}

void Utf8Assembler::push_byte(unsigned char byte, std::string& out) {
  if (num_pending_ > 0) {
    const bool fits = num_pending_ == 1
                          ? second_byte_fits(static_cast<unsigned char>(pending_[0]), byte)
                          : is_continuation(byte);
    if (fits) {
      pending_[num_pending_++] = static_cast<char>(byte);
      if (num_pending_ == num_expected_) {
        out.append(pending_, num_pending_);
        num_pending_ = 0;
      }
      return;
    }
    replace_pending(out);
  }
  num_expected_ = sequence_length(byte);
  if (num_expected_ == 1) {
    out += static_cast<char>(byte);
  } else if (num_expected_ == 0) {
    out += kReplacementCharacter;
  } else {
    pending_[num_pending_++] = static_cast<char>(byte);
  }
}

void Utf8Assembler::push(std::string_view bytes, std::string& out) {
  for (char c : bytes) push_byte(static_cast<unsigned char>(c), out);
}

void Utf8Assembler::finish(std::string& out) {
  if (num_pending_ > 0) replace_pending(out);
}

}  // namespace phalanx
