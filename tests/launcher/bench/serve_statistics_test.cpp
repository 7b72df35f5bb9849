// Figures of a load against sums done by hand and by the slow way.
#include "launcher/bench/serve_statistics.h"

#include <algorithm>
#include <cmath>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::bench {
namespace {

using ::testing::HasSubstr;

RequestRecord good(double due, std::vector<double> tokens, int64_t prompt, int64_t output) {
  RequestRecord record;
  record.due_s = due;
  record.started_s = due;
  record.last_s = tokens.back();
  record.ended_s = tokens.back();
  record.token_s = std::move(tokens);
  record.has_usage = true;
  record.prompt_tokens = prompt;
  record.output_tokens = output;
  return record;
}

RequestRecord bad(Outcome outcome, int status = 0) {
  RequestRecord record;
  record.outcome = outcome;
  record.http_status = status;
  return record;
}

TEST(ServeStatisticsTest, ByHand) {
  LoadResult result;
  result.records = {good(0, {1, 2, 4}, 10, 3), good(1, {1.5, 2.5}, 20, 4), good(2, {3}, 30, 1),
                    bad(Outcome::kTimeout), bad(Outcome::kInterrupted)};
  result.elapsed_s = 4;
  result.steady_s = 2;
  ServiceLevel slo;
  slo.ttft_ms = 800;
  const LoadStatistics s = summarize_load(result, slo);
  EXPECT_EQ(s.num_ok, 3);
  EXPECT_EQ(s.num_errors, 1);
  EXPECT_EQ(s.prompt_tokens, 60);
  EXPECT_EQ(s.output_tokens, 8);
  EXPECT_EQ(s.num_events, 6);
  EXPECT_DOUBLE_EQ(s.request_rate, 0.75);
  EXPECT_DOUBLE_EQ(s.output_rate, 2);
  EXPECT_DOUBLE_EQ(s.total_rate, 17);
  // Until second 2: two of three tokens of the first, one of two events of four tokens.
  EXPECT_DOUBLE_EQ(s.steady_output_rate, (2 + 2) / 2.0);
  EXPECT_DOUBLE_EQ(s.goodput, 0.25) << "only the second's first token came within 800 ms";
  EXPECT_DOUBLE_EQ(s.goodput_share, 0.25) << "of three good and one failed";
  EXPECT_DOUBLE_EQ(s.ttft->p50, 1000);
  EXPECT_DOUBLE_EQ(s.ttft->most, 1000);
  EXPECT_NEAR(s.ttft->mean, 2500.0 / 3, 1e-9);
  EXPECT_DOUBLE_EQ(s.e2e->most, 4000);
  EXPECT_DOUBLE_EQ(s.itl->p50, 1000);  // 1, 2 and 1
  EXPECT_DOUBLE_EQ(s.itl->most, 2000);
  EXPECT_DOUBLE_EQ(s.tpot->most, 1500);  // (4 - 1) / 2 and (2.5 - 1.5) / 3
  EXPECT_NEAR(s.tpot->mean, (1500 + 1000.0 / 3) / 2, 1e-9);
}

TEST(ServeStatisticsTest, NothingGood) {
  LoadResult result;
  result.records = {bad(Outcome::kRefused), bad(Outcome::kHttpStatus, 503)};
  result.elapsed_s = 1;
  result.steady_s = 1;
  const LoadStatistics s = summarize_load(result, {});
  EXPECT_EQ(s.num_ok, 0);
  EXPECT_EQ(s.num_errors, 2);
  EXPECT_FALSE(s.ttft || s.itl || s.tpot || s.e2e);
  EXPECT_EQ(s.output_rate, 0);
  EXPECT_EQ(s.goodput_share, 0);
  const LoadStatistics none = summarize_load({}, {});
  EXPECT_EQ(none.num_errors, 0);
  EXPECT_EQ(none.goodput_share, 0);
}

/// The definition, literally: the value at rank q (n - 1), between neighbours in proportion.
double naive_quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  for (size_t i = 0; i + 1 < values.size(); ++i) {
    if (place <= static_cast<double>(i + 1))
      return values[i] + (place - static_cast<double>(i)) * (values[i + 1] - values[i]);
  }
  return values.back();
}

