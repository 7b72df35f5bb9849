// The hand-written serialization against a JSON parser.
#include "runtime/server/openai_response.h"

#include <cmath>
#include <limits>
#include <random>
#include <set>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using nlohmann::json;

TEST(OpenAiResponse, StringsRoundTripThroughAParser) {
  std::mt19937 random(3);
  for (int round = 0; round < 5000; ++round) {
    std::string text;
    const size_t length = random() % 20;
    while (text.size() < length) {
      char32_t code_point = random() % (random() % 2 == 0 ? 0x100 : 0x110000);
      if (code_point >= 0xD800 && code_point < 0xE000) code_point = '"';
      append_utf8(text, code_point);
    }
    std::string encoded;
    append_json_string(encoded, text);
    EXPECT_EQ(json::parse(encoded).get<std::string>(), text);
  }
}

TEST(OpenAiResponse, IllFormedBytesAreReplaced) {
  std::string encoded;
  append_json_string(encoded, "a\xff\xe2\x82z");
  EXPECT_EQ(json::parse(encoded).get<std::string>(), "a\xEF\xBF\xBD\xEF\xBF\xBDz");
}

TEST(OpenAiResponse, IdsAreDistinct) {
  std::set<std::string> ids;
  for (int i = 0; i < 10000; ++i) ids.insert(make_answer_id(i % 2 == 0));
  EXPECT_EQ(ids.size(), 10000U);
}

TEST(OpenAiResponse, LogprobsAreNumbersThatReadBack) {
  const OpenAiResponse response(true, "id", 1, "m", true, false);
  for (const float value : {0.0F, -0.1F, -1e-30F, -123.456F, -std::numeric_limits<float>::max()}) {
    ChoicePart part;
    part.logprobs.push_back({"x", value, {{"y", value}}, 0});
    const json answer = json::parse(response.whole({part}, {}));
    const json& content = answer["choices"][0]["logprobs"]["content"][0];
    EXPECT_EQ(content["logprob"].get<float>(), value);
    EXPECT_EQ(content["top_logprobs"][0]["logprob"].get<float>(), value);
  }
  ChoicePart part;
  part.logprobs.push_back({"x", -std::numeric_limits<float>::infinity(), {}, 0});
  part.logprobs.push_back({"x", std::nanf(""), {}, 0});
  const json content = json::parse(response.whole({part}, {}))["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(content[0]["logprob"], -9999.0);
  EXPECT_EQ(content[1]["logprob"], -9999.0);
}

TEST(OpenAiResponse, EventsAreSingleLines) {
  for (const bool is_chat : {false, true}) {
    const OpenAiResponse response(is_chat, "id", 1, "model \"with\" quotes\n", true, true);
    ChoicePart part;
    part.index = 3;
    part.text = "line\nline\r\n\ttab \"quoted\" \\ \x01\x7f data: x\n\n";
    part.finish_reason = "stop";
    part.logprobs.push_back({"\n\n", -1.0F, {{"\r", -2.0F}}, 4});
    std::string events;
    response.append_role(events, 3);
    response.append_part(events, part);
    response.append_usage(events, {5, 6, 2});
    OpenAiResponse::append_error(events, R"({"error":1})");
    OpenAiResponse::append_done(events);
    std::vector<std::string> data;
    while (!events.empty()) {
      const size_t end = events.find("\n\n");
      ASSERT_NE(end, std::string::npos);
      ASSERT_EQ(events.compare(0, 6, "data: "), 0);
      data.push_back(events.substr(6, end - 6));
      EXPECT_EQ(data.back().find('\n'), std::string::npos);
      events.erase(0, end + 2);
    }
    ASSERT_EQ(data.size(), 5U);
    const json event = json::parse(data[1]);
    const json& choice = event["choices"][0];
    EXPECT_EQ(event["model"], "model \"with\" quotes\n");
    EXPECT_EQ(is_chat ? choice["delta"]["content"] : choice["text"], part.text);
    EXPECT_EQ(choice["finish_reason"], "stop");
    EXPECT_TRUE(event["usage"].is_null());
    EXPECT_EQ(json::parse(data[2])["usage"]["total_tokens"], 11);
    EXPECT_EQ(json::parse(data[2])["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
    EXPECT_EQ(data[4], "[DONE]");
  }
}

}  // namespace
}  // namespace phalanx
