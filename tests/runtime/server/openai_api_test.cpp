// Every endpoint over real sockets, with a service that scripts its tokens.
#include "runtime/server/openai_api.h"

#include <regex>
#include <set>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "runtime/server/http_server.h"
#include "tests/support/fake_generation_service.h"
#include "tests/support/http_test_client.h"

namespace phalanx {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using testing::ClientResponse;
using ::testing::HasSubstr;
using testing::http_events;
using testing::http_request;
using testing::HttpTestClient;
using Clock = std::chrono::steady_clock;

constexpr char kChat[] = R"("messages":[{"role":"user","content":"hi"}])";

class OpenAiApiTest : public ::testing::Test {
 protected:
  OpenAiApiTest() { options.port = 0; }

  void start() {
    api = std::make_unique<OpenAiApi>(service, codec, options);
    server = std::make_unique<HttpServer>(options, *api);
    const Status status = server->start();
    ASSERT_TRUE(status.ok()) << status.error().message;
  }

  ClientResponse post(const std::string& path, const std::string& fields) {
    return http_request(server->port(), "POST", path, "{" + fields + "}");
  }
  ClientResponse get(const std::string& path) { return http_request(server->port(), "GET", path); }
  json good(const std::string& path, const std::string& fields) {
    const ClientResponse response = post(path, fields);
    EXPECT_EQ(response.status, 200) << response.body;
    return json::parse(response.body);
  }
  json completion(const std::string& fields) { return good("/v1/completions", fields); }
  json chat(const std::string& fields) {
    return good("/v1/chat/completions", kChat + std::string(fields.empty() ? "" : ",") + fields);
  }
  /// The events of a streamed answer; the last, [DONE], is checked and left out.
  std::vector<json> stream(const std::string& path, const std::string& fields) {
    return parse_events(
        http_events(server->port(), "POST", path, "{" + fields + ",\"stream\":true}"));
  }
  static std::vector<json> parse_events(std::vector<std::string> events) {
    EXPECT_FALSE(events.empty());
    EXPECT_EQ(events.back(), "[DONE]");
    events.pop_back();
    std::vector<json> parsed;
    for (const std::string& event : events) parsed.push_back(json::parse(event));
    return parsed;
  }
  static json error_of(const ClientResponse& response) {
    return json::parse(response.body).at("error");
  }
  /// The value of a sample in /metrics.
  double metric(const std::string& sample) {
    const std::string text = "\n" + get("/metrics").body;
    const size_t at = text.find("\n" + sample + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + sample.size() + 2));
  }

  ServerOptions options;
  testing::FakeGenerationService service;
  testing::ByteTextCodec codec;
  std::unique_ptr<OpenAiApi> api;
  std::unique_ptr<HttpServer> server;
};

TEST_F(OpenAiApiTest, CompletesText) {
  start();
  const json answer = completion(R"("model":"fake/model","prompt":"abc","max_tokens":50)");
  EXPECT_TRUE(std::regex_match(answer["id"].get<std::string>(), std::regex("cmpl-[0-9a-f]{24}")));
  EXPECT_EQ(answer["object"], "text_completion");
  EXPECT_EQ(answer["model"], "fake/model");
  EXPECT_NEAR(answer["created"].get<double>(), static_cast<double>(std::time(nullptr)), 5);
  EXPECT_TRUE(answer["system_fingerprint"].is_string());
  ASSERT_EQ(answer["choices"].size(), 1U);
  const json& choice = answer["choices"][0];
  EXPECT_EQ(choice["text"], "Hello, world.");
  EXPECT_EQ(choice["index"], 0);
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_TRUE(choice["logprobs"].is_null());
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(answer["usage"]["completion_tokens"], 13);
  EXPECT_EQ(answer["usage"]["total_tokens"], 16);
  EXPECT_TRUE(service.cancels().empty());
}

