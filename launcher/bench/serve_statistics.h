// From the records of a load to the figures people compare. Used by serve.
//
// Definitions, for one request (times on the client's steady clock):
//   begin   closed loop: when the client begins to send (or to connect, on a fresh connection);
//           open loop: when the request was due, so that a server that makes later requests wait
//           does not hide it ("coordinated omission": G. Tene, "How NOT to measure latency"; wrk2).
//   TTFT    time to first token: begin to the first event with text.
//   ITL     inter-token latency: the gaps between successive events with text. Servers may put
//           several tokens into one event: tokens_per_event tells. Percentiles are over the gaps of
//           all requests, so long answers weigh more.
//   TPOT    time per output token: (last - first event) / (output tokens - 1), of answers of two
//           tokens or more.
//   E2E     end-to-end latency: begin to the last event with a choice (text or finish reason).
// and for a run, which lasts from its begin to the end of its last request:
//   output tok/s, total tok/s   output (prompt + output) tokens of all good requests / duration
//   steady output tok/s         the same, of the tokens that arrived while the load was whole
//                               (LoadResult::steady_s), over that time: without the run-out
//   request rate                good requests / duration
//   goodput                     good requests that meet every part of the SLO / duration
// Only good requests (Outcome::kOk) count in latencies. Percentiles interpolate linearly between
// closest ranks (report.h).
// Sources: vLLM's "vllm bench serve" and NVIDIA GenAI-Perf's metrics guide (TTFT, ITL, TPOT, E2E);
// DistServe (arXiv 2401.09670) for goodput.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "launcher/bench/serve_load.h"
#include "runtime/base/result.h"

namespace phalanx::bench {

/// Latency bounds that a request must meet, all of those that are set.
struct ServiceLevel {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;
  std::optional<double> e2e_ms;

  /// "ttft=1000,tpot=100,e2e=20000", each at most once. Errors: kInvalidArgument.
  static Result<ServiceLevel> parse(const std::string& flag, const std::string& text);

  bool is_met_by(const RequestRecord& record) const;
};

/// Of one latency, over the requests (ITL: gaps) that have it; in milliseconds.
struct LatencySummary {
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double most = 0;
};

struct LoadStatistics {
  int64_t num_ok = 0;
  int64_t num_errors = 0;                              ///< neither ok nor interrupted
  std::array<int64_t, kNumOutcomes> num_by_outcome{};  ///< by Outcome
  std::map<int, int64_t> num_by_http_status;           ///< of Outcome::kHttpStatus

  int64_t prompt_tokens = 0;  ///< of good requests, like all below
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  int64_t num_events = 0;         ///< with text
  int64_t num_without_usage = 0;  ///< counted by the client

  double request_rate = 0;  ///< 1/s
  double output_rate = 0;   ///< tok/s
  double total_rate = 0;
  double steady_output_rate = 0;
  double goodput = 0;        ///< requests/s within the SLO
  double goodput_share = 0;  ///< requests within the SLO / (good requests and errors)

  std::optional<LatencySummary> ttft;  ///< empty: no request has it
  std::optional<LatencySummary> itl;
  std::optional<LatencySummary> tpot;
  std::optional<LatencySummary> e2e;
};

/// Of at least one sample, else empty.
std::optional<LatencySummary> summarize_latency(const std::vector<double>& milliseconds);

LoadStatistics summarize_load(const LoadResult& result, const ServiceLevel& slo);

/// "2 refused, 3 http_status (503: 3)"; "none". What Ctrl-C cut off is no error.
std::string describe_errors(const LoadStatistics& statistics);

}  // namespace phalanx::bench
