// Tests runtime/server/token_stream: the pieces add up to the whole, and stop strings are found.
#include "runtime/server/token_stream.h"

#include <random>

#include <gtest/gtest.h>

#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

const std::string kFixtures = std::string(PHALANX_SOURCE_DIR) + "/tests/runtime/server/fixtures/";
const std::vector<std::string> kFlavours = {"gpt2",   "gpt4o",   "llama2",
                                            "llama3", "mistral", "qwen2"};

std::shared_ptr<const Tokenizer> load_flavour(const std::string& name) {
  return Tokenizer::load(kFixtures + "tokenizers/" + name + ".json").value();
}

TokenStream start(std::shared_ptr<const Tokenizer> tokenizer, TokenStreamOptions options = {}) {
  return TokenStream::create(std::move(tokenizer), std::move(options)).value();
}

// What a client sees: all pieces, each of them well-formed UTF-8.
std::string stream_all(TokenStream& stream, const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    EXPECT_FALSE(find_ill_formed_utf8(piece).has_value());
    text += piece;
    if (stream.stopped()) return text;
  }
  const std::string rest = stream.finish();
  EXPECT_FALSE(find_ill_formed_utf8(rest).has_value());
  return text + rest;
}

TEST(TokenStream, PiecesOfRandomIdsAddUpToTheWhole) {
  std::mt19937 random(7);
  for (const std::string& name : kFlavours) {
    const auto tokenizer = load_flavour(name);
    for (int round = 0; round < 200; ++round) {
      // Ids beyond the vocabulary too: models have more rows than tokens.
      std::uniform_int_distribution<int32_t> pick(0, tokenizer->vocab_size() + 3);
      std::vector<int32_t> ids(random() % 40);
      for (int32_t& id : ids) id = pick(random);
      for (const bool skip : {false, true}) {
        TokenStream stream = start(tokenizer, {.skip_special = skip, .stop = {}});
        EXPECT_EQ(stream_all(stream, ids), tokenizer->decode(ids, skip)) << name;
      }
    }
  }
}

TEST(TokenStream, TextOfWholeCharactersComesAtOnce) {
  for (const std::string& name : kFlavours) {
    const auto tokenizer = load_flavour(name);
    const auto ids = tokenizer->encode("Hello world again", {.add_special_tokens = false}).value();
    TokenStream stream = start(tokenizer);
    std::string text;
    for (size_t i = 0; i < ids.size(); ++i) {
      text += stream.push(ids[i]);
      EXPECT_EQ(text, tokenizer->decode({ids.data(), i + 1}, true)) << name;
    }
    EXPECT_EQ(text, "Hello world again") << name;
    EXPECT_EQ(stream.finish(), "") << name;
  }
}

TEST(TokenStream, HalfACharacterWaits) {
  const auto tokenizer = load_flavour("llama2");
  const std::vector<int32_t> bytes = {
      *tokenizer->token_id("<0xF0>"), *tokenizer->token_id("<0x9F>"),
      *tokenizer->token_id("<0x98>"), *tokenizer->token_id("<0x80>")};
  TokenStream stream = start(tokenizer);
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.push(bytes[1]), "");
  EXPECT_EQ(stream.push(bytes[2]), "");
  EXPECT_EQ(stream.push(bytes[3]), "\xF0\x9F\x98\x80");
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.push(*tokenizer->token_id("a")),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(stream.push(bytes[0]), "");
  EXPECT_EQ(stream.finish(), "\xEF\xBF\xBD");
}

TEST(TokenStream, LeadingSpaceOfMetaspaceGoesOnlyOnce) {
  for (const std::string name : {"llama2", "mistral"}) {
    const auto tokenizer = load_flavour(name);
    const int32_t space = *tokenizer->token_id("\xE2\x96\x81");
    TokenStream stream = start(tokenizer);
    EXPECT_EQ(stream.push(space), "") << name;
    EXPECT_EQ(stream.push(space), " ") << name;
    EXPECT_EQ(stream.push(*tokenizer->token_id("a")), "a") << name;
  }
}

