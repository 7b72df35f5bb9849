// A call's life against a scripted exchange: who is cancelled when, and what is sent.
#include "runtime/server/generation_call.h"

#include <deque>
#include <map>

#include <gtest/gtest.h>

#include "tests/support/fake_generation_service.h"

namespace phalanx {
namespace {

// An exchange without sockets; posted tasks run when the test says so.
class RecordingExchange final : public HttpExchange {
 public:
  void respond(HttpResponse response) override { responses.push_back(std::move(response)); }
  void begin_stream(HttpResponse, std::string) override { streaming = true; }
  bool send(std::string_view bytes) override {
    if (full) return false;
    sent += bytes;
    return true;
  }
  bool is_sending() const override { return sending; }
  void end_stream() override { ended = true; }
  void abort() override { aborted = true; }
  void on_disconnect(std::function<void()> callback) override { disconnect = std::move(callback); }
  void on_drained(std::function<void()> callback) override { drained = std::move(callback); }
  void on_timeout(std::chrono::milliseconds, std::function<void()> callback) override {
    timeout = std::move(callback);
  }
  void post(std::function<void()> task) override { tasks.push_back(std::move(task)); }

  void run_tasks() {
    while (!tasks.empty()) {
      const auto task = std::move(tasks.front());
      tasks.pop_front();
      task();
    }
  }

  std::vector<HttpResponse> responses;
  std::string sent;
  std::deque<std::function<void()>> tasks;
  std::function<void()> disconnect, drained, timeout;
  bool streaming = false, sending = false, full = false, ended = false, aborted = false;
};

// A service whose updates the test sends by hand.
class ManualService final : public GenerationService {
 public:
  Result<RequestId> submit(Request request, std::shared_ptr<UpdateSink> sink) override {
    if (refuse_from != 0 && sinks.size() + 1 >= refuse_from) return resource_exhausted("full");
    const RequestId id{sinks.size() + 1};
    sinks[id.value] = std::move(sink);
    requests.push_back(std::move(request));
    return id;
  }
  void cancel(RequestId id) override { cancelled.push_back(id.value); }
  ServiceState state() const override { return current; }
  const ServiceInfo& info() const override { return service_info; }

  void token(uint64_t id, char byte, std::optional<FinishReason> finish = std::nullopt) {
    RequestUpdate update;
    update.has_token = true;
    update.token.token_id = static_cast<unsigned char>(byte);
    update.finished = finish.has_value();
    update.reason = finish.value_or(FinishReason::kStop);
    sinks[id]->on_update(update);
  }
  void end(uint64_t id, FinishReason reason) {
    RequestUpdate update;
    update.finished = true;
    update.reason = reason;
    update.error = "as told";
    sinks[id]->on_update(update);
  }

  ServiceInfo service_info{"m", 300, 100, 1000, {256}};
  ServiceState current = ServiceState::kReady;
  size_t refuse_from = 0;
  std::map<uint64_t, std::shared_ptr<UpdateSink>> sinks;
  std::vector<Request> requests;
  std::vector<uint64_t> cancelled;
};

class GenerationCallTest : public ::testing::Test {
 protected:
  // The callbacks hold the call, which holds the exchange; a connection forgets them at the end.
  void TearDown() override {
    exchange->disconnect = exchange->drained = exchange->timeout = nullptr;
    exchange->tasks.clear();
  }

  void start(bool stream, int32_t n = 1, std::vector<std::string> stop = {}) {
    GenerationCall::Start start;
    start.request.stream = stream;
    start.request.n = n;
    start.request.stop = std::move(stop);
    start.prompts = {{{1, 2, 3}, ""}};
    start.received_at = std::chrono::steady_clock::now();
    std::make_shared<GenerationCall>(GenerationCall::Environment{service, codec, options},
                                     std::move(start), exchange)
        ->start();
  }
  std::string body() const { return exchange->responses.at(0).body; }

