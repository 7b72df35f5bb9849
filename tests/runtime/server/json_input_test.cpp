// Bounded parsing of JSON from strangers, and field reads that name what is wrong.
#include "runtime/server/json_input.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx {
namespace {

using ::testing::HasSubstr;

ApiResult<RequestJson> parse(std::string_view text) { return parse_json_object(text, 8, 1000); }

TEST(JsonInput, ParsesObjectsAndKeepsTheOrderOfFields) {
  auto result = parse(R"({"z": 1, "a": [true, null, "é😀"], "z": 2})");
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result.value().dump(), "{\"z\":2,\"a\":[true,null,\"é😀\"]}");
}

TEST(JsonInput, RefusesWhatIsNotAnObject) {
  for (const char* text :
       {"", " ", "[]", "1", "\"x\"", "null", "{", "{\"a\":}", "{\"a\":1,}", "{\"a\":1} x",
        "{'a':1}", "{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":1e999}", "{\"a\":-1e999}",
        "{\"a\":01}", "{\"a\":\"\n\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\\x41\"}"}) {
    auto result = parse(text);
    ASSERT_FALSE(result.ok()) << text;
    EXPECT_EQ(result.error().status, 400) << text;
    EXPECT_EQ(result.error().code, "invalid_json") << text;
  }
}

TEST(JsonInput, NamesTheByteOfAnError) {
  EXPECT_THAT(parse("{\"a\": tru}").error().message, HasSubstr("byte 10"));
}

TEST(JsonInput, RefusesInvalidUtf8) {
  for (const char* bytes : {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"})
    EXPECT_FALSE(parse("{\"a\":\"" + std::string(bytes) + "\"}").ok());
}

TEST(JsonInput, LimitsDepthValuesAndFields) {
  const auto nested = [](size_t depth) {
    return "{\"a\":" + std::string(depth - 1, '[') + std::string(depth - 1, ']') + "}";
  };
  EXPECT_TRUE(parse(nested(8)).ok());
  auto deep = parse(nested(9));
  ASSERT_FALSE(deep.ok());
  EXPECT_THAT(deep.error().message, HasSubstr("deeper than 8"));
  // A parser that recursed would fall over long before this ends.
  EXPECT_FALSE(parse("{\"a\":" + std::string(1'000'000, '[')).ok());

  std::string many = "{\"a\":[1";
  for (int i = 0; i < 1000; ++i) many += ",1";
  EXPECT_THAT(parse(many + "]}").error().message, HasSubstr("more than 1000 values"));

  std::string wide = "{";
  for (int i = 0; i < 257; ++i) wide += (i ? ",\"k" : "\"k") + std::to_string(i) + "\":1";
  EXPECT_THAT(parse(wide + "}").error().message, HasSubstr("more than 256 fields"));
}

TEST(JsonInput, RandomBytesNeverThrow) {
  std::mt19937 random(7);
  const std::string seed = R"({"messages":[{"role":"user","content":"hi é"}],"n":1.5e3,"x":null})";
  for (int round = 0; round < 20000; ++round) {
    std::string text = seed;
    const int edits = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < edits; ++i) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, 1 + random() % 5);
          break;
        default:
          text.insert(at, 1, "{}[]\",:\\e-0\x80"[random() % 12]);
      }
      if (text.empty()) text = "{";
    }
    auto result = parse(text);
    if (!result.ok()) {
      EXPECT_EQ(result.error().status, 400);
    }
  }
}

TEST(FieldReader, ReadsWithinRangesAndTreatsNullAsAbsent) {
  const RequestJson object = RequestJson::parse(
      R"({"i": -3, "u": 18446744073709551615, "d": 0.5, "w": 2, "b": true, "s": "x", "z": null})");
  FieldReader fields(object);
  EXPECT_EQ(fields.integer("i", -3, 3), -3);
  EXPECT_EQ(fields.number("d", 0, 1), 0.5);
  EXPECT_EQ(fields.number("w", 0, 2), 2.0);
  EXPECT_EQ(fields.boolean("b"), true);
  EXPECT_EQ(fields.string("s", 1), "x");
  EXPECT_EQ(fields.integer("z", 0, 1), std::nullopt);
  EXPECT_EQ(fields.integer("missing", 0, 1), std::nullopt);
  EXPECT_NE(fields.any("u"), nullptr);
  EXPECT_EQ(fields.finish(), std::nullopt);
}

