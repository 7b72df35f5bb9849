// llm-bench serve as a whole: against our own HTTP server with scripted tokens, and against servers
// that lack what ours has.
#include <fstream>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/bench/commands.h"
#include "runtime/server/http_server.h"
#include "runtime/server/openai_api.h"
#include "tests/launcher/bench/scripted_server.h"
#include "tests/support/fake_generation_service.h"
#include "tests/support/temporary_directory.h"

namespace phalanx::bench {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using ::testing::HasSubstr;
using testing::ScriptedConnection;
using testing::ScriptedServer;

struct Outcome {
  Status status;
  json report;

  double row(const std::string& name, const std::string& stat = "") const {
    for (const json& m : report["measurements"]) {
      if (m["name"] == name &&
          m["parameters"].value("stat", m["parameters"].value("kind", "")) == stat)
        return m["median"];
    }
    return -1;
  }
  json run(size_t number = 0) const { return report["facts"]["serve"]["runs"][number]; }
};

Outcome serve(std::vector<std::string> arguments) {
  const Command command = serve_command();
  Report report(arguments, /*prints=*/false);
  const auto options = BenchOptions::parse(arguments, command.flags());
  if (!options.ok()) return {options.error(), {}};
  Status status = command.run(*options, report);
  return {std::move(status), json::parse(report.to_json().dump())};
}

/// Our server; answers run to max_tokens.
class OwnServerTest : public ::testing::Test {
 protected:
  OwnServerTest() {
    phalanx::testing::FakeScript script;
    script.answer = "Hello, world. ";
    script.repeat = true;
    script.token_delay = 500us;
    service.set_script(script);
    options.port = 0;
    api = std::make_unique<OpenAiApi>(service, codec, options);
    server = std::make_unique<HttpServer>(options, *api);
    const Status status = server->start();
    EXPECT_TRUE(status.ok());
  }

