// Loads against a scripted server: how many run at a time, when they begin, what counts as what.
#include "launcher/bench/serve_load.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "launcher/bench/serve_workload.h"
#include "tests/launcher/bench/scripted_server.h"

namespace phalanx::bench {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using testing::ScriptedConnection;
using testing::ScriptedServer;

HttpTarget target_of(const std::string& url) { return *resolve_target(*parse_serve_url(url), ""); }

LoadResult load(const std::string& url, const LoadPlan& plan, int64_t output_tokens = 3) {
  const HttpTarget target = target_of(url);
  return run_load(target, plan, [&](int64_t index) {
    return PreparedRequest{5, output_tokens,
                           make_http_request(target, "POST", "/v1/completions",
                                             "{\"number\":" + std::to_string(index) + "}")};
  });
}

size_t count(const LoadResult& result, Outcome outcome) {
  return static_cast<size_t>(
      std::count_if(result.records.begin(), result.records.end(),
                    [&](const RequestRecord& record) { return record.outcome == outcome; }));
}

TEST(ServeLoadTest, ClosedLoopKeepsItsStreamsBusyAndTheirConnections) {
  ScriptedServer server([](ScriptedConnection& c) { c.send_answer(3, 5, 5ms); });
  LoadPlan plan;
  plan.num_requests = 40;
  plan.streams = 4;
  plan.first_index = 100;
  const LoadResult result = load(server.url(), plan);
  ASSERT_EQ(result.records.size(), 40U);
  EXPECT_EQ(count(result, Outcome::kOk), 40U);
  EXPECT_EQ(server.most_running(), 4);
  EXPECT_EQ(server.num_connections(), 4);
  EXPECT_EQ(result.num_connections, 4);
  std::set<int64_t> indices;
  double longest_gap = 0;
  for (const RequestRecord& record : result.records) {
    indices.insert(record.index);
    EXPECT_EQ(record.due_s, record.started_s);
    EXPECT_EQ(record.output_tokens, 3);
    ASSERT_EQ(record.token_s.size(), 3U);
    EXPECT_GE(record.token_s[0], record.started_s);
    EXPECT_GE(record.token_s[1], record.token_s[0]);
    EXPECT_GE(record.token_s[2] - record.started_s, 0.009);  // two pauses of the server
    longest_gap = std::max(longest_gap, record.token_s[2] - record.token_s[0]);
    EXPECT_GE(record.last_s, record.token_s[2]);
    EXPECT_GE(record.ended_s, record.last_s);
    EXPECT_LE(record.ended_s, result.elapsed_s);
  }
  EXPECT_GE(longest_gap, 0.009);  // tokens are timed as they come; one read late comes close behind
  EXPECT_EQ(*indices.begin(), 100);
  EXPECT_EQ(*indices.rbegin(), 139);
  EXPECT_EQ(indices.size(), 40U);
  EXPECT_GT(result.steady_s, result.elapsed_s / 2);
  EXPECT_LE(result.steady_s, result.elapsed_s);
  EXPECT_GT(result.client_cpu_s, 0);
}

TEST(ServeLoadTest, DurationEndsTheLoadAndWaitsForWhatRuns) {
  ScriptedServer server([](ScriptedConnection& c) { c.send_answer(2, 5, 50ms); });
  LoadPlan plan;
  plan.duration_s = 0.3;
  plan.streams = 3;
  const LoadResult result = load(server.url(), plan, 2);
  EXPECT_EQ(count(result, Outcome::kOk), result.records.size());
  EXPECT_GE(result.records.size(), 6U);
  for (const RequestRecord& record : result.records) EXPECT_LT(record.started_s, 0.3);
  EXPECT_GE(result.steady_s, 0.3);
  EXPECT_GE(result.elapsed_s, 0.3);
}

TEST(ServeLoadTest, OpenLoopArrivesOnScheduleWhateverTheServerDoes) {
  ScriptedServer server([](ScriptedConnection& c) { c.send_answer(1, 5, 0ms); });
  LoadPlan plan;
  plan.num_requests = 60;
  plan.rate = 200;
  plan.seed = 9;
  const LoadResult result = load(server.url(), plan, 1);
  ASSERT_EQ(count(result, Outcome::kOk), 60U);
  std::vector<double> due;
  for (const RequestRecord& record : result.records) {
    EXPECT_GE(record.started_s, record.due_s);
    due.push_back(record.due_s);
  }
  std::sort(due.begin(), due.end());
  PoissonArrivals arrivals(200, 9, 0);
  for (const double time : due) EXPECT_DOUBLE_EQ(time, arrivals.next_s());
  EXPECT_DOUBLE_EQ(result.steady_s, due.back());
}

TEST(ServeLoadTest, WaitingForAFreeConnectionCountsAsLatency) {
  // Each answer takes 20 ms and one runs at a time, but 200 a second arrive.
  ScriptedServer server([](ScriptedConnection& c) {
    c.sleep(20ms);
    c.send_answer(1, 5);
  });
  LoadPlan plan;
  plan.num_requests = 20;
  plan.rate = 200;
  plan.concurrency_limit = 1;
  const LoadResult result = load(server.url(), plan, 1);
  ASSERT_EQ(count(result, Outcome::kOk), 20U);
  EXPECT_EQ(server.most_running(), 1);
  const RequestRecord& last = result.records.back();
  EXPECT_GT(last.ttft_s(), 0.15) << "19 answers before it, not the 20 ms of its own";
  EXPECT_GT(result.worst_delay_s, 0.13);
  for (size_t i = 1; i < result.records.size(); ++i)
    EXPECT_EQ(result.records[i].index, static_cast<int64_t>(i)) << "first come, first served";
}

TEST(ServeLoadTest, EveryFailureIsCountedByItsKindAndTheLoadGoesOn) {
  ScriptedServer server([](ScriptedConnection& c) {
    const std::string number = c.body.substr(10, c.body.size() - 11);
    switch (std::stoi(number) % 10) {
      case 0:
        return c.respond(503, "application/json", R"({"error":{"message":"full"}})");
      case 1:
        c.begin_stream();
        c.send_event("{oops");
        return c.end_stream();
      case 2:
        c.begin_stream();
        c.send_event(R"({"choices":[{"text":"x"}]})");
        return c.reset();
      case 3:
        c.begin_stream();
        c.send_event(R"({"choices":[{"text":"x"}]})");
        return c.end_stream();
      case 4:
        c.begin_stream();
        c.send_event(R"({"error":{"message":"out of memory"}})");
        return c.end_stream();
      case 5:
        return c.send_answer(2, 5);
      case 6:
        return c.sleep(1s);
      case 7:
        return c.respond(200, "application/json", R"({"choices":[]})");
      default:
        return c.send_answer(3, 5);
    }
  });
  LoadPlan plan;
  plan.num_requests = 20;
  plan.streams = 5;
  plan.timeout = 300ms;
  plan.length_rule = LengthRule::kExactly;
  const LoadResult result = load(server.url(), plan);
  ASSERT_EQ(result.records.size(), 20U);
  EXPECT_EQ(count(result, Outcome::kHttpStatus), 2U);
  EXPECT_EQ(count(result, Outcome::kMalformed), 4U);
  EXPECT_EQ(count(result, Outcome::kBroken), 4U);
  EXPECT_EQ(count(result, Outcome::kServerError), 2U);
  EXPECT_EQ(count(result, Outcome::kWrongLength), 2U);
  EXPECT_EQ(count(result, Outcome::kTimeout), 2U);
  EXPECT_EQ(count(result, Outcome::kOk), 4U);
  EXPECT_TRUE(result.gave_up.empty()) << result.gave_up;
  for (const RequestRecord& record : result.records) {
    EXPECT_EQ(record.ok(), record.message.empty());
    if (record.outcome == Outcome::kHttpStatus) {
      EXPECT_EQ(record.http_status, 503);
      EXPECT_EQ(record.message, "HTTP 503: full");
    }
    if (record.outcome == Outcome::kServerError) {
      EXPECT_EQ(record.message, "out of memory");
    }
  }
}

TEST(ServeLoadTest, AServerThatNobodyRunsIsGivenUp) {
  LoadPlan plan;
  plan.num_requests = 1000;
  plan.streams = 16;
  const LoadResult result =
      load("http://127.0.0.1:" + std::to_string(testing::unused_port()), plan);
  EXPECT_EQ(count(result, Outcome::kRefused), result.records.size());
  EXPECT_GE(result.records.size(), 32U);
  EXPECT_LE(result.records.size(), 48U);
  EXPECT_THAT(result.gave_up, HasSubstr("refused"));
}

TEST(ServeLoadTest, AServerThatDiesMidwayLeavesWhatItAnswered) {
  std::atomic<int> num_answers{0};
  ScriptedServer server([&](ScriptedConnection& c) {
    if (num_answers++ < 20) return c.send_answer(3, 5);
    c.reset();
  });
  for (const double rate : {0.0, 500.0}) {
    num_answers = 0;
    LoadPlan plan;
    plan.num_requests = 500;
    plan.streams = 10;
    plan.rate = rate;
    const LoadResult result = load(server.url(), plan);
    EXPECT_EQ(count(result, Outcome::kOk), 20U);
    EXPECT_GE(count(result, Outcome::kBroken), 16U);
    EXPECT_LT(result.records.size(), 250U);
    EXPECT_FALSE(result.gave_up.empty());
  }
}

TEST(ServeLoadTest, CtrlCKeepsWhatWasMeasured) {
  for (const double rate : {0.0, 50.0}) {
    ScriptedServer server([&](ScriptedConnection& c) {
      if (c.request_number < 10) return c.send_answer(3, 5);
      if (c.request_number == 10) std::raise(SIGINT);
      c.sleep(20s);
    });
    LoadPlan plan;
    plan.num_requests = 1000;
    plan.streams = 2;
    plan.rate = rate;
    const LoadResult result = load(server.url(), plan);
    EXPECT_TRUE(result.is_interrupted);
    EXPECT_GE(count(result, Outcome::kOk), 8U) << "others of the ten may still be under way";
    EXPECT_GE(count(result, Outcome::kInterrupted), 1U);
    EXPECT_EQ(count(result, Outcome::kOk) + count(result, Outcome::kInterrupted),
              result.records.size());
    EXPECT_LT(result.elapsed_s, 10);
  }
}

TEST(ServeLoadTest, FailingStreamsPauseInsteadOfSpinning) {
  ScriptedServer server([](ScriptedConnection& c) { c.respond(429, "text/plain", "later"); });
  LoadPlan plan;
  plan.duration_s = 0.5;
  plan.streams = 2;
  const LoadResult result = load(server.url(), plan);
  EXPECT_LE(result.records.size(), 8U) << "100 ms, then 200 ms, then 400 ms between";
  EXPECT_EQ(count(result, Outcome::kHttpStatus), result.records.size());
}

TEST(ServeLoadTest, WaitingCostsNoProcessorTime) {
  ScriptedServer server([](ScriptedConnection& c) {
    std::this_thread::sleep_for(800ms);
    c.send_answer(1, 5);
  });
  LoadPlan plan;
  plan.num_requests = 8;
  plan.streams = 8;
  const LoadResult result = load(server.url(), plan, 1);
  // The server's threads are in the same process; they wait too.
  EXPECT_LT(result.client_cpu_s, 0.2);
}

}  // namespace
}  // namespace phalanx::bench