TEST(FieldReader, NamesFieldValueAndRange) {
  struct Case {
    const char* json;
    const char* message;
  };
  const Case cases[] = {
      {R"({"f": 4})", "m.f must be an integer in [1, 3], not 4"},
      {R"({"f": 0})", "not 0"},
      {R"({"f": 2.0})", "not 2.0"},
      {R"({"f": "2"})", "not \"2\""},
      {R"({"f": true})", "not true"},
      {R"({"f": [1]})", "not [1]"},
      {R"({"f": 18446744073709551615})", "not 18446744073709551615"},
      {R"({"f": -9223372036854775808})", "not -9223372036854775808"},
      {R"({"f": 1e300})", "not 1e+300"},
  };
  for (const Case& one : cases) {
    const RequestJson object = RequestJson::parse(one.json);
    FieldReader fields(object, "m.");
    EXPECT_EQ(fields.integer("f", 1, 3), std::nullopt);
    const auto error = fields.finish();
    ASSERT_TRUE(error.has_value()) << one.json;
    EXPECT_EQ(error->param, "m.f");
    EXPECT_THAT(error->message, HasSubstr(one.message));
  }
}

TEST(FieldReader, NumbersKeepTheirRangeAsFloats) {
  const RequestJson object = RequestJson::parse(R"({"tiny": 1e-60, "near": 1.00000000001})");
  FieldReader fields(object);
  EXPECT_EQ(fields.number("near", 0, 1), 1.00000000001);       // a float rounds it to 1
  EXPECT_EQ(fields.number("tiny", 0, 1, true), std::nullopt);  // and this to 0, which is excluded
  EXPECT_THAT(fields.finish()->message, HasSubstr("tiny must be a number in (0, 1], not 1e-60"));
}

TEST(FieldReader, KeepsTheFirstErrorAndReportsUnknownFieldsLast) {
  const RequestJson object = RequestJson::parse(R"({"a": "x", "b": "y", "what": 1, "nil": null})");
  FieldReader bad(object);
  bad.boolean("a");
  bad.integer("b", 0, 1);
  EXPECT_EQ(bad.finish()->param, "a");

  FieldReader unknown(object);
  unknown.string("a", 10);
  unknown.ignore({"b"});
  const auto error = unknown.finish();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->param, "what");
  EXPECT_EQ(error->code, "unknown_field");
}

TEST(FieldReader, RefusesFieldsThatSaySomething) {
  const RequestJson object = RequestJson::parse(R"({"empty": {}, "off": false, "full": {"1": 2}})");
  FieldReader fields(object);
  fields.refuse("empty", "no");
  fields.refuse("off", "no");
  fields.refuse("absent", "no");
  fields.refuse("full", "because");
  const auto error = fields.finish();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->param, "full");
  EXPECT_EQ(error->code, "unsupported");
  EXPECT_THAT(error->message, HasSubstr("because"));
}

TEST(JsonInput, ExcerptsCutAtACharacter) {
  const RequestJson text = std::string(20, 'x') + "éééééééééééééééé";
  for (size_t size = 20; size < 40; ++size) {
    const std::string cut = excerpt(text, size);
    EXPECT_NO_THROW(static_cast<void>(RequestJson(cut).dump())) << size;
    EXPECT_LE(cut.size(), size + 3);
  }
  EXPECT_EQ(excerpt(RequestJson::array({1, 2, 3, 4, 5, 6, 7, 8, 9})), "an array of 9 values");
}

}  // namespace
}  // namespace phalanx
