// Tests runtime/server/tokenizer_regex: syntax translation, refusals, and time on hard texts.
#include "runtime/server/tokenizer_regex.h"

#include <vector>

#include <gtest/gtest.h>

namespace phalanx {
namespace {

using Spans = std::vector<std::pair<size_t, size_t>>;

Spans matches(const std::string& pattern, std::string_view text) {
  const auto regex = TokenizerRegex::compile(pattern);
  EXPECT_TRUE(regex.ok()) << pattern << ": " << (regex.ok() ? "" : regex.error().message);
  Spans spans;
  if (!regex.ok()) return spans;
  TokenizerRegex::Cursor cursor(*regex, text);
  TokenizerRegex::Match match;
  while (cursor.next(match).value()) spans.emplace_back(match.begin, match.end);
  return spans;
}

TEST(TokenizerRegex, SpaceIsWhiteSpaceWithoutMongolianVowelSeparator) {
  EXPECT_EQ(matches(R"(\s)", "a\xC2\x85\xE1\xA0\x8E\xE3\x80\x80"), (Spans{{1, 3}, {6, 9}}));
  EXPECT_EQ(matches(R"([^\S])", " \xE1\xA0\x8E"), (Spans{{0, 1}}));
}

TEST(TokenizerRegex, EmptyMatchBehindAMatchIsSkipped) {
  EXPECT_EQ(matches("x*", "axxb"), (Spans{{0, 0}, {1, 3}, {4, 4}}));
  EXPECT_EQ(matches("(?=b)", "abb"), (Spans{{1, 1}, {2, 2}}));
  EXPECT_EQ(matches("", ""), (Spans{{0, 0}}));
}

TEST(TokenizerRegex, RefusesWhatPcreWouldReadOtherwise) {
  const std::pair<const char*, const char*> cases[] = {
      {R"([a&&b])", "&&"},
      {R"([a[bc]])", "class inside"},
      {R"(a\Kb)", "\\K"},
      {R"(\g<1>)", "\\g"},
      {"(?R)", "(?R"},
      {"(*FAIL)", "(*"},
      {R"([\W])", "\\W"},
      {"a{2}+", "interval"},
      {R"(\C)", "\\C"},
      {"(?~abc)", "(?~"},
      {"(?(1)a|b)", "(?("},
      {"(?1)", "(?1"},
      {"(?P<n>a)", "(?P"},
      {"abc\\", "final backslash"},
      {"[abc", "open character class"},
  };
  for (const auto& [pattern, reason] : cases) {
    const auto regex = TokenizerRegex::compile(pattern);
    ASSERT_FALSE(regex.ok()) << pattern;
    EXPECT_EQ(regex.error().code, ErrorCode::kUnsupported) << pattern;
    EXPECT_NE(regex.error().message.find(reason), std::string::npos) << regex.error().message;
  }
  EXPECT_EQ(TokenizerRegex::compile("(").error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(TokenizerRegex::compile(std::string(100'000, 'a')).ok());
  EXPECT_FALSE(TokenizerRegex::compile(std::string(1000, '(') + std::string(1000, ')')).ok());
}

TEST(TokenizerRegex, CatastrophicBacktrackingIsAnErrorNotAHang) {
  const auto regex = TokenizerRegex::compile("(a+)+b");
  ASSERT_TRUE(regex.ok());
  const std::string text(200, 'a');
  TokenizerRegex::Cursor cursor(*regex, text);
  TokenizerRegex::Match match;
  const auto found = cursor.next(match);
  if (!found.ok()) {
    EXPECT_EQ(found.error().code, ErrorCode::kResourceExhausted);
  } else {
    EXPECT_FALSE(*found);  // the engine saw that there is no b
  }
}

}  // namespace
}  // namespace phalanx
