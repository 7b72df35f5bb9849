// One connection against servers that behave and that do not.
#include "launcher/bench/serve_http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/launcher/bench/scripted_server.h"

namespace phalanx::bench {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using testing::ScriptedConnection;
using testing::ScriptedServer;

HttpTarget target_of(const std::string& url) {
  auto target = resolve_target(*parse_serve_url(url), "");
  EXPECT_TRUE(target.ok());
  return *target;
}

struct Exchange {
  HttpEnd end = HttpEnd::kBroken;
  int status = 0;
  std::string content_type;
  std::string body;
  std::string reason;
  int num_pieces = 0;
};

/// One client, exchange after exchange.
class HttpClientTest : public ::testing::Test {
 protected:
  void connect(const std::string& url) {
    target = target_of(url);
    client.emplace(io, target);
  }
  /// `wish` decides after each piece; by default more.
  Exchange exchange(const std::string& body = "{}", std::chrono::milliseconds timeout = 5s,
                    const std::function<BodyWish(const std::string&)>& wish = {}) {
    Exchange result;
    client->start(
        make_http_request(target, "POST", "/x", body), timeout,
        [&](const HttpHead&, std::string_view bytes) {
          result.body += bytes;
          ++result.num_pieces;
          return wish ? wish(result.body) : BodyWish::kMore;
        },
        [&](HttpEnd end, const HttpHead& head, const std::string& reason) {
          result.end = end;
          result.status = head.status;
          result.content_type = head.content_type;
          result.reason = reason;
        });
    io.restart();
    io.run();
    return result;
  }

