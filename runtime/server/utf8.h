// UTF-8 reading and writing by code point: validation, decoding, the lossy assembler for streams.
// Called by the tokenizer, the token stream and the chat templates.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace phalanx {

/// One code point and how many bytes of the text it takes (1 to 4).
struct Utf8Char {
  char32_t code_point = 0;
  size_t num_bytes = 1;
};

/// The code point that begins at byte `offset` of well-formed UTF-8. Never reads past the end; on
/// ill-formed text it returns U+FFFD and one byte, so a loop over any bytes ends.
Utf8Char read_utf8(std::string_view text, size_t offset);

/// Appends the UTF-8 of `code_point` (below 0x110000, not a surrogate).
void append_utf8(std::string& text, char32_t code_point);

/// Byte offset of the first ill-formed sequence (Unicode table 3-7), or nothing.
std::optional<size_t> find_ill_formed_utf8(std::string_view text);

/// Number of code points of well-formed UTF-8.
size_t count_code_points(std::string_view text);

/// Byte offset of code point `index` (the size of the text when there are fewer).
size_t code_point_offset(std::string_view text, size_t index);

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// Turns a stream of bytes into well-formed UTF-8. Not thread safe.
class Utf8Assembler {
 public:
  enum class OnError {
    kOnePerSubpart,  ///< one U+FFFD for each maximal ill-formed subpart, as the WHATWG decoder does
    kOnePerByte,     ///< one U+FFFD for each ill-formed byte
  };
  explicit Utf8Assembler(OnError on_error) : on_error_(on_error) {}

  /// Appends to `out` what is complete after these bytes. An unfinished sequence (at most three
  /// bytes) waits for the next call.
  void push(std::string_view bytes, std::string& out);

  /// Appends the replacement for an unfinished sequence, if any, and starts anew.
  void finish(std::string& out);

 private:
  void push_byte(unsigned char byte, std::string& out);
  void replace_pending(std::string& out);

  OnError on_error_;
  char pending_[4] = {};
  size_t num_pending_ = 0;
  size_t num_expected_ = 0;
};

}  // namespace phalanx