  phalanx::testing::FakeGenerationService service;
  phalanx::testing::ByteTextCodec codec;
  ServerOptions options;
  std::unique_ptr<OpenAiApi> api;
  std::unique_ptr<HttpServer> server;
};

TEST_F(OwnServerTest, ClosedLoopOfIds) {
  const phalanx::testing::TemporaryDirectory directory;
  const std::string records = directory.path() + "/records.jsonl";
  const Outcome outcome =
      serve({"--url", server->url(), "--requests", "12", "--streams", "3", "--prompt-tokens",
             "20..30", "--output-tokens", "5..9", "--ignore-eos", "--slo", "e2e=60000", "--records",
             records, "--runs", "2", "--seed", "5"});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().message;
  EXPECT_EQ(outcome.run()["ok"], 12);
  EXPECT_EQ(outcome.run()["errors"], "none");
  EXPECT_EQ(outcome.run()["requests_without_usage"], 0);
  EXPECT_GT(outcome.row("output"), 0);
  EXPECT_GT(outcome.row("output_steady"), 0);
  EXPECT_GT(outcome.row("total"), outcome.row("output"));
  EXPECT_EQ(outcome.row("goodput_share"), 1);
  EXPECT_GT(outcome.row("ttft", "p50"), 0);
  EXPECT_LE(outcome.row("ttft", "p50"), outcome.row("ttft", "p99"));
  EXPECT_LE(outcome.row("ttft", "p99"), outcome.row("e2e", "p99"));
  EXPECT_GT(outcome.row("tpot", "mean"), 0.3);
  EXPECT_EQ(outcome.row("errors", "timeout"), -1) << "no row where nothing failed";
  EXPECT_EQ(outcome.report["measurements"][0]["samples"].size(), 2U) << "one of each run";

  // What the server was asked: warm-ups and two runs, no prompt twice, lengths as drawn.
  const std::vector<Request> requests = service.requests();
  ASSERT_EQ(requests.size(), 3U + 24U);
  std::set<std::vector<int32_t>> prompts;
  for (const Request& request : requests) {
    prompts.insert(request.prompt_token_ids);
    EXPECT_GE(request.prompt_token_ids.size(), 20U);
    EXPECT_LE(request.prompt_token_ids.size(), 30U);
  }
  EXPECT_EQ(prompts.size(), requests.size());

  std::ifstream file(records);
  int num_records = 0;
  for (std::string line; std::getline(file, line); ++num_records) {
    const json record = json::parse(line);
    EXPECT_EQ(record["outcome"], "ok");
    EXPECT_EQ(record["output_tokens"], record["asked_output"]);
    EXPECT_EQ(record["prompt_tokens"], record["asked_prompt"]);
    EXPECT_GE(record["index"], 3) << "warm-ups are not recorded";
  }
  EXPECT_EQ(num_records, 24);
}

TEST_F(OwnServerTest, OpenLoopOfChats) {
  const Outcome outcome =
      serve({"--url", server->url(), "--endpoint", "chat", "--rate", "300", "--requests", "15",
             "--prompt-tokens", "800", "--output-tokens", "6", "--warmup", "2"});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().message;
  EXPECT_EQ(outcome.run()["ok"], 15);
  const double ratio = outcome.report["facts"]["serve"]["tokens_per_word"];
  EXPECT_GT(ratio, 3) << "the fake's tokens are bytes";
  EXPECT_NEAR(outcome.run()["prompt_tokens_mean"].get<double>(), 800, 100);
  EXPECT_EQ(outcome.run()["output_tokens_mean"], 6);
}

TEST_F(OwnServerTest, ABusyServersRefusalsAreCounted) {
  service.set_max_running(2);
  const Outcome outcome = serve({"--url", server->url(), "--requests", "12", "--streams", "6",
                                 "--output-tokens", "40", "--warmup", "1"});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().message;
  EXPECT_GT(outcome.row("errors", "http_status"), 0);
  EXPECT_EQ(outcome.run()["ok"].get<int>() + outcome.row("errors", "http_status"), 12);
  EXPECT_THAT(outcome.run()["failures"]["http_status"].get<std::string>(), HasSubstr("HTTP "));
}

TEST_F(OwnServerTest, AFirstRequestThatIsRefusedEndsItWithTheServersWords) {
  const Outcome outcome =
      serve({"--url", server->url(), "--ids", "290..400", "--prompt-tokens", "500"});
  ASSERT_FALSE(outcome.status.ok());
  EXPECT_THAT(outcome.status.error().message, HasSubstr("the first request failed: HTTP 400"));
  EXPECT_THAT(outcome.status.error().message, HasSubstr("token id in [0, 300)"));
  const Outcome model = serve({"--url", server->url(), "--model", "other"});
  EXPECT_THAT(model.status.error().message, HasSubstr("HTTP 404"));
}

TEST(ServeTest, WithoutUsageAndWithoutAModelList) {
  ScriptedServer server([](ScriptedConnection& c) {
    if (c.head.starts_with("GET")) return c.respond(404, "text/html", "<html>");
    if (c.body.find("stream_options") != std::string::npos)
      return c.respond(422, "application/json", R"({"detail":"extra field stream_options"})");
    EXPECT_EQ(c.body.find("model"), std::string::npos);
    c.send_answer(3, 0);
  });
  const Outcome outcome =
      serve({"--url", server.url(), "--requests", "4", "--streams", "2", "--output-tokens", "3"});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().message;
  EXPECT_EQ(outcome.run()["ok"], 4);
  EXPECT_EQ(outcome.run()["requests_without_usage"], 4);
  EXPECT_EQ(outcome.run()["output_tokens_mean"], 3);
  EXPECT_FALSE(outcome.report["facts"]["serve"]["include_usage"].get<bool>());
}

TEST(ServeTest, LlamaCppTellsItsVocabulary) {
  ScriptedServer server([](ScriptedConnection& c) {
    if (c.head.starts_with("GET"))
      return c.respond(200, "application/json",
                       R"({"object":"list","data":[{"id":"gguf","meta":{"n_vocab":32000}}]})");
    c.send_answer(3, 5);
  });
  const Outcome outcome = serve({"--url", server.url(), "--requests", "1", "--output-tokens", "3"});
  ASSERT_TRUE(outcome.status.ok()) << outcome.status.error().message;
  EXPECT_EQ(outcome.report["facts"]["serve"]["model"], "gguf");
  EXPECT_EQ(outcome.report["facts"]["serve"]["ids"], json({256, 29999}));
  const json body = json::parse(server.bodies().back());
  EXPECT_EQ(body["model"], "gguf");
  EXPECT_EQ(body["prompt"].size(), 128U);
}

TEST(ServeTest, NobodyThere) {
  const Outcome outcome =
      serve({"--url", "http://127.0.0.1:" + std::to_string(testing::unused_port())});
  ASSERT_FALSE(outcome.status.ok());
  EXPECT_EQ(outcome.status.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(outcome.status.error().message, HasSubstr("refused"));
}

TEST(ServeTest, AServerThatWantsAKey) {
  ScriptedServer server([](ScriptedConnection& c) { c.respond(401, "text/plain", "no"); });
  EXPECT_THAT(serve({"--url", server.url()}).status.error().message, HasSubstr("--api-key-file"));
}

TEST(ServeTest, AServerThatDiesLeavesItsRows) {
  std::atomic<int> num_answers{0};
  ScriptedServer server([&](ScriptedConnection& c) {
    if (c.head.starts_with("GET")) return c.respond(404, "text/plain", "");
    if (num_answers++ < 20) return c.send_answer(3, 5);
    c.reset();
  });
  const Outcome outcome = serve({"--url", server.url(), "--requests", "500", "--streams", "10",
                                 "--output-tokens", "3", "--runs", "5"});
  ASSERT_FALSE(outcome.status.ok());
  EXPECT_THAT(outcome.status.error().message, HasSubstr("server seems gone"));
  EXPECT_GT(outcome.row("output"), 0);
  EXPECT_GE(outcome.row("errors", "broken"), 16);
  EXPECT_EQ(outcome.report["facts"]["serve"]["runs"].size(), 1U);
}

}  // namespace
}  // namespace phalanx::bench