  boost::asio::io_context io{1};
  HttpTarget target;
  std::optional<HttpClient> client;
};

TEST_F(HttpClientTest, KeepsTheConnectionAndSendsWhatItIsGiven) {
  ScriptedServer server([](ScriptedConnection& c) { c.respond(200, "text/plain", c.body); });
  connect(server.url());
  for (int i = 0; i < 5; ++i) {
    const std::string body(static_cast<size_t>(i) * 300'000 + 1, 'a');
    const Exchange result = exchange(body);
    EXPECT_EQ(result.end, HttpEnd::kDone) << result.reason;
    EXPECT_EQ(result.status, 200);
    EXPECT_EQ(result.content_type, "text/plain");
    EXPECT_EQ(result.body, body);
  }
  EXPECT_EQ(client->num_connections(), 1);
  EXPECT_EQ(server.num_connections(), 1);
}

TEST_F(HttpClientTest, PiecesComeAsTheyAreSent) {
  ScriptedServer server([](ScriptedConnection& c) {
    c.begin_stream();
    for (int i = 0; i < 5; ++i) {
      c.send_chunk("piece" + std::to_string(i));
      c.sleep(30ms);
    }
    c.end_stream();
  });
  connect(server.url());
  const Exchange result = exchange();
  EXPECT_EQ(result.body, "piece0piece1piece2piece3piece4");
  EXPECT_GE(result.num_pieces, 5);
  EXPECT_EQ(result.end, HttpEnd::kDone);
}

TEST_F(HttpClientTest, HugeChunksAndBytewiseFraming) {
  const std::string large(3'000'000, 'z');
  ScriptedServer server([&](ScriptedConnection& c) {
    if (c.request_number == 0) {
      c.begin_stream();
      c.send_chunk(large);
      return c.end_stream();
    }
    for (const char byte :
         std::string("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: "
                     "chunked\r\n\r\n3;x=y\r\nabc\r\n1\r\nd\r\n0\r\nT: u\r\n\r\n")) {
      c.send(std::string(1, byte));
      std::this_thread::sleep_for(500us);
    }
  });
  connect(server.url());
  EXPECT_EQ(exchange().body, large);
  const Exchange bytewise = exchange();
  EXPECT_EQ(bytewise.end, HttpEnd::kDone) << bytewise.reason;
  EXPECT_EQ(bytewise.body, "abcd");
  EXPECT_EQ(client->num_connections(), 1);
}

TEST_F(HttpClientTest, ABodyThatEndsWithTheConnection) {
  ScriptedServer server([](ScriptedConnection& c) {
    c.send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it");
    c.close();
  });
  connect(server.url());
  for (int i = 0; i < 2; ++i) {
    const Exchange result = exchange();
    EXPECT_EQ(result.end, HttpEnd::kDone) << result.reason;
    EXPECT_EQ(result.body, "all of it");
  }
  EXPECT_EQ(client->num_connections(), 2);
}

TEST_F(HttpClientTest, AConnectionClosedBetweenRequestsIsNoFailure) {
  ScriptedServer server([](ScriptedConnection& c) {
    c.respond(200, "text/plain", "ok");
    c.request_number % 2 == 0 ? c.close() : c.reset();
  });
  connect(server.url());
  for (int i = 0; i < 6; ++i) {
    const Exchange result = exchange();
    EXPECT_EQ(result.end, HttpEnd::kDone) << result.reason;
    EXPECT_EQ(result.body, "ok");
    std::this_thread::sleep_for(5ms);
  }
  EXPECT_EQ(server.num_requests(), 6) << "no request was sent twice to a server that read it";
}

TEST_F(HttpClientTest, AConnectionLostWithinAnAnswerIsAndIsNotTriedAgain) {
  ScriptedServer server([](ScriptedConnection& c) {
    if (c.request_number == 0) return c.respond(200, "text/plain", "ok");
    c.begin_stream();
    c.send_chunk("begun");
    c.sleep(20ms);
    c.reset();
  });
  connect(server.url());
  EXPECT_EQ(exchange().end, HttpEnd::kDone);
  const Exchange result = exchange();
  EXPECT_EQ(result.end, HttpEnd::kBroken);
  EXPECT_EQ(result.body, "begun");
  EXPECT_THAT(result.reason, HasSubstr("receive"));
  EXPECT_EQ(server.num_requests(), 2);
}

TEST_F(HttpClientTest, AFreshConnectionThatSaysNothingIsBroken) {
  ScriptedServer server([](ScriptedConnection& c) { c.close(); });
  connect(server.url());
  EXPECT_EQ(exchange().end, HttpEnd::kBroken);
  EXPECT_EQ(server.num_requests(), 1);
}

TEST_F(HttpClientTest, WhatIsNotHttpIsBroken) {
  const std::string answers[] = {
      "SSH-2.0-OpenSSH_9\r\n\r\n",
      "HTTP/1.1 abc\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
      "HTTP/1.1 200 OK\r\nX: " + std::string(200'000, 'x') + "\r\n\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(200'000, 'x') +
          "\r\na\r\n0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\nabc",
      std::string(300'000, '\0'),
  };
  for (const std::string& answer : answers) {
    ScriptedServer server([&](ScriptedConnection& c) {
      c.send(answer);
      c.sleep(200ms);
      c.close();
    });
    connect(server.url());
    const Exchange result = exchange();
    EXPECT_EQ(result.end, HttpEnd::kBroken) << answer.substr(0, 60);
    EXPECT_FALSE(result.reason.empty());
  }
}

TEST_F(HttpClientTest, AnAnswerBeforeTheRequestIsRead) {
  ScriptedServer server([](ScriptedConnection& c) { c.respond(413, "text/plain", "too large"); });
  // A server that answers from the head alone: the scripted one reads all, so lie about the length.
  connect(server.url());
  const Exchange result = exchange(std::string(4'000'000, 'b'));
  EXPECT_EQ(result.status, 413);
  EXPECT_EQ(result.end, HttpEnd::kDone);
}

TEST_F(HttpClientTest, RefusedNamesTheAddress) {
  const std::string port = std::to_string(testing::unused_port());
  connect("http://127.0.0.1:" + port);
  const Exchange result = exchange();
  EXPECT_EQ(result.end, HttpEnd::kNoConnection);
  EXPECT_THAT(result.reason, HasSubstr("127.0.0.1:" + port));
  EXPECT_EQ(client->num_connections(), 0);
}

TEST_F(HttpClientTest, TimeoutsInEachState) {
  ScriptedServer server([](ScriptedConnection& c) {
    if (c.request_number > 0) {
      c.begin_stream();
      c.send_chunk("x");
    }
    c.sleep(3s);
  });
  connect(server.url());
  for (int i = 0; i < 2; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const Exchange result = exchange("{}", 100ms);
    EXPECT_EQ(result.end, HttpEnd::kTimeout);
    EXPECT_THAT(result.reason, HasSubstr("100 ms"));
    EXPECT_EQ(result.body, i == 0 ? "" : "x");
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 2s);
  }
  server.stop();
  EXPECT_EQ(exchange("{}", 100ms).end, HttpEnd::kNoConnection) << "and goes on afterwards";
}

TEST_F(HttpClientTest, EnoughWaitsAMomentForTheFraming) {
  ScriptedServer server([](ScriptedConnection& c) {
    c.begin_stream();
    c.send_chunk("all");
    if (c.request_number == 0) return c.end_stream();
    c.sleep(20s);
  });
  connect(server.url());
  const auto enough = [](const std::string&) { return BodyWish::kEnough; };
  EXPECT_EQ(exchange("{}", 5s, enough).end, HttpEnd::kDone);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_EQ(exchange("{}", 60s, enough).end, HttpEnd::kDone);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
  EXPECT_EQ(client->num_connections(), 1) << "the first exchange was complete";
}

TEST_F(HttpClientTest, AbandonAndCancel) {
  ScriptedServer server([](ScriptedConnection& c) {
    c.begin_stream();
    c.send_chunk("some");
    c.sleep(5s);
  });
  connect(server.url());
  EXPECT_EQ(exchange("{}", 60s, [](const std::string&) { return BodyWish::kAbandon; }).end,
            HttpEnd::kAbandoned);
  EXPECT_EQ(exchange("{}", 60s,
                     [&](const std::string&) {
                       client->cancel();
                       return BodyWish::kMore;
                     })
                .end,
            HttpEnd::kCancelled);
  client->cancel();  // nothing under way: nothing happens
  EXPECT_EQ(exchange("{}", 100ms).end, HttpEnd::kTimeout);
}

TEST(HttpTargetTest, RequestsCarryHostAndKey) {
  ScriptedServer server([](ScriptedConnection& c) { c.respond(200, "application/json", c.head); });
  const auto target = resolve_target(*parse_serve_url(server.url()), "secret");
  ASSERT_TRUE(target.ok());
  const auto reply = http_get(*target, "/v1/models", 5s);
  ASSERT_TRUE(reply.ok()) << reply.error().message;
  EXPECT_EQ(reply->status, 200);
  EXPECT_THAT(reply->body, HasSubstr("GET /v1/models HTTP/1.1\r\n"));
  EXPECT_THAT(reply->body, HasSubstr("Host: 127.0.0.1:" + std::to_string(server.port()) + "\r\n"));
  EXPECT_THAT(reply->body, HasSubstr("Authorization: Bearer secret\r\n"));
}

TEST(HttpTargetTest, GetFailsByName) {
  const HttpTarget nobody = target_of("http://127.0.0.1:" + std::to_string(testing::unused_port()));
  EXPECT_EQ(http_get(nobody, "/", 5s).error().code, ErrorCode::kUnavailable);
  ScriptedServer server([](ScriptedConnection& c) { c.sleep(5s); });
  EXPECT_EQ(http_get(target_of(server.url()), "/", 50ms).error().code,
            ErrorCode::kDeadlineExceeded);
  ScriptedServer closing([](ScriptedConnection& c) { c.close(); });
  EXPECT_EQ(http_get(target_of(closing.url()), "/", 5s).error().code, ErrorCode::kIoError);
  EXPECT_FALSE(resolve_target(*parse_serve_url("http://no-such-host.invalid"), "").ok());
}

}  // namespace
}  // namespace phalanx::bench