TEST(ServeStatisticsTest, RandomLoadsAgainstTheSlowWay) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> gap(0.001, 0.2);
  for (int round = 0; round < 50; ++round) {
    LoadResult result;
    std::vector<double> ttft;
    std::vector<double> itl;
    double output = 0;
    double steady = 0;
    result.elapsed_s = 30;
    result.steady_s = 1.5;
    const auto count = 1 + random() % 40;
    for (size_t i = 0; i < count; ++i) {
      const double due = gap(random) * 10;
      std::vector<double> tokens = {due + gap(random)};
      const auto length = 1 + random() % 30;
      while (tokens.size() < length) tokens.push_back(tokens.back() + gap(random));
      ttft.push_back(1000 * (tokens[0] - due));
      for (size_t j = 1; j < length; ++j) itl.push_back(1000 * (tokens[j] - tokens[j - 1]));
      for (const double time : tokens) steady += time <= 1.5 ? 1 : 0;
      output += static_cast<double>(length);
      result.records.push_back(good(due, tokens, 1, static_cast<int64_t>(length)));
    }
    const LoadStatistics s = summarize_load(result, {});
    EXPECT_NEAR(s.ttft->p50, naive_quantile(ttft, 0.5), 1e-9);
    EXPECT_NEAR(s.ttft->p99, naive_quantile(ttft, 0.99), 1e-9);
    ASSERT_EQ(s.itl.has_value(), !itl.empty());
    if (!itl.empty()) {
      EXPECT_NEAR(s.itl->p90, naive_quantile(itl, 0.9), 1e-9);
      EXPECT_NEAR(s.itl->p95, naive_quantile(itl, 0.95), 1e-9);
    }
    EXPECT_NEAR(s.output_rate, output / 30, 1e-9);
    EXPECT_NEAR(s.steady_output_rate, steady / 1.5, 1e-9);
    EXPECT_EQ(s.goodput_share, 1) << "no bound, no breach";
  }
}

TEST(ServiceLevelTest, Parse) {
  const auto slo = ServiceLevel::parse("--slo", "ttft=1000,e2e=2.5e4");
  ASSERT_TRUE(slo.ok());
  EXPECT_EQ(slo->ttft_ms, 1000);
  EXPECT_EQ(slo->tpot_ms, std::nullopt);
  EXPECT_EQ(slo->e2e_ms, 25000);
  for (const char* text : {"", "ttft", "ttft=", "ttft=0", "ttft=-1", "ttft=1s", "ttft=1,",
                           ",ttft=1", "ttft=1,ttft=2", "itl=5", "ttft=nan", "ttft=inf"}) {
    const auto wrong = ServiceLevel::parse("--slo", text);
    ASSERT_FALSE(wrong.ok()) << text;
    EXPECT_THAT(wrong.error().message, HasSubstr("--slo is \"" + std::string(text) + "\""));
  }
}

TEST(ServiceLevelTest, EachBoundCounts) {
  const RequestRecord record = good(0, {1, 2, 3}, 1, 3);  // TTFT 1 s, TPOT 1 s, E2E 3 s
  const auto meets = [&](const char* text) {
    return ServiceLevel::parse("--slo", text)->is_met_by(record);
  };
  EXPECT_TRUE(meets("ttft=1000,tpot=1000,e2e=3000")) << "bounds are included";
  EXPECT_FALSE(meets("ttft=999"));
  EXPECT_FALSE(meets("tpot=999"));
  EXPECT_FALSE(meets("e2e=2999"));
  EXPECT_FALSE(ServiceLevel::parse("--slo", "e2e=1e6")->is_met_by(bad(Outcome::kBroken)));
  EXPECT_TRUE(ServiceLevel::parse("--slo", "tpot=1")->is_met_by(good(0, {1}, 1, 1)))
      << "one token has no TPOT";
}

TEST(ServeStatisticsTest, ErrorsInWords) {
  LoadResult result;
  result.records = {bad(Outcome::kRefused), bad(Outcome::kHttpStatus, 503),
                    bad(Outcome::kHttpStatus, 503), bad(Outcome::kHttpStatus, 400),
                    bad(Outcome::kInterrupted)};
  EXPECT_EQ(describe_errors(summarize_load(result, {})),
            "1 refused, 3 http_status (400: 1, 503: 2)");
  EXPECT_EQ(describe_errors(summarize_load({}, {})), "none");
}

TEST(RequestRecordTest, AsJson) {
  const nlohmann::ordered_json json = to_json(good(1, {1.5, 2.0}, 10, 2), 3);
  EXPECT_EQ(json["run"], 3);
  EXPECT_EQ(json["outcome"], "ok");
  EXPECT_EQ(json["ttft_ms"], 500);
  EXPECT_EQ(json["tpot_ms"], 500);
  EXPECT_EQ(json["e2e_ms"], 1000);
  EXPECT_EQ(json["token_ms"], (std::vector<double>{1500, 2000}));
  const nlohmann::ordered_json failed = to_json(bad(Outcome::kHttpStatus, 429), 0);
  EXPECT_EQ(failed["outcome"], "http_status");
  EXPECT_EQ(failed["http_status"], 429);
  EXPECT_FALSE(failed.contains("ttft_ms"));
}

}  // namespace
}  // namespace phalanx::bench