TEST_F(OpenAiApiTest, LimitsTokensBySixteenOrAsAskedOrByTheContext) {
  service.set_script({.answer = "abcdefghij", .repeat = true});
  start();
  json answer = completion(R"("prompt":"x")");
  EXPECT_EQ(answer["choices"][0]["text"], "abcdefghijabcdef");
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(completion(R"("prompt":"x","max_tokens":3)")["choices"][0]["text"], "abc");
  // What the prompt leaves of the context: 4096 - 4000.
  const std::string prompt(4000, 'p');
  answer = completion("\"max_tokens\":4096,\"prompt\":\"" + prompt + "\"");
  EXPECT_EQ(answer["usage"]["completion_tokens"], 96);
  EXPECT_EQ(chat("")["usage"]["completion_tokens"], 4096 - 19);
}

TEST_F(OpenAiApiTest, HandsSamplingToTheService) {
  start();
  completion(R"("prompt":"x","temperature":0,"top_k":3,"seed":7,"n":2,"stop_token_ids":[9],
               "user":"me","priority":4,"frequency_penalty":0.5,"logprobs":2,"cache_salt":"z")");
  const auto requests = service.requests();
  ASSERT_EQ(requests.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(requests[i].sampling.temperature, 0.0F);
    EXPECT_EQ(requests[i].sampling.top_k, 3);
    EXPECT_EQ(requests[i].sampling.seed, 7 + i);
    EXPECT_EQ(requests[i].sampling.frequency_penalty, 0.5F);
    EXPECT_EQ(requests[i].sampling.num_top_logprobs, 2);
    EXPECT_EQ(requests[i].stop_token_ids, (std::vector<int32_t>{testing::kEosToken, 9}));
    EXPECT_EQ(requests[i].client, "me");
    EXPECT_EQ(requests[i].priority, 4);
    EXPECT_NE(requests[i].cache_salt, 0U);
    EXPECT_EQ(requests[i].prompt_token_ids, std::vector<int32_t>{'x'});
  }
  completion(R"("prompt":"x","ignore_eos":true,"max_tokens":2)");
  EXPECT_TRUE(service.requests().back().stop_token_ids.empty());
  EXPECT_EQ(service.requests().back().client, "127.0.0.1");
}

TEST_F(OpenAiApiTest, DrawsSeedsWhenNoneIsGiven) {
  start();
  completion(R"("prompt":"x","n":4)");
  completion(R"("prompt":"x","n":4)");
  std::set<uint64_t> seeds;
  for (const Request& request : service.requests()) seeds.insert(request.sampling.seed);
  EXPECT_EQ(seeds.size(), 8U);
}

TEST_F(OpenAiApiTest, AnswersSeveralPromptsAndChoicesInOrder) {
  service.set_script({.answer = "ab", .cached_tokens = 1});
  start();
  const json answer = completion(R"("prompt":["one","three"],"n":2,"echo":true)");
  ASSERT_EQ(answer["choices"].size(), 4U);
  const char* texts[] = {"oneab", "oneab", "threeab", "threeab"};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(answer["choices"][i]["index"], i);
    EXPECT_EQ(answer["choices"][i]["text"], texts[i]);
  }
  EXPECT_EQ(answer["usage"]["prompt_tokens"], 8);  // each prompt once
  EXPECT_EQ(answer["usage"]["completion_tokens"], 8);
  EXPECT_EQ(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
  EXPECT_EQ(completion(R"("prompt":[[104,105],[106]],"echo":true)")["choices"][1]["text"], "jab");
}