TEST(TokenStream, StopStringAcrossTokensIsCutOff) {
  const auto tokenizer = load_flavour("qwen2");
  const auto ids = tokenizer->encode("One two\nUser: three", {}).value();
  for (const bool include : {false, true}) {
    TokenStream stream =
        start(tokenizer, {.skip_special = true, .stop = {"\nUser:"}, .include_stop = include});
    EXPECT_EQ(stream_all(stream, ids), include ? "One two\nUser:" : "One two");
    EXPECT_TRUE(stream.stopped());
    EXPECT_EQ(stream.stop(), "\nUser:");
    EXPECT_EQ(stream.push(ids[0]), "");
    EXPECT_EQ(stream.finish(), "");
  }
}

TEST(TokenStream, SpecialTokenCanBeAStopStringWhenShown) {
  const auto tokenizer = load_flavour("qwen2");
  const auto ids = tokenizer->encode("hi<|im_end|>more", {}).value();
  TokenStream shown = start(tokenizer, {.skip_special = false, .stop = {"<|im_end|>"}});
  EXPECT_EQ(stream_all(shown, ids), "hi");
  TokenStream hidden = start(tokenizer, {.skip_special = true, .stop = {"<|im_end|>"}});
  EXPECT_EQ(stream_all(hidden, ids), "himore");
}

// Naive model: the first stop to end in the whole text, the longest of those that end together.
std::string naive_cut(const std::string& text, const std::vector<std::string>& stops, bool& found) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& stop : stops)
      if (std::string_view(text).substr(0, end).ends_with(stop))
        longest = std::max(longest, stop.size());
    if (longest > 0) {
      found = true;
      return text.substr(0, end - longest);
    }
  }
  found = false;
  return text;
}

TEST(StopMatcher, AgreesWithTheNaiveModelOnRandomTexts) {
  std::mt19937 random(11);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) {
      stop.resize(1 + random() % 5);
      for (char& c : stop) c = static_cast<char>('a' + random() % 2);
    }
    std::string text(random() % 30, ' ');
    for (char& c : text) c = static_cast<char>('a' + random() % 3);
    bool found = false;
    const std::string expected = naive_cut(text, stops, found);

    StopMatcher matcher = StopMatcher::create(stops).value();
    std::string out;
    for (size_t i = 0; i < text.size() && !matcher.stopped();) {
      const size_t length = std::min<size_t>(1 + random() % 4, text.size() - i);
      matcher.push(std::string_view(text).substr(i, length), out);
      i += length;
      if (!matcher.stopped()) {
        EXPECT_TRUE(std::string_view(expected).starts_with(out)) << "shown too early";
      }
    }
    if (!matcher.stopped()) matcher.finish(out);
    EXPECT_EQ(matcher.stopped(), found);
    EXPECT_EQ(out, expected) << text;
  }
}

TEST(StopMatcher, HoldsBackNoMoreThanItMust) {
  StopMatcher matcher = StopMatcher::create({"STOP"}).value();
  std::string out;
  EXPECT_FALSE(matcher.push("xST", out));
  EXPECT_EQ(out, "x");
  EXPECT_FALSE(matcher.push("S", out));
  EXPECT_EQ(out, "xST");
  EXPECT_FALSE(matcher.push("TO", out));
  EXPECT_EQ(out, "xST");
  EXPECT_TRUE(matcher.push("P and more", out));
  EXPECT_EQ(out, "xST");
}

TEST(StopMatcher, RefusesBadStopStrings) {
  EXPECT_EQ(StopMatcher::create({"a", ""}).error().message,
            "stop[1]: empty, must have a character");
  EXPECT_EQ(StopMatcher::create({"\xC3"}).error().message, "stop[0]: byte 0 is not UTF-8");
  EXPECT_FALSE(StopMatcher::create({std::string(StopMatcher::kMaxStopBytes + 1, 'a')}).ok());
  EXPECT_FALSE(StopMatcher::create(std::vector<std::string>(StopMatcher::kMaxStops + 1, "a")).ok());
}

TEST(StopMatcher, LongAdversarialTextIsLinear) {
  StopMatcher matcher = StopMatcher::create({std::string(4000, 'a') + "b"}).value();
  std::string out;
  for (int i = 0; i < 1'000'000; ++i) matcher.push("a", out);
  matcher.finish(out);
  EXPECT_EQ(out.size(), 1'000'000U);
}

}  // namespace
}  // namespace phalanx
