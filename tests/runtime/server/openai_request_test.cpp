// Every field of the request bodies: good values arrive, bad ones are refused by name.
#include "runtime/server/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/server/url_query.h"

namespace phalanx {
namespace {

using ::testing::HasSubstr;

ServiceInfo info() {
  ServiceInfo info;
  info.model_name = "m";
  info.vocab_size = 300;
  info.max_context_tokens = 100;
  info.kv_capacity_tokens = 1000;
  return info;
}

ApiResult<OpenAiRequest> parse(bool is_chat, const std::string& fields) {
  const std::string text = is_chat ? R"({"model":"m","messages":[{"role":"user","content":"hi"}])"
                                   : R"({"model":"m","prompt":"hi")";
  const RequestJson body = RequestJson::parse(text + (fields.empty() ? "" : ",") + fields + "}");
  return is_chat ? parse_chat_request(body, ServerOptions(), info())
                 : parse_completion_request(body, ServerOptions(), info());
}

OpenAiRequest good(bool is_chat, const std::string& fields) {
  auto result = parse(is_chat, fields);
  EXPECT_TRUE(result.ok()) << fields << ": " << (result.ok() ? "" : result.error().message);
  return result.ok() ? result.value() : OpenAiRequest();
}

TEST(OpenAiRequest, DefaultsAreOpenAis) {
  for (const bool is_chat : {false, true}) {
    const OpenAiRequest request = good(is_chat, "");
    EXPECT_EQ(request.sampling.temperature, 1.0F);
    EXPECT_EQ(request.sampling.top_p, 1.0F);
    EXPECT_EQ(request.sampling.num_top_logprobs, -1);
    EXPECT_FALSE(request.sampling.has_penalties());
    EXPECT_EQ(request.n, 1);
    EXPECT_FALSE(request.stream);
    EXPECT_EQ(request.max_tokens, std::nullopt);
    EXPECT_EQ(request.seed, std::nullopt);
  }
}

TEST(OpenAiRequest, TakesEverySharedField) {
  for (const bool is_chat : {false, true}) {
    const OpenAiRequest request = good(is_chat, R"(
      "max_tokens": 7, "n": 3, "temperature": 0.5, "top_p": 0.25, "min_p": 0.125, "top_k": 40,
      "presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 1.5, "seed": -1,
      "stop": ["a", "b"], "stop_token_ids": [5, 299], "ignore_eos": true, "stream": true,
      "stream_options": {"include_usage": true}, "priority": -3, "user": "u", "cache_salt": "s",
      "logit_bias": {}, "metadata": {"a": "b"}, "store": false, "service_tier": "auto",
      "prompt_cache_key": "k", "safety_identifier": "sid")");
    EXPECT_EQ(request.max_tokens, 7);
    EXPECT_EQ(request.n, 3);
    EXPECT_EQ(request.sampling.temperature, 0.5F);
    EXPECT_EQ(request.sampling.top_p, 0.25F);
    EXPECT_EQ(request.sampling.min_p, 0.125F);
    EXPECT_EQ(request.sampling.top_k, 40);
    EXPECT_EQ(request.sampling.presence_penalty, -2.0F);
    EXPECT_EQ(request.sampling.frequency_penalty, 2.0F);
    EXPECT_EQ(request.sampling.repetition_penalty, 1.5F);
    EXPECT_EQ(request.seed, ~uint64_t{0});
    EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(request.stop_token_ids, (std::vector<int32_t>{5, 299}));
    EXPECT_TRUE(request.ignore_eos);
    EXPECT_TRUE(request.stream);
    EXPECT_TRUE(request.include_usage);
    EXPECT_EQ(request.priority, -3);
    EXPECT_EQ(request.client, "u");
    EXPECT_NE(request.cache_salt, 0U);
  }
  EXPECT_EQ(good(false, R"("stop": "x")").stop, std::vector<std::string>{"x"});
  EXPECT_EQ(good(false, R"("top_k": -1)").sampling.top_k, 0);
  EXPECT_EQ(good(false, R"("safety_identifier": "s")").client, "s");
  EXPECT_NE(good(false, R"("cache_salt": "a")").cache_salt,
            good(false, R"("cache_salt": "b")").cache_salt);
}

TEST(OpenAiRequest, NullIsAbsentForEveryField) {
  for (const char* field :
       {"model", "max_tokens", "n", "temperature", "top_p", "stop", "stream", "stream_options",
        "seed", "user", "logit_bias", "logprobs", "presence_penalty", "frequency_penalty"}) {
    for (const bool is_chat : {false, true}) good(is_chat, "\"" + std::string(field) + "\": null");
  }
  for (const char* field : {"tools", "tool_choice", "response_format", "max_completion_tokens",
                            "audio", "modalities", "functions", "reasoning_effort"})
    good(true, "\"" + std::string(field) + "\": null");
  for (const char* field : {"suffix", "best_of", "echo"})
    good(false, "\"" + std::string(field) + "\": null");
}

struct BadField {
  const char* fields;
  const char* param;
};

void expect_refused(bool is_chat, const BadField& bad, int status = 400) {
  auto result = parse(is_chat, bad.fields);
  ASSERT_FALSE(result.ok()) << bad.fields;
  EXPECT_EQ(result.error().status, status) << bad.fields;
  EXPECT_EQ(result.error().param, bad.param) << bad.fields;
  EXPECT_FALSE(result.error().message.empty());
}

TEST(OpenAiRequest, RefusesBadSharedFieldsByName) {
  const BadField cases[] = {
      {R"("max_tokens": 0)", "max_tokens"},
      {R"("max_tokens": 101)", "max_tokens"},
      {R"("max_tokens": "9")", "max_tokens"},
      {R"("n": 0)", "n"},
      {R"("n": 17)", "n"},
      {R"("n": 1.5)", "n"},
      {R"("temperature": -0.1)", "temperature"},
      {R"("temperature": 100.1)", "temperature"},
      {R"("temperature": "hot")", "temperature"},
      {R"("temperature": true)", "temperature"},
      {R"("top_p": 0)", "top_p"},
      {R"("top_p": 1.1)", "top_p"},
      {R"("min_p": -0.5)", "min_p"},
      {R"("min_p": 2)", "min_p"},
      {R"("top_k": -2)", "top_k"},
      {R"("top_k": 1048577)", "top_k"},
      {R"("presence_penalty": 2.1)", "presence_penalty"},
      {R"("frequency_penalty": -2.1)", "frequency_penalty"},
      {R"("repetition_penalty": 0)", "repetition_penalty"},
      {R"("repetition_penalty": 101)", "repetition_penalty"},
      {R"("seed": 1.5)", "seed"},
      {R"("seed": 18446744073709551615)", "seed"},
      {R"("stop": 5)", "stop"},
      {R"("stop": "")", "stop"},
      {R"("stop": ["a", 1])", "stop"},
      {R"("stop": ["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])",
       "stop"},
      {R"("stop_token_ids": 3)", "stop_token_ids"},
      {R"("stop_token_ids": [300])", "stop_token_ids[0]"},
      {R"("stop_token_ids": [1, -1])", "stop_token_ids[1]"},
      {R"("stop_token_ids": [18446744073709551615])", "stop_token_ids[0]"},
      {R"("ignore_eos": 1)", "ignore_eos"},
      {R"("stream": "yes")", "stream"},
      {R"("stream_options": {"include_usage": true})", "stream_options"},
      {R"("stream": true, "stream_options": 1)", "stream_options"},
      {R"("stream": true, "stream_options": {"x": 1})", "stream_options.x"},
      {R"("stream": true, "stream_options": {"include_usage": 1})", "stream_options.include_usage"},
      {R"("priority": 101)", "priority"},
      {R"("user": 7)", "user"},
      {R"("cache_salt": 7)", "cache_salt"},
      {R"("logit_bias": {"5": 1})", "logit_bias"},
      {R"("frobnicate": 1)", "frobnicate"},
      {R"("model": 3)", "model"},
  };
  for (const BadField& one : cases) {
    for (const bool is_chat : {false, true}) expect_refused(is_chat, one);
  }
  for (const bool is_chat : {false, true})
    expect_refused(is_chat, {R"("model": "other")", "model"}, 404);
}