TEST_F(OpenAiApiTest, ReportsCompletionLogprobs) {
  service.set_script({.answer = "é!"});
  start();
  const json logprobs = completion(R"("prompt":"x","logprobs":2)")["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"bytes:\\xc3", "bytes:\\xa9", "!"}));
  EXPECT_EQ(logprobs["token_logprobs"], json({-0.25, -0.25, -0.25}));
  EXPECT_EQ(logprobs["text_offset"], json({0, 0, 2}));
  EXPECT_EQ(logprobs["top_logprobs"][2], json({{"!", -0.25}, {" ", -1.25}}));
  EXPECT_EQ(completion(R"("prompt":"x","logprobs":0)")["choices"][0]["logprobs"]["top_logprobs"],
            json({json::object(), json::object(), json::object()}));
}

TEST_F(OpenAiApiTest, Chats) {
  start();
  const json answer = chat(R"("tools":[{"type":"function","function":{"name":"f"}}])");
  EXPECT_TRUE(
      std::regex_match(answer["id"].get<std::string>(), std::regex("chatcmpl-[0-9a-f]{24}")));
  EXPECT_EQ(answer["object"], "chat.completion");
  const json& choice = answer["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], "Hello, world.");
  EXPECT_EQ(choice["finish_reason"], "stop");
  const auto prompt = codec.decode(service.requests()[0].prompt_token_ids);
  EXPECT_EQ(prompt,
            "tools: [{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]\nuser: hi\nassistant:");
  EXPECT_EQ(answer["usage"]["prompt_tokens"], prompt.size());
}

TEST_F(OpenAiApiTest, ReportsChatLogprobs) {
  service.set_script({.answer = "é"});
  start();
  const json content =
      chat(R"("logprobs":true,"top_logprobs":1)")["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), 2U);
  EXPECT_EQ(content[0]["bytes"], json::array({0xC3}));
  EXPECT_EQ(content[0]["token"], "\xEF\xBF\xBD");
  EXPECT_EQ(content[0]["logprob"], -0.25);
  EXPECT_EQ(content[0]["top_logprobs"][0]["bytes"], json::array({0xC3}));
}

TEST_F(OpenAiApiTest, StreamsCompletions) {
  service.set_script({.answer = "é世🛡 ok", .token_delay = 300us});
  start();
  const auto events = stream("/v1/completions", R"("prompt":"p","n":2,"max_tokens":50,"echo":true,
                             "stream_options":{"include_usage":true})");
  std::string texts[2];
  std::string reasons[2];
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    EXPECT_EQ(events[i]["object"], "text_completion");
    EXPECT_EQ(events[i]["id"], events[0]["id"]);
    EXPECT_TRUE(events[i].at("usage").is_null());
    const json& choice = events[i]["choices"][0];
    const size_t index = choice["index"];
    EXPECT_EQ(reasons[index], "") << "text after the finish_reason";
    texts[index] += choice["text"].get<std::string>();
    if (!choice["finish_reason"].is_null()) reasons[index] = choice["finish_reason"];
  }
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(texts[i], "pé世🛡 ok");
    EXPECT_EQ(reasons[i], "stop");
  }
  EXPECT_TRUE(events.back()["choices"].empty());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 24);
  EXPECT_EQ(events.back()["usage"]["prompt_tokens"], 1);
}

TEST_F(OpenAiApiTest, StreamsChats) {
  service.set_script({.answer = "one two", .token_delay = 300us});
  start();
  const auto events =
      stream("/v1/chat/completions", kChat + std::string(R"(,"logprobs":true,"top_logprobs":1)"));
  ASSERT_GE(events.size(), 3U);
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"], json({{"role", "assistant"}, {"content", ""}}));
  std::string text;
  std::string from_logprobs;
  for (size_t i = 1; i + 1 < events.size(); ++i) {
    const json& choice = events[i]["choices"][0];
    text += choice["delta"]["content"].get<std::string>();
    for (const json& token : choice["logprobs"]["content"])
      from_logprobs += token["token"].get<std::string>();
    EXPECT_TRUE(choice["finish_reason"].is_null());
    EXPECT_FALSE(events[i].contains("usage"));
  }
  EXPECT_EQ(text, "one two");
  EXPECT_EQ(from_logprobs, "one two");
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(events.back()["choices"][0]["delta"], json::object());
}