  ServerOptions options;
  ManualService service;
  testing::ByteTextCodec codec;
  std::shared_ptr<RecordingExchange> exchange = std::make_shared<RecordingExchange>();
};

TEST_F(GenerationCallTest, AnswersOnceAllChoicesAreDone) {
  start(false, 2);
  service.token(1, 'a', FinishReason::kLength);
  service.token(2, 'b');
  exchange->run_tasks();
  EXPECT_TRUE(exchange->responses.empty());
  service.end(2, FinishReason::kStop);
  exchange->run_tasks();
  ASSERT_EQ(exchange->responses.size(), 1U);
  EXPECT_NE(body().find(R"("text":"a","logprobs":null,"finish_reason":"length")"),
            std::string::npos);
  EXPECT_NE(body().find(R"("text":"b","logprobs":null,"finish_reason":"stop")"), std::string::npos);
  EXPECT_TRUE(service.cancelled.empty());
}

TEST_F(GenerationCallTest, OneTaskForManyUpdates) {
  start(true);
  for (const char c : std::string("abcdef")) service.token(1, c);
  EXPECT_EQ(exchange->tasks.size(), 1U);
  exchange->run_tasks();
  EXPECT_NE(exchange->sent.find(R"("text":"abcdef")"), std::string::npos);
}

TEST_F(GenerationCallTest, GathersWhileTheClientLags) {
  start(true);
  exchange->sending = true;
  service.token(1, 'a');
  exchange->run_tasks();
  service.token(1, 'b', FinishReason::kLength);
  exchange->run_tasks();
  EXPECT_EQ(exchange->sent, "");
  EXPECT_FALSE(exchange->ended);
  exchange->sending = false;
  exchange->drained();
  EXPECT_NE(exchange->sent.find(R"("text":"ab")"), std::string::npos);
  EXPECT_NE(exchange->sent.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(exchange->ended);
}

TEST_F(GenerationCallTest, CutsAClientThatLagsTooFar) {
  options.max_unsent_bytes = 100;
  start(true);
  exchange->sending = true;
  for (int i = 0; i < 101; ++i) service.token(1, 'x');
  exchange->run_tasks();
  EXPECT_TRUE(exchange->aborted);
  EXPECT_EQ(service.cancelled, std::vector<uint64_t>{1});
}

TEST_F(GenerationCallTest, CutsAClientWhoseConnectionIsFull) {
  start(true, 2);
  exchange->full = true;
  service.token(1, 'x');
  exchange->run_tasks();
  EXPECT_TRUE(exchange->aborted);
  EXPECT_EQ(service.cancelled, (std::vector<uint64_t>{1, 2}));
}

TEST_F(GenerationCallTest, DisconnectCancelsOnlyWhatStillRuns) {
  start(true, 3);
  service.end(2, FinishReason::kStop);
  exchange->run_tasks();
  exchange->disconnect();
  EXPECT_EQ(service.cancelled, (std::vector<uint64_t>{1, 3}));
  // Updates that were under way find nobody.
  service.token(1, 'a');
  EXPECT_TRUE(exchange->tasks.empty());
}

TEST_F(GenerationCallTest, AFullQueueTakesBackWhatWasTaken) {
  service.refuse_from = 3;
  start(true, 4);
  EXPECT_EQ(exchange->responses.at(0).status, 429);
  EXPECT_FALSE(exchange->streaming);
  EXPECT_EQ(service.cancelled, (std::vector<uint64_t>{1, 2}));
}

TEST_F(GenerationCallTest, StopStringsCancelAndIgnoreWhatFollows) {
  start(false, 1, {"END"});
  for (const char c : std::string("okEN")) service.token(1, c);
  service.token(1, 'D');
  service.token(1, 'x');  // under way while the cancel travels
  exchange->run_tasks();
  EXPECT_EQ(service.cancelled, std::vector<uint64_t>{1});
  EXPECT_NE(body().find(R"("text":"ok","logprobs":null,"finish_reason":"stop")"),
            std::string::npos);
  EXPECT_NE(body().find(R"("completion_tokens":5)"), std::string::npos);
}

TEST_F(GenerationCallTest, FailuresCancelTheOtherChoices) {
  start(false, 2);
  service.end(1, FinishReason::kError);
  exchange->run_tasks();
  EXPECT_EQ(exchange->responses.at(0).status, 400);
  EXPECT_EQ(service.cancelled, std::vector<uint64_t>{2});
}

TEST_F(GenerationCallTest, AFailingJobIs503) {
  start(false);
  service.current = ServiceState::kFailed;
  service.end(1, FinishReason::kError);
  exchange->run_tasks();
  EXPECT_EQ(exchange->responses.at(0).status, 503);
}

TEST_F(GenerationCallTest, ErrorsInAStreamComeAfterItsTextAndWithoutDone) {
  start(true);
  exchange->sending = true;  // the text has not been sent yet
  service.token(1, 'a');
  service.end(1, FinishReason::kCancelled);
  exchange->run_tasks();
  const size_t text = exchange->sent.find(R"("text":"a")");
  const size_t error = exchange->sent.find(R"({"error":)");
  EXPECT_LT(text, error);
  EXPECT_NE(error, std::string::npos);
  EXPECT_EQ(exchange->sent.find("[DONE]"), std::string::npos);
  EXPECT_TRUE(exchange->ended);
}

TEST_F(GenerationCallTest, BoundsAnAnswerThatIsNotStreamed) {
  options.max_answer_bytes = 10;
  start(false, 2);
  for (int i = 0; i < 6; ++i) service.token(1, 'x');
  for (int i = 0; i < 4; ++i) service.token(2, 'x');
  exchange->run_tasks();
  EXPECT_TRUE(exchange->responses.empty());
  service.token(2, 'x');
  exchange->run_tasks();
  EXPECT_EQ(exchange->responses.at(0).status, 400);
  EXPECT_EQ(service.cancelled, (std::vector<uint64_t>{1, 2}));
}

TEST_F(GenerationCallTest, TimeoutAnswers503AndCancels) {
  start(false);
  exchange->timeout();
  EXPECT_EQ(exchange->responses.at(0).status, 503);
  EXPECT_EQ(service.cancelled, std::vector<uint64_t>{1});
  exchange->timeout();
  EXPECT_EQ(exchange->responses.size(), 1U);
}

}  // namespace
}  // namespace phalanx
