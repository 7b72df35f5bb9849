// The metrics' names, help texts and buckets.
#include "runtime/server/api_metrics.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/metrics.h"

namespace phalanx::api_metrics {
namespace {

// Any other status is counted as the first of its hundred that is listed, or the last.
constexpr std::array kStatuses = {200, 204, 400, 404, 405, 408, 413, 429, 431, 499, 500, 503};
constexpr std::array kEndpoints = {"completions", "chat_completions", "other"};

using RequestCounters = std::vector<std::unique_ptr<Counter>>;

const RequestCounters& request_counters() {
  static const RequestCounters counters = [] {
    RequestCounters all;
    for (const char* endpoint : kEndpoints) {
      for (const int status : kStatuses) {
        all.push_back(std::make_unique<Counter>(
            "phalanx_api_requests_total", "Requests answered, by endpoint and status",
            "endpoint=\"" + std::string(endpoint) + "\",status=\"" + std::to_string(status) +
                "\""));
      }
    }
    return all;
  }();
  return counters;
}

// Registered at start-up, so that /metrics shows zeros before the first request.
[[maybe_unused]] const RequestCounters& registered = request_counters();

Counter prompt_tokens("phalanx_api_prompt_tokens_total", "Tokens of accepted prompts");
Counter cached_tokens_total("phalanx_api_cached_prompt_tokens_total",
                            "Of those, tokens that the prefix cache had");
Counter generated_tokens("phalanx_api_generated_tokens_total", "Tokens handed to clients");
Counter slow_readers("phalanx_api_slow_readers_cut_total",
                     "Streams ended because the client took too little");
Gauge open_streams("phalanx_api_open_streams", "Generations being answered now");
Histogram first_token("phalanx_api_time_to_first_token_seconds",
                      "From the request's last byte to its first token",
                      {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30});
Histogram next_token("phalanx_api_inter_token_seconds", "Between two tokens of one answer",
                     {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                      0.5, 1, 2.5});
Histogram whole_answer("phalanx_api_request_seconds",
                       "From the request's last byte to the end of its answer",
                       {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300});

std::atomic<int64_t> num_open_streams{0};

}  // namespace

void count_request(Endpoint endpoint, int status) {
  auto index = std::find(kStatuses.begin(), kStatuses.end(), status);
  if (index == kStatuses.end()) {
    index = std::find_if(kStatuses.begin(), kStatuses.end(),
                         [&](int known) { return known / 100 == status / 100; });
    if (index == kStatuses.end()) index = std::prev(kStatuses.end());
  }
  const size_t row = static_cast<size_t>(endpoint) * kStatuses.size();
  request_counters()[row + static_cast<size_t>(index - kStatuses.begin())]->add();
}

void count_prompt(int64_t tokens) { prompt_tokens.add(static_cast<uint64_t>(tokens)); }
void observe_cached_tokens(int64_t tokens) {
  cached_tokens_total.add(static_cast<uint64_t>(std::max<int64_t>(tokens, 0)));
}
void observe_first_token(double seconds) {
  generated_tokens.add();
  first_token.observe(seconds);
}
void observe_next_token(double seconds) {
  generated_tokens.add();
  next_token.observe(seconds);
}
void observe_answer(double seconds) { whole_answer.observe(seconds); }

void stream_opened() { open_streams.set(static_cast<double>(++num_open_streams)); }
void stream_closed() { open_streams.set(static_cast<double>(--num_open_streams)); }
void slow_reader_cut() { slow_readers.add(); }

}  // namespace phalanx::api_metrics