TEST(OpenAiRequest, RefusesBadCompletionFieldsByName) {
  const BadField cases[] = {
      {R"("prompt": 5)", "prompt"},
      {R"("prompt": [])", "prompt"},
      {R"("prompt": null)", "prompt"},
      {R"("prompt": [1, 300])", "prompt[1]"},
      {R"("prompt": [1, "a"])", "prompt[1]"},
      {R"("prompt": ["a", 1])", "prompt[1]"},
      {R"("prompt": [[1], []])", "prompt[1]"},
      {R"("prompt": [[1], [1, 1.5]])", "prompt[1][1]"},
      {R"("prompt": [{"a": 1}])", "prompt[0]"},
      {R"("logprobs": 21)", "logprobs"},
      {R"("logprobs": true)", "logprobs"},
      {R"("echo": true, "logprobs": 1)", "echo"},
      {R"("best_of": 2)", "best_of"},
      {R"("suffix": "x")", "suffix"},
      {R"("messages": [])", "messages"},
      {R"("tools": [])", "tools"},
  };
  for (const BadField& one : cases) expect_refused(false, one);
  EXPECT_EQ(parse(false, R"("suffix": "x")").error().code, "unsupported");
}

TEST(OpenAiRequest, TakesEveryKindOfPrompt) {
  EXPECT_EQ(good(false, R"("prompt": "")").prompts.size(), 1U);
  EXPECT_EQ(std::get<std::string>(good(false, R"("prompt": ["a", "b"])").prompts[1]), "b");
  EXPECT_EQ(std::get<std::vector<int32_t>>(good(false, R"("prompt": [1, 2])").prompts[0]),
            (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(std::get<std::vector<int32_t>>(good(false, R"("prompt": [[1], [2, 3]])").prompts[1]),
            (std::vector<int32_t>{2, 3}));
  EXPECT_EQ(good(false, R"("logprobs": 0)").sampling.num_top_logprobs, 0);
  EXPECT_EQ(good(false, R"("n": 2, "best_of": 2)").n, 2);

  std::string many = "\"n\": 16, \"prompt\": [\"a\"";
  for (int i = 1; i < 9; ++i) many += ",\"a\"";
  const auto result = parse(false, many + "]");
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("144 choices; at most 128"));
}

TEST(OpenAiRequest, QueriesBecomeBodies) {
  const auto body = [](bool is_chat, const char* query) {
    auto result = body_of_query(*parse_query(query), is_chat, ServerOptions());
    return result.ok() ? result.value().dump() : result.error().message;
  };
  EXPECT_EQ(body(false, "prompt=12&max_tokens=5&temperature=0.5&stop=a&stop=b&echo=true"),
            R"({"prompt":"12","max_tokens":5,"temperature":0.5,"stop":["a","b"],)"
            R"("echo":true,"stream":true})");
  EXPECT_EQ(body(true, "message=hi&system=be+brief&n=2"),
            R"({"n":2,"messages":[{"role":"system","content":"be brief"},)"
            R"({"role":"user","content":"hi"}],"stream":true})");
  EXPECT_EQ(body(true, "messages=%5B%7B%22role%22%3A%22user%22%7D%5D"),
            R"({"messages":[{"role":"user"}],"stream":true})");
  EXPECT_EQ(body(false, "prompt=x&include_usage=true"),
            R"({"prompt":"x","stream_options":{"include_usage":true},"stream":true})");
  // A value that closes the array early must not smuggle in other fields.
  EXPECT_THAT(body(true, "messages=%5B%5D%2C%22n%22%3A3"), HasSubstr("must be a JSON array"));
  EXPECT_THAT(body(true, "messages=%5B"), HasSubstr("must be a JSON array"));
  EXPECT_THAT(body(true, "n=2"), HasSubstr("message is missing"));
  EXPECT_THAT(body(false, "prompt=%ff"), HasSubstr("not UTF-8"));
  EXPECT_EQ(body(false, "prompt=x&n=two"), R"({"prompt":"x","n":"two","stream":true})");
}

}  // namespace
}  // namespace phalanx
