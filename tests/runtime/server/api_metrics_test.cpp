// The API's metrics reach /metrics under their names.
#include "runtime/server/api_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/metrics.h"

namespace phalanx {
namespace {

using ::testing::HasSubstr;

TEST(ApiMetrics, CountByEndpointAndStatus) {
  using api_metrics::Endpoint;
  api_metrics::count_request(Endpoint::kCompletions, 200);
  api_metrics::count_request(Endpoint::kCompletions, 200);
  api_metrics::count_request(Endpoint::kOther, 503);
  api_metrics::count_request(Endpoint::kChatCompletions, 417);  // not listed: the first 4xx
  api_metrics::count_request(Endpoint::kOther, 777);            // nor is its hundred: the last
  const std::string text = metrics_text();
  for (const char* line : {R"(requests_total{endpoint="completions",status="200"} 2)",
                           R"(requests_total{endpoint="chat_completions",status="400"} 1)",
                           R"(requests_total{endpoint="other",status="503"} 2)",
                           R"(requests_total{endpoint="other",status="200"} 0)"})
    EXPECT_THAT(text, HasSubstr(line));
}

TEST(ApiMetrics, ObserveTokensAndTimes) {
  api_metrics::count_prompt(11);
  api_metrics::observe_cached_tokens(4);
  api_metrics::observe_cached_tokens(-4);  // never counts down
  api_metrics::observe_first_token(0.02);
  api_metrics::observe_next_token(0.002);
  api_metrics::observe_answer(0.03);
  api_metrics::stream_opened();
  const std::string text = metrics_text();
  for (const char* line :
       {"phalanx_api_prompt_tokens_total 11", "phalanx_api_cached_prompt_tokens_total 4",
        "phalanx_api_generated_tokens_total 2", "phalanx_api_time_to_first_token_seconds_count 1",
        "phalanx_api_inter_token_seconds_count 1", "phalanx_api_request_seconds_count 1",
        "phalanx_api_open_streams 1"})
    EXPECT_THAT(text, HasSubstr(line));
  api_metrics::stream_closed();
  EXPECT_THAT(metrics_text(), HasSubstr("phalanx_api_open_streams 0"));
}

}  // namespace
}  // namespace phalanx
