// What the events of several servers make of a record, and answers that are wrong.
#include "launcher/bench/serve_answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class StreamedAnswerTest : public ::testing::Test {
 protected:
  void ask(int64_t output_tokens, LengthRule rule = LengthRule::kAtMost) {
    record = {};
    record.asked_prompt = 7;
    record.asked_output = output_tokens;
    answer.emplace(record, rule);
    now = 0;
  }
  /// Every event arrives a second after the one before.
  bool push(const std::string& data) {
    now += 1;
    return answer->push("data: " + data + "\n\n", now);
  }
  bool text(const std::string& t, const std::string& reason = "null") {
    return push(R"({"choices":[{"index":0,"text":")" + t + R"(","finish_reason":)" + reason +
                "}]}");
  }
  bool delta(const std::string& d, const std::string& reason = "null") {
    return push(R"({"choices":[{"index":0,"delta":)" + d + R"(,"finish_reason":)" + reason + "}]}");
  }

  RequestRecord record;
  std::optional<StreamedAnswer> answer;
  double now = 0;
};

TEST_F(StreamedAnswerTest, CompletionsWithUsage) {
  ask(3, LengthRule::kExactly);
  EXPECT_TRUE(text("a"));
  EXPECT_TRUE(text("bc"));
  EXPECT_TRUE(text("", R"("length")"));
  EXPECT_TRUE(push(
      R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}})"));
  EXPECT_FALSE(answer->is_done());
  EXPECT_TRUE(push("[DONE]"));
  EXPECT_TRUE(answer->is_done());
  answer->finish();
  EXPECT_EQ(record.outcome, Outcome::kOk) << record.message;
  EXPECT_THAT(record.token_s, ElementsAre(1, 2));
  EXPECT_EQ(record.last_s, 3) << "the finish reason ends the answer, not usage or [DONE]";
  EXPECT_EQ(record.prompt_tokens, 9);
  EXPECT_EQ(record.cached_tokens, 4);
  EXPECT_EQ(record.output_tokens, 3);
  EXPECT_TRUE(record.has_usage);
}

TEST_F(StreamedAnswerTest, CompletionsWithoutUsageCountEvents) {
  ask(5);
  EXPECT_TRUE(text("a"));
  EXPECT_TRUE(text("b"));
  EXPECT_TRUE(text("c", R"("stop")"));
  answer->finish();
  EXPECT_EQ(record.outcome, Outcome::kOk) << "a finish reason does without [DONE]";
  EXPECT_EQ(record.output_tokens, 3);
  EXPECT_EQ(record.prompt_tokens, 7) << "as asked";
  EXPECT_FALSE(record.has_usage);
  EXPECT_EQ(record.last_s, 3);
}

TEST_F(StreamedAnswerTest, AChatsOpeningEventIsNoToken) {
  for (const char* opening : {R"({"role":"assistant","content":""})", R"({"role":"assistant"})",
                              R"({"role":"assistant","content":null})"}) {
    ask(5);
    EXPECT_TRUE(delta(opening));
    EXPECT_TRUE(delta(R"({"content":"Hi"})"));
    EXPECT_TRUE(delta("{}", R"("stop")"));
    answer->finish();
    EXPECT_THAT(record.token_s, ElementsAre(2)) << opening;
    EXPECT_EQ(record.last_s, 3);
  }
  ask(5);
  EXPECT_TRUE(delta(R"({"role":"assistant","content":"Hi"})"));
  EXPECT_THAT(record.token_s, ElementsAre(1)) << "with text it is";
}

TEST_F(StreamedAnswerTest, ReasoningAndToolCallsAreTokens) {
  ask(5);
  EXPECT_TRUE(delta(R"({"reasoning_content":"hm"})"));
  EXPECT_TRUE(delta(R"({"reasoning":"hm","content":""})"));
  EXPECT_TRUE(delta(R"({"tool_calls":[{"index":0}],"content":null})"));
  EXPECT_THAT(record.token_s, ElementsAre(1, 2, 3));
}

TEST_F(StreamedAnswerTest, HalfACharacterIsAToken) {
  ask(5);
  EXPECT_TRUE(text(""));
  EXPECT_TRUE(text("é"));
  EXPECT_TRUE(text("", R"("length")"));
  EXPECT_THAT(record.token_s, ElementsAre(1, 2));
}

TEST_F(StreamedAnswerTest, EventsOfOneReadShareItsTime) {
  ask(2);
  EXPECT_TRUE(
      answer->push("data: {\"choices\":[{\"text\":\"a\"}]}\n\ndata: "
                   "{\"choices\":[{\"text\":\"b\",\"finish_reason\":\"length\"}]}\n\n",
                   5));
  EXPECT_THAT(record.token_s, ElementsAre(5, 5));
}

