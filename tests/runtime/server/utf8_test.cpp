// Tests runtime/server/utf8 against a table of well- and ill-formed sequences.
#include "runtime/server/utf8.h"

#include <random>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

// Encodes and decodes by the definition, the slow way.
bool is_scalar(char32_t c) { return c < 0x110000 && !(c >= 0xD800 && c < 0xE000); }

TEST(Utf8, EveryCodePointReadsBack) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (!is_scalar(c)) continue;
    std::string text;
    append_utf8(text, c);
    ASSERT_FALSE(find_ill_formed_utf8(text).has_value());
    const Utf8Char read = read_utf8(text, 0);
    ASSERT_EQ(read.code_point, c);
    ASSERT_EQ(read.num_bytes, text.size());
  }
}

TEST(Utf8, FindsTheFirstIllFormedByte) {
  const std::pair<std::string, size_t> cases[] = {{"\x80", 0},
                                                  {"a\xC0\x80", 1},
                                                  {"ab\xC1\xBF", 2},
                                                  {"\xC3", 0},
                                                  {"\xE0\x9F\xBF", 0},
                                                  {"\xED\xA0\x80", 0},
                                                  {"\xE2\x82", 0},
                                                  {"\xF0\x8F\xBF\xBF", 0},
                                                  {"\xF4\x90\x80\x80", 0},
                                                  {"\xF5\x80\x80\x80", 0},
                                                  {"\xFF", 0},
                                                  {"\xC3\xA9\xC3", 2},
                                                  {"\xE2\x82\xAC\xE2\x28\xA1", 3}};
  for (const auto& [text, offset] : cases) {
    ASSERT_TRUE(find_ill_formed_utf8(text).has_value()) << text;
    EXPECT_EQ(*find_ill_formed_utf8(text), offset);
  }
  EXPECT_FALSE(find_ill_formed_utf8("").has_value());
  EXPECT_FALSE(find_ill_formed_utf8(std::string("a\0b", 3)).has_value());
}

TEST(Utf8, CountsAndFindsByCodePoint) {
  const std::string text = "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80z";
  EXPECT_EQ(count_code_points(text), 5U);
  const size_t offsets[] = {0, 1, 3, 6, 10, 11, 11};
  for (size_t i = 0; i < 7; ++i) EXPECT_EQ(code_point_offset(text, i), offsets[i]);
}

std::string assemble(std::string_view bytes, Utf8Assembler::OnError on_error, size_t step) {
  Utf8Assembler assembler(on_error);
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += step) assembler.push(bytes.substr(i, step), out);
  assembler.finish(out);
  return out;
}

TEST(Utf8Assembler, ReplacesAsTheWhatwgDecoderDoes) {
  const std::string r(kReplacementCharacter);
  using Mode = Utf8Assembler::OnError;
  EXPECT_EQ(assemble("a\xE2\x82z", Mode::kOnePerSubpart, 1), "a" + r + "z");
  EXPECT_EQ(assemble("a\xE2\x82z", Mode::kOnePerByte, 1), "a" + r + r + "z");
  EXPECT_EQ(assemble("\xF0\x9F\x98", Mode::kOnePerSubpart, 1), r);
  EXPECT_EQ(assemble("\xED\xA0\x80", Mode::kOnePerSubpart, 1), r + r + r);
  EXPECT_EQ(assemble("\xC0\xAF\xFE", Mode::kOnePerSubpart, 1), r + r + r);
  EXPECT_EQ(assemble("\xE2\xE2\x82\xAC", Mode::kOnePerSubpart, 1), r + "\xE2\x82\xAC");
}

TEST(Utf8Assembler, RandomBytesGiveTheSameHoweverTheyAreCut) {
  std::mt19937 random(3);
  const unsigned char likely[] = {0x41, 0x80, 0xBF, 0xC3, 0xE2, 0xED, 0xF0, 0xF4, 0x9F, 0xA9};
  for (int round = 0; round < 5000; ++round) {
    std::string bytes(random() % 12, ' ');
    for (char& c : bytes) c = static_cast<char>(likely[random() % sizeof(likely)]);
    for (const auto mode :
         {Utf8Assembler::OnError::kOnePerSubpart, Utf8Assembler::OnError::kOnePerByte}) {
      const std::string whole = assemble(bytes, mode, 100);
      EXPECT_FALSE(find_ill_formed_utf8(whole).has_value());
      EXPECT_EQ(assemble(bytes, mode, 1), whole);
      EXPECT_EQ(assemble(bytes, mode, 3), whole);
      if (!find_ill_formed_utf8(bytes)) {
        EXPECT_EQ(whole, bytes);
      }
    }
  }
}

}  // namespace
}  // namespace phalanx
