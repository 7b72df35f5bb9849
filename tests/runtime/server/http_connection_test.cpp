// Mutated requests over real sockets: the server answers or closes within bounded time, never
// falls over, and serves the next client.
#include "runtime/server/http_connection.h"

#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "runtime/server/http_server.h"
#include "runtime/server/openai_api.h"
#include "tests/support/fake_generation_service.h"
#include "tests/support/http_test_client.h"

namespace phalanx {
namespace {

using namespace std::chrono_literals;
using testing::HttpTestClient;
using Clock = std::chrono::steady_clock;

std::string mutate(std::string text, std::mt19937& random) {
  static constexpr std::string_view kPieces[] = {"\r\n",
                                                 "\r\n\r\n",
                                                 "\n",
                                                 "\r",
                                                 ": ",
                                                 " ",
                                                 std::string_view("\0", 1),
                                                 "\xff",
                                                 "{",
                                                 "}",
                                                 "[",
                                                 "]",
                                                 "\"",
                                                 ",",
                                                 "1e999",
                                                 "\\ud800",
                                                 "0\r\n",
                                                 "ffffffff\r\n",
                                                 "Transfer-Encoding: chunked\r\n",
                                                 "Content-Length: 7\r\n",
                                                 "Content-Length: 0\r\n",
                                                 "Connection: close\r\n",
                                                 "Expect: 100-continue\r\n",
                                                 "HTTP/1.0",
                                                 "%",
                                                 "?",
                                                 "GET / HTTP/1.1\r\nHost: t\r\n\r\n"};
  const int edits = 1 + static_cast<int>(random() % 5);
  for (int i = 0; i < edits && !text.empty(); ++i) {
    const size_t at = random() % text.size();
    switch (random() % 5) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, 1 + random() % 8);
        break;
      case 2:
        text.insert(at, kPieces[random() % std::size(kPieces)]);
        break;
      case 3:
        text += text.substr(at, random() % 200);
        break;
      default:
        text.resize(at);
    }
  }
  return text;
}

TEST(HttpConnection, MutatedRequestsNeverHangOrCrash) {
  ServerOptions options;
  options.port = 0;
  options.num_threads = 2;
  options.max_header_bytes = 4096;
  options.max_body_bytes = 8192;
  options.header_timeout = 50ms;
  options.body_timeout = 50ms;
  options.idle_timeout = 50ms;
  options.request_timeout = 500ms;
  testing::FakeGenerationService service;
  const testing::ByteTextCodec codec;
  OpenAiApi api(service, codec, options);
  HttpServer server(options, api);
  ASSERT_TRUE(server.start().ok());

  const std::string json =
      R"({"prompt":"hi","max_tokens":5,"stream":true,"stop":["a"],"n":2,"logprobs":1})";
  const std::string chat =
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"é"}]}],"temperature":0})";
  const auto with_body = [](const std::string& path, const std::string& body) {
    return "POST " + path + " HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n" +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  };
  const std::string seeds[] = {
      with_body("/v1/completions", json),
      with_body("/v1/chat/completions", chat),
      "POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" +
          std::string("e\r\n{\"prompt\":\"x\"}\r\n0\r\nTrailer: t\r\n\r\n"),
      "GET /v1/chat/completions/stream?message=a+b%20c&max_tokens=3 HTTP/1.1\r\nHost: t\r\n\r\n",
      // Two requests in one packet.
      "GET /v1/models/fake%2Fmodel HTTP/1.1\r\nHost: t\r\nConnection: keep-alive\r\n\r\n" +
          std::string("HEAD /health HTTP/1.0\r\n\r\n"),
      "OPTIONS * HTTP/1.1\r\nHost: t\r\nOrigin: null\r\n\r\n",
  };
  constexpr int kThreads = 4;
  constexpr int kRounds = 400;
  std::vector<std::thread> threads;
  std::atomic<int> num_hangs{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(100 + t));
      for (int round = 0; round < kRounds; ++round) {
        const std::string bytes = mutate(seeds[random() % std::size(seeds)], random);
        HttpTestClient client(server.port(), 10s);
        // Often in pieces, sometimes with an early half-close or reset.
        const size_t cut = random() % 3 == 0 ? random() % (bytes.size() + 1) : bytes.size();
        client.send_raw(std::string_view(bytes).substr(0, cut));
        if (cut < bytes.size()) {
          if (random() % 4 == 0) std::this_thread::sleep_for(1ms);
          client.send_raw(std::string_view(bytes).substr(cut));
        }
        switch (random() % 4) {
          case 0:
            client.reset();
            continue;
          case 1:
            client.shutdown_send();
            break;
          default:
            break;
        }
        if (!client.wait_for_close()) ++num_hangs;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_hangs, 0);
  EXPECT_EQ(testing::http_request(server.port(), "GET", "/ready").status, 200);
  EXPECT_TRUE(service.wait_until_idle(2s));
  EXPECT_TRUE(server.stop(5s));
}

}  // namespace
}  // namespace phalanx