TEST_F(StreamedAnswerTest, WrongLengths) {
  const auto run = [&](int64_t asked, int64_t got, LengthRule rule) {
    ask(asked, rule);
    EXPECT_TRUE(text("a"));
    EXPECT_TRUE(push(
        R"({"choices":[{"text":"b","finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":)" +
        std::to_string(got) + "}}"));
    answer->finish();
    return record.outcome;
  };
  EXPECT_EQ(run(4, 4, LengthRule::kExactly), Outcome::kOk);
  EXPECT_EQ(run(4, 3, LengthRule::kExactly), Outcome::kWrongLength);
  EXPECT_THAT(record.message, HasSubstr("3 tokens, asked for 4"));
  EXPECT_EQ(run(4, 5, LengthRule::kExactly), Outcome::kWrongLength);
  EXPECT_EQ(run(4, 3, LengthRule::kAtMost), Outcome::kOk);
  EXPECT_EQ(run(4, 5, LengthRule::kAtMost), Outcome::kWrongLength);
  EXPECT_EQ(run(4, 0, LengthRule::kAtMost), Outcome::kWrongLength);
}

TEST_F(StreamedAnswerTest, ATokenWithoutTextCameWhenTheAnswerEnded) {
  ask(1);
  EXPECT_TRUE(push(
      R"({"choices":[{"text":"","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}})"));
  answer->finish();
  EXPECT_EQ(record.outcome, Outcome::kOk);
  EXPECT_THAT(record.token_s, ElementsAre(1));
}

TEST_F(StreamedAnswerTest, EndsEarly) {
  ask(5);
  EXPECT_TRUE(text("a"));
  answer->finish();
  EXPECT_EQ(record.outcome, Outcome::kBroken);
  ask(5);
  answer->finish();
  EXPECT_EQ(record.outcome, Outcome::kBroken);
  ask(5);
  EXPECT_TRUE(push("[DONE]"));
  answer->finish();
  EXPECT_EQ(record.outcome, Outcome::kWrongLength) << "done, without a token";
}

TEST_F(StreamedAnswerTest, MalformedAndErrorEvents) {
  const struct {
    const char* data;
    Outcome outcome;
    const char* message;
  } cases[] = {
      {"{", Outcome::kMalformed, "no JSON object: {"},
      {"[]", Outcome::kMalformed, "no JSON object"},
      {"17", Outcome::kMalformed, "17"},
      {R"({"choices":{}})", Outcome::kMalformed, "no array"},
      {R"({"choices":[5]})", Outcome::kMalformed, "no object"},
      {R"({"usage":5})", Outcome::kMalformed, "usage"},
      {R"({"usage":{"prompt_tokens":"5"}})", Outcome::kMalformed, "usage"},
      {R"({"error":{"message":"overloaded","code":503}})", Outcome::kServerError, "overloaded"},
      {R"({"error":"bad"})", Outcome::kServerError, "bad"},
  };
  for (const auto& c : cases) {
    ask(5);
    EXPECT_TRUE(text("a"));
    EXPECT_FALSE(push(c.data)) << c.data;
    EXPECT_EQ(record.outcome, c.outcome) << c.data;
    EXPECT_THAT(record.message, HasSubstr(c.message)) << c.data;
    answer->finish();
    EXPECT_EQ(record.outcome, c.outcome) << "stays";
  }
}

TEST_F(StreamedAnswerTest, SurprisesOfTheRightShapeAreTaken) {
  ask(5);
  for (const char* data :
       {R"({})", R"({"choices":null})", R"({"choices":[]})", R"({"usage":null,"error":null})",
        R"({"choices":[{}]})", R"({"choices":[{"delta":null}]})",
        R"({"choices":[{"delta":{"content":5}}]})", R"({"choices":[{"text":5}]})"})
    EXPECT_TRUE(push(data)) << data;
  EXPECT_TRUE(record.token_s.empty());
}

TEST(ErrorMessageTest, FromTheBodiesOfServers) {
  EXPECT_EQ(error_message_of(R"({"error":{"message":"m"}})"), "m");
  EXPECT_EQ(error_message_of(R"({"error":"m"})"), "m");
  EXPECT_EQ(error_message_of(R"({"object":"error","message":"m"})"), "m");
  EXPECT_EQ(error_message_of(R"({"detail":[{"msg":"m"}]})"), R"([{"msg":"m"}])");
  EXPECT_EQ(error_message_of("<html>\n\x1b[31m"), "<html>  [31m");
  EXPECT_EQ(error_message_of(""), "");
  EXPECT_EQ(error_message_of(std::string(500, 'x')), std::string(200, 'x') + "...");
}

}  // namespace
}  // namespace phalanx::bench