TEST_F(OpenAiApiTest, StopsAtStopStringsAndCancelsTheRest) {
  service.set_script({.answer = "one, two, three; ", .repeat = true, .token_delay = 100us});
  start();
  for (const bool streamed : {false, true}) {
    std::string text;
    std::string reason;
    const std::string fields = R"("prompt":"x","max_tokens":4000,"stop":["three","nowhere"])";
    if (streamed) {
      for (const json& event : stream("/v1/completions", fields)) {
        text += event["choices"][0]["text"].get<std::string>();
        if (event["choices"][0]["finish_reason"].is_string())
          reason = event["choices"][0]["finish_reason"];
      }
    } else {
      const json answer = completion(fields);
      text = answer["choices"][0]["text"];
      reason = answer["choices"][0]["finish_reason"];
      EXPECT_EQ(answer["usage"]["completion_tokens"], 15);
    }
    EXPECT_EQ(text, "one, two, ");
    EXPECT_EQ(reason, "stop");
  }
  EXPECT_TRUE(service.wait_until_idle(1s));
  EXPECT_EQ(service.cancels().size(), 2U);
}

TEST_F(OpenAiApiTest, ShowsTextThatOnlyLookedLikeAStopString) {
  service.set_script({.answer = "abc thre"});
  start();
  EXPECT_EQ(completion(R"("prompt":"x","stop":"three")")["choices"][0]["text"], "abc thre");
}

TEST_F(OpenAiApiTest, ServesEventSources) {
  service.set_script({.answer = "hi there"});
  start();
  const auto text_of = [&](const std::string& target) {
    std::string text;
    for (const json& event : parse_events(http_events(server->port(), "GET", target))) {
      const json& choice = event["choices"][0];
      text += choice.contains("text") ? choice["text"].get<std::string>()
                                      : choice["delta"].value("content", "");
    }
    return text;
  };
  EXPECT_EQ(text_of("/v1/completions/stream?prompt=a%20b&max_tokens=5"), "hi th");
  EXPECT_EQ(codec.decode(service.requests().back().prompt_token_ids), "a b");
  EXPECT_EQ(text_of("/v1/chat/completions/stream?system=be+brief&message=h%C3%A9&temperature=0"),
            "hi there");
  EXPECT_EQ(codec.decode(service.requests().back().prompt_token_ids),
            "system: be brief\nuser: hé\nassistant:");

  const ClientResponse bad = get("/v1/completions/stream?prompt=a&n=99");
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(error_of(bad)["param"], "n");
  EXPECT_EQ(get("/v1/completions/stream?prompt=%").status, 400);
  EXPECT_EQ(get("/v1/completions/stream").status, 400);

  // A browser's EventSource asks again when the stream ends: 204 tells it to stop.
  HttpTestClient again(server->port());
  const size_t num_requests = service.requests().size();
  EXPECT_EQ(
      again.request("GET", "/v1/completions/stream?prompt=a", "", {{"Last-Event-ID", "x"}}).status,
      204);
  EXPECT_EQ(service.requests().size(), num_requests);
}

