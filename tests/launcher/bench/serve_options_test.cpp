// Flags of llm-bench serve: what they become, and what is refused.
#include "launcher/bench/serve_options.h"

#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temporary_directory.h"

namespace phalanx::bench {
namespace {

using ::testing::HasSubstr;

Result<ServeOptions> parse(const std::vector<std::string>& arguments) {
  PHALANX_ASSIGN_OR_RETURN(const BenchOptions options,
                           BenchOptions::parse(arguments, serve_flags()));
  return parse_serve_options(options);
}

TEST(ServeOptionsTest, Defaults) {
  unsetenv("LLM_BENCH_API_KEY");
  const auto options = parse({});
  ASSERT_TRUE(options.ok()) << options.error().message;
  EXPECT_EQ(options->url.authority(), "127.0.0.1:8000");
  EXPECT_EQ(options->plan.streams, 8);
  EXPECT_EQ(options->plan.rate, 0);
  EXPECT_EQ(options->plan.num_requests, 64);
  EXPECT_EQ(options->plan.duration_s, 0);
  EXPECT_EQ(options->num_warmups, 8);
  EXPECT_EQ(options->workload.kind, PromptKind::kIds);
  EXPECT_EQ(options->plan.length_rule, LengthRule::kAtMost);
  EXPECT_FALSE(options->has_slo);
  EXPECT_EQ(options->api_key, "");
  EXPECT_EQ(options->plan.seed, options->workload.seed);
  EXPECT_NE(parse({})->workload.seed, options->workload.seed) << "fresh each time";
}

TEST(ServeOptionsTest, WhatIsGiven) {
  const auto options = parse({"--url",
                              "http://h:9/v3",
                              "--endpoint",
                              "chat",
                              "--rate",
                              "2.5",
                              "--duration",
                              "60",
                              "--concurrency-limit",
                              "7",
                              "--seed",
                              "42",
                              "--ignore-eos",
                              "--usage",
                              "off",
                              "--extra",
                              R"({"cache_prompt":false})",
                              "--timeout",
                              "1.5",
                              "--warmup",
                              "0",
                              "--runs",
                              "3",
                              "--slo",
                              "ttft=5",
                              "--shared-prefix",
                              "9",
                              "--model",
                              "m"});
  ASSERT_TRUE(options.ok()) << options.error().message;
  EXPECT_EQ(options->url.api_path("chat/completions"), "/v3/chat/completions");
  EXPECT_TRUE(options->body.is_chat);
  EXPECT_EQ(options->workload.kind, PromptKind::kText);
  EXPECT_EQ(options->plan.rate, 2.5);
  EXPECT_EQ(options->plan.num_requests, 0) << "the duration alone ends it";
  EXPECT_EQ(options->plan.duration_s, 60);
  EXPECT_EQ(options->plan.concurrency_limit, 7);
  EXPECT_EQ(options->workload.seed, 42U);
  EXPECT_EQ(options->plan.seed, 42U);
  EXPECT_EQ(options->plan.length_rule, LengthRule::kExactly);
  EXPECT_EQ(options->usage, UsageWish::kOff);
  EXPECT_EQ(options->body.extra["cache_prompt"], false);
  EXPECT_EQ(options->plan.timeout.count(), 1500);
  EXPECT_EQ(options->num_warmups, 0);
  EXPECT_EQ(options->num_runs, 3);
  EXPECT_TRUE(options->has_slo);
  EXPECT_EQ(options->workload.shared_prefix, 9);
  EXPECT_EQ(parse({"--ids", "5..99"})->ids->high, 99);
}

TEST(ServeOptionsTest, RefusesAndNames) {
  const struct {
    std::vector<std::string> arguments;
    const char* message;
  } cases[] = {
      {{"--url", "ftp://x"}, "--url"},
      {{"--endpoint", "embeddings"}, "--endpoint is \"embeddings\", must be one of"},
      {{"--streams", "0"}, "--streams"},
      {{"--rate", "0"}, "--rate"},
      {{"--rate", "nan"}, "--rate"},
      {{"--rate", "1", "--streams", "2"}, "give one"},
      {{"--concurrency-limit", "4"}, "only for an open loop"},
      {{"--requests", "-1"}, "--requests"},
      {{"--duration", "0"}, "--duration"},
      {{"--prompt-tokens", "many"}, "--prompt-tokens is \"many\""},
      {{"--output-tokens", "9..1"}, "--output-tokens"},
      {{"--lengths", "/nonexistent/file"}, "/nonexistent/file"},
      {{"--lengths", "/nonexistent/file", "--prompt-tokens", "5"}, "--lengths gives both"},
      {{"--prompt-as", "ids", "--endpoint", "chat"}, "must be text"},
      {{"--prompt-as", "words"}, "--prompt-as"},
      {{"--ids", "5"}, "--ids is \"5\""},
      {{"--ids", "9..5"}, "--ids"},
      {{"--ids", "-5..5"}, "--ids"},
      {{"--ids", "0..9999999999"}, "--ids"},
      {{"--ids", "0..9", "--prompt-as", "text"}, "only for --prompt-as ids"},
      {{"--usage", "maybe"}, "--usage"},
      {{"--extra", "[]"}, "--extra"},
      {{"--extra", "{"}, "--extra"},
      {{"--timeout", "0"}, "--timeout"},
      {{"--seed", "-1"}, "--seed"},
      {{"--runs", "0"}, "--runs"},
      {{"--slo", "fast"}, "--slo is \"fast\""},
      {{"--shared-prefix", "-1"}, "--shared-prefix"},
      {{"--api-key-file", "/nonexistent/key"}, "/nonexistent/key"},
  };
  for (const auto& c : cases) {
    const auto options = parse(c.arguments);
    ASSERT_FALSE(options.ok()) << c.message;
    EXPECT_THAT(options.error().message, HasSubstr(c.message));
  }
}

TEST(ServeOptionsTest, TheKeyComesFromAFileOrTheEnvironment) {
  const phalanx::testing::TemporaryDirectory directory;
  const std::string path = directory.path() + "/key";
  std::ofstream(path) << "from-file\nmore\n";
  setenv("LLM_BENCH_API_KEY", "from-environment", 1);
  EXPECT_EQ(parse({})->api_key, "from-environment");
  EXPECT_EQ(parse({"--api-key-file", path})->api_key, "from-file");
  setenv("LLM_BENCH_API_KEY", "a\r\nX-Evil: 1", 1);
  EXPECT_THAT(parse({}).error().message, HasSubstr("control character"));
  unsetenv("LLM_BENCH_API_KEY");
}

TEST(ServeBodyTest, FieldsOfBothEndpoints) {
  BodyOptions options;
  WorkItem item;
  item.ids = {5, 6};
  item.output_tokens = 9;
  EXPECT_EQ(make_request_body(options, item),
            R"({"prompt":[5,6],"max_tokens":9,"temperature":0.0,"stream":true})");
  options.model = "m";
  options.ignore_eos = true;
  options.include_usage = true;
  options.is_chat = true;
  options.extra = {{"top_k", 1}, {"temperature", 1}};
  item.ids.clear();
  item.text = "say \"hi\"";
  EXPECT_EQ(make_request_body(options, item),
            R"({"model":"m","messages":[{"role":"user","content":"say \"hi\""}],"max_tokens":9,)"
            R"("temperature":1,"stream":true,"stream_options":{"include_usage":true},)"
            R"("ignore_eos":true,"top_k":1})");
}

}  // namespace
}  // namespace phalanx::bench