TEST_F(OpenAiApiTest, ListsModels) {
  start();
  const json list = json::parse(get("/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 1U);
  EXPECT_EQ(list["data"][0]["id"], "fake/model");
  EXPECT_EQ(json::parse(get("/v1/models/fake/model").body), list["data"][0]);
  EXPECT_EQ(json::parse(get("/v1/models/fake%2Fmodel").body), list["data"][0]);
  const ClientResponse missing = get("/v1/models/gpt%22");
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(error_of(missing)["code"], "model_not_found");
}

TEST_F(OpenAiApiTest, HealthFollowsTheServiceState) {
  start();
  struct Row {
    ServiceState state;
    int live, ready, health, generation;
    const char* name;
  };
  for (const Row& row : {Row{ServiceState::kLoading, 200, 503, 200, 503, "loading"},
                         Row{ServiceState::kReady, 200, 200, 200, 200, "ready"},
                         Row{ServiceState::kDraining, 200, 503, 200, 503, "draining"},
                         Row{ServiceState::kFailed, 503, 503, 503, 503, "failed"}}) {
    service.set_state(row.state);
    EXPECT_EQ(get("/live").status, row.live) << row.name;
    EXPECT_EQ(get("/ready").status, row.ready) << row.name;
    const ClientResponse health = get("/health");
    EXPECT_EQ(health.status, row.health) << row.name;
    EXPECT_EQ(json::parse(health.body)["status"], row.name);
    for (const bool stream : {false, true}) {
      const ClientResponse generation = post(
          "/v1/completions", R"("prompt":"x","stream":)" + std::string(stream ? "true" : "false"));
      EXPECT_EQ(generation.status, row.generation) << row.name;
      if (row.generation == 503) {
        EXPECT_EQ(generation.header("retry-after"), "1");
        EXPECT_THAT(error_of(generation)["message"].get<std::string>(), HasSubstr(row.name));
      }
    }
  }
}

TEST_F(OpenAiApiTest, AnswersOptionsHeadAndWrongMethods) {
  start();
  const ClientResponse preflight = http_request(server->port(), "OPTIONS", "/v1/chat/completions");
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.header("access-control-allow-origin"), "*");
  EXPECT_THAT(preflight.header("access-control-allow-methods"), HasSubstr("POST"));
  EXPECT_THAT(preflight.header("access-control-allow-headers"), HasSubstr("Authorization"));
  EXPECT_EQ(preflight.header("content-length"), "");

  for (const char* path : {"/", "/health", "/metrics", "/v1/models", "/v1/models/fake/model"}) {
    EXPECT_EQ(http_request(server->port(), "HEAD", path).status, 200) << path;
    const ClientResponse refused = post(path, "");
    EXPECT_EQ(refused.status, 405) << path;
    EXPECT_EQ(refused.header("allow"), "GET, HEAD, OPTIONS");
  }
  for (const char* path : {"/v1/completions", "/v1/chat/completions"}) {
    for (const char* method : {"GET", "PUT", "DELETE", "PATCH", "ET", "POS", "BREW"}) {
      const ClientResponse refused = http_request(server->port(), method, path);
      EXPECT_EQ(refused.status, 405) << method;
      EXPECT_EQ(refused.header("allow"), "POST, OPTIONS");
      EXPECT_EQ(error_of(refused)["code"], "method_not_allowed");
    }
  }
  EXPECT_EQ(http_request(server->port(), "HEAD", "/v1/completions/stream?prompt=x").status, 405);
  for (const char* path : {"/v1", "/v2/models", "/v1/models/", "/metrics/", "/..", "/%2e%2e"})
    EXPECT_EQ(get(path).status, 404) << path;
  EXPECT_EQ(get("/favicon.ico").status, 204);
}

TEST_F(OpenAiApiTest, ServesThePage) {
  start();
  const ClientResponse page = get("/");
  EXPECT_EQ(page.header("content-type"), "text/html; charset=utf-8");
  EXPECT_THAT(page.header("content-security-policy"), HasSubstr("default-src 'none'"));
  EXPECT_THAT(page.body, HasSubstr("<!doctype html>"));
  EXPECT_THAT(page.body, HasSubstr("EventSource"));
  for (const char* outside : {"http://", "https://", "src=\"", "@import"})
    EXPECT_EQ(page.body.find(outside), std::string::npos) << outside;
  EXPECT_EQ(get("/?ask=x").status, 200);
}

struct BadCase {
  const char* path;
  const char* body;
  int status;
  const char* param;
};

TEST_F(OpenAiApiTest, RefusesBadBodiesInOpenAisShape) {
  start();
  const std::string long_prompt = "{\"prompt\":\"" + std::string(4096, 'x') + "\"}";
  const BadCase cases[] = {
      {"/v1/completions", "", 400, nullptr},
      {"/v1/completions", "[]", 400, nullptr},
      {"/v1/completions", "{\"prompt\":", 400, nullptr},
      {"/v1/completions", "{\"prompt\":\"\xff\"}", 400, nullptr},
      {"/v1/completions", "{\"prompt\":\"x\",\"temperature\":NaN}", 400, nullptr},
      {"/v1/completions", "{\"prompt\":\"x\",\"temperature\":1e999}", 400, nullptr},
      {"/v1/completions", "{}", 400, "prompt"},
      {"/v1/completions", "{\"prompt\":\"\"}", 400, "prompt"},
      {"/v1/completions", "{\"prompt\":[\"a\",\"\"]}", 400, "prompt[1]"},
      {"/v1/completions", long_prompt.c_str(), 400, "prompt"},
      {"/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":0}", 400, "max_tokens"},
      {"/v1/completions", "{\"prompt\":\"x\",\"model\":\"gpt-4\"}", 404, "model"},
      {"/v1/completions", "{\"prompt\":\"x\",\"logit_bias\":{\"1\":5}}", 400, "logit_bias"},
      {"/v1/completions", "{\"prompt\":\"x\",\"stop\":[\"\"]}", 400, "stop"},
      {"/v1/chat/completions", "{}", 400, "messages"},
      {"/v1/chat/completions", "{\"messages\":[{\"role\":\"user\",\"content\":\"REFUSE\"}]}", 400,
       "messages"},
      {"/v1/chat/completions",
       "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"response_format\":{\"type\":\"x\"}"
       "}",
       400, "response_format"},
  };
  for (const BadCase& bad : cases) {
    SCOPED_TRACE(std::string(bad.body).substr(0, 100));
    const ClientResponse response = http_request(server->port(), "POST", bad.path, bad.body);
    EXPECT_EQ(response.status, bad.status);
    EXPECT_EQ(response.header("content-type"), "application/json");
    const json error = error_of(response);
    EXPECT_EQ(error.size(), 4U);
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_FALSE(error["message"].get<std::string>().empty());
    if (bad.param != nullptr) {
      EXPECT_EQ(error["param"], bad.param);
    } else {
      EXPECT_TRUE(error["param"].is_null());
    }
  }
  EXPECT_EQ(error_of(http_request(server->port(), "POST", "/v1/completions", long_prompt))["code"],
            "context_length_exceeded");
  EXPECT_TRUE(service.requests().empty());

  HttpTestClient zipped(server->port());
  EXPECT_EQ(zipped.request("POST", "/v1/completions", "{}", {{"Content-Encoding", "gzip"}}).status,
            415);
}

TEST_F(OpenAiApiTest, RefusesOversizeBodies) {
  options.max_body_bytes = 1000;
  start();
  const ClientResponse response =
      post("/v1/completions", "\"prompt\":\"" + std::string(1000, 'x') + "\"");
  EXPECT_EQ(response.status, 413);
  EXPECT_EQ(error_of(response)["code"], "request_too_large");
}

TEST_F(OpenAiApiTest, AnswersAFullQueueWith429AndTakesNothing) {
  service.set_max_running(3);
  service.hold(true);
  start();
  const ClientResponse refused = post("/v1/completions", R"("prompt":"x","n":4)");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.header("retry-after"), "1");
  EXPECT_EQ(error_of(refused)["type"], "rate_limit_error");
  EXPECT_EQ(service.num_running(), 0U);  // the three that fitted were cancelled
  const ClientResponse streamed = post("/v1/completions", R"("prompt":"x","n":4,"stream":true)");
  EXPECT_EQ(streamed.status, 429);
  service.hold(false);
  completion(R"("prompt":"x","n":3)");
}

TEST_F(OpenAiApiTest, ReportsFailuresBeforeAndWithinAStream) {
  service.set_script({.answer = "abc", .fail_after = 2});
  start();
  const ClientResponse whole = post("/v1/completions", R"("prompt":"x")");
  EXPECT_EQ(whole.status, 400);  // while the job is well: the request can never fit
  EXPECT_EQ(error_of(whole)["message"], "the fake fails as told");

  const auto events = http_events(server->port(), "POST", "/v1/chat/completions",
                                  "{\"stream\":true,\"n\":2," + std::string(kChat) + "}");
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(json::parse(events.back())["error"]["message"], "the fake fails as told");
  for (const std::string& event : events) EXPECT_NE(event, "[DONE]");
  EXPECT_TRUE(service.wait_until_idle(1s));
}

TEST_F(OpenAiApiTest, EndsARequestThatTakesTooLong) {
  options.request_timeout = 100ms;
  service.hold(true);
  start();
  const ClientResponse whole = post("/v1/completions", R"("prompt":"x")");
  EXPECT_EQ(whole.status, 503);
  EXPECT_THAT(whole.body, HasSubstr("100 ms"));
  const auto events =
      http_events(server->port(), "POST", "/v1/completions", R"({"prompt":"x","stream":true})");
  EXPECT_THAT(events.back(), HasSubstr("100 ms"));
  EXPECT_EQ(service.num_running(), 0U);
}

TEST_F(OpenAiApiTest, CancelsAtOnceWhenTheClientGoes) {
  service.set_script({.answer = "on and on ", .repeat = true, .token_delay = 1ms});
  start();
  // The best of five, since the machine may be busy with something else.
  std::map<bool, Clock::duration> fastest = {{true, 1h}, {false, 1h}};
  for (int i = 0; i < 10; ++i) {
    const bool streamed = i % 2 == 0;
    const size_t before = service.cancels().size();
    const size_t num_requests = service.requests().size();
    HttpTestClient client(server->port());
    const std::string body = R"({"prompt":"x","n":3,"max_tokens":4000,"stream":)" +
                             std::string(streamed ? "true}" : "false}");
    client.send_raw("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: " +
                    std::to_string(body.size()) + "\r\n\r\n" + body);
    if (streamed) {
      client.read_head();
      for (int event = 0; event < 5; ++event) client.read_event();
    }
    ASSERT_TRUE(service.wait_for_requests(num_requests + 3, 2s));
    std::this_thread::sleep_for(10ms);
    const auto begin = Clock::now();
    client.close();
    ASSERT_TRUE(service.wait_for_cancels(before + 3, 2s));
    fastest[streamed] = std::min(fastest[streamed], service.cancels().back().second - begin);
    EXPECT_EQ(service.num_running(), 0U);
  }
  EXPECT_LT(fastest[true], 100ms);
  EXPECT_LT(fastest[false], 100ms);
}

TEST_F(OpenAiApiTest, CutsAReaderThatTakesTooLittleAndStaysSmall) {
  options.max_unsent_bytes = 16 * 1024;
  options.send_buffer_bytes = 8192;
  service.mutable_info().max_context_tokens = 10'000'000;
  service.mutable_info().kv_capacity_tokens = 10'000'000;
  service.set_script({.answer = "never read by anybody ", .repeat = true});
  start();
  const double cut_before = metric("phalanx_api_slow_readers_cut_total");
  HttpTestClient client(server->port(), 10s, 4096);
  const std::string body = R"({"prompt":"x","max_tokens":5000000,"stream":true})";
  client.send_raw("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: " +
                  std::to_string(body.size()) + "\r\n\r\n" + body);
  ASSERT_TRUE(service.wait_for_cancels(1, 30s));
  EXPECT_LT(service.num_tokens(), 1'000'000);
  EXPECT_EQ(metric("phalanx_api_slow_readers_cut_total"), cut_before + 1);
  EXPECT_TRUE(client.wait_for_close());
}

TEST_F(OpenAiApiTest, ALaggingReaderGetsFewerEventsAndAllOfTheText) {
  options.send_buffer_bytes = 8192;
  service.set_script({.answer = "0123456789", .repeat = true});
  start();
  HttpTestClient client(server->port(), 10s, 4096);
  const std::string body = R"({"prompt":"x","max_tokens":4000,"stream":true})";
  client.send_raw("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: " +
                  std::to_string(body.size()) + "\r\n\r\n" + body);
  std::this_thread::sleep_for(700ms);
  client.read_head();
  std::string text;
  size_t num_events = 0;
  while (auto event = client.read_event()) {
    if (event->empty() || *event == "[DONE]") continue;
    ++num_events;
    text += json::parse(*event)["choices"][0]["text"].get<std::string>();
  }
  std::string expected;
  for (int i = 0; i < 400; ++i) expected += "0123456789";
  EXPECT_EQ(text, expected);
  EXPECT_LT(num_events, 2000U);
}

TEST_F(OpenAiApiTest, SixtyFourStreamsAtOnce) {
  options.num_threads = 2;
  service.set_script({.answer = "each stream has its own text", .token_delay = 200us});
  start();
  std::vector<std::thread> threads;
  std::atomic<int> num_good{0};
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([&, i] {
      const std::string prompt = "prompt " + std::to_string(i) + " ";
      std::string text;
      const auto events =
          http_events(server->port(), "POST", "/v1/completions",
                      R"({"stream":true,"echo":true,"max_tokens":99,"prompt":")" + prompt + "\"}");
      for (const std::string& event : events) {
        if (event != "[DONE]") text += json::parse(event)["choices"][0]["text"].get<std::string>();
      }
      if (text == prompt + "each stream has its own text" && events.back() == "[DONE]") ++num_good;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_good, 64);
  EXPECT_TRUE(service.cancels().empty());
}

TEST_F(OpenAiApiTest, DrainLetsStreamsFinishAndRefusesNewOnes) {
  service.set_script({.answer = std::string(300, 'a'), .token_delay = 1ms});
  start();
  HttpTestClient late(server->port());
  EXPECT_EQ(late.get("/ready").status, 200);
  std::string text;
  std::thread reader([&] {
    for (const std::string& event :
         http_events(server->port(), "POST", "/v1/completions",
                     R"({"prompt":"x","max_tokens":300,"stream":true})")) {
      if (event != "[DONE]") text += json::parse(event)["choices"][0]["text"].get<std::string>();
    }
  });
  ASSERT_TRUE(service.wait_for_requests(1, 2s));
  service.set_state(ServiceState::kDraining);
  EXPECT_EQ(late.post("/v1/completions", R"({"prompt":"x"})").status, 503);
  EXPECT_TRUE(server->stop(5s));
  reader.join();
  EXPECT_EQ(text.size(), 300U);
}

TEST_F(OpenAiApiTest, StopCancelsWhatOutlivesTheDeadline) {
  service.hold(true);
  start();
  HttpTestClient client(server->port());
  client.send_raw(
      "POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"x\"}");
  ASSERT_TRUE(service.wait_for_requests(1, 2s));
  EXPECT_FALSE(server->stop(50ms));
  EXPECT_EQ(service.cancels().size(), 1U);
}

TEST_F(OpenAiApiTest, CountsWhatHappens) {
  start();
  const std::string good_sample =
      R"(phalanx_api_requests_total{endpoint="completions",status="200"})";
  const std::string bad_sample =
      R"(phalanx_api_requests_total{endpoint="chat_completions",status="400"})";
  const double good_before = metric(good_sample);
  const double bad_before = metric(bad_sample);
  const double tokens_before = metric("phalanx_api_generated_tokens_total");
  const double first_before = metric("phalanx_api_time_to_first_token_seconds_count");
  completion(R"("prompt":"x")");
  post("/v1/chat/completions", "");
  EXPECT_EQ(metric(good_sample), good_before + 1);
  EXPECT_EQ(metric(bad_sample), bad_before + 1);
  EXPECT_EQ(metric("phalanx_api_generated_tokens_total"), tokens_before + 13);
  EXPECT_EQ(metric("phalanx_api_time_to_first_token_seconds_count"), first_before + 1);
  EXPECT_EQ(metric("phalanx_api_open_streams"), 0);
}

}  // namespace
}  // namespace phalanx
