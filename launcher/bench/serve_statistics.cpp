// Sums, quantiles and counts over records.
#include "launcher/bench/serve_statistics.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "launcher/bench/report.h"

namespace phalanx::bench {
namespace {

constexpr double kMsPerSecond = 1000;
constexpr double kLongestMs = 1e9;

bool has_tpot(const RequestRecord& record) { return record.output_tokens > 1; }

/// Tokens of the answer that arrived by then: each event has its even share of them.
double tokens_until(const RequestRecord& record, double until_s) {
  const auto arrived = std::upper_bound(record.token_s.begin(), record.token_s.end(), until_s) -
                       record.token_s.begin();
  return static_cast<double>(record.output_tokens) * static_cast<double>(arrived) /
         static_cast<double>(record.token_s.size());
}

}  // namespace

Result<ServiceLevel> ServiceLevel::parse(const std::string& flag, const std::string& text) {
  const Error wrong = invalid_argument(
      flag + " is \"" + text +
      "\", must be parts of ttft=MS,tpot=MS,e2e=MS with each MS a number in (0, 1e9]");
  ServiceLevel slo;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    begin = end + 1;
    const size_t equals = part.find('=');
    if (equals == std::string::npos) return wrong;
    const std::string name = part.substr(0, equals);
    std::optional<double>* bound = name == "ttft"   ? &slo.ttft_ms
                                   : name == "tpot" ? &slo.tpot_ms
                                   : name == "e2e"  ? &slo.e2e_ms
                                                    : nullptr;
    if (bound == nullptr || *bound) return wrong;
    double value = 0;
    const char* last = part.data() + part.size();
    const auto [parsed, code] = std::from_chars(part.data() + equals + 1, last, value);
    if (code != std::errc() || parsed != last || !(value > 0 && value <= kLongestMs)) return wrong;
    *bound = value;
  }
  return slo;
}

bool ServiceLevel::is_met_by(const RequestRecord& record) const {
  if (!record.ok()) return false;
  if (ttft_ms && record.ttft_s() * kMsPerSecond > *ttft_ms) return false;
  if (tpot_ms && has_tpot(record) && record.tpot_s() * kMsPerSecond > *tpot_ms) return false;
  return !e2e_ms || record.e2e_s() * kMsPerSecond <= *e2e_ms;
}

std::optional<LatencySummary> summarize_latency(const std::vector<double>& milliseconds) {
  if (milliseconds.empty()) return std::nullopt;
  LatencySummary summary;
  summary.mean = std::accumulate(milliseconds.begin(), milliseconds.end(), 0.0) /
                 static_cast<double>(milliseconds.size());
  summary.p50 = quantile(milliseconds, 0.50);
  summary.p90 = quantile(milliseconds, 0.90);
  summary.p95 = quantile(milliseconds, 0.95);
  summary.p99 = quantile(milliseconds, 0.99);
  summary.most = quantile(milliseconds, 1);
  return summary;
}

LoadStatistics summarize_load(const LoadResult& result, const ServiceLevel& slo) {
  LoadStatistics all;
  std::vector<double> ttft;
  std::vector<double> itl;
  std::vector<double> tpot;
  std::vector<double> e2e;
  int64_t num_within_slo = 0;
  double steady_tokens = 0;
  for (const RequestRecord& record : result.records) {
    ++all.num_by_outcome[static_cast<size_t>(record.outcome)];
    if (record.outcome == Outcome::kHttpStatus) ++all.num_by_http_status[record.http_status];
    if (!record.ok()) {
      all.num_errors += record.outcome == Outcome::kInterrupted ? 0 : 1;
      continue;
    }
    ++all.num_ok;
    all.prompt_tokens += record.prompt_tokens;
    all.cached_tokens += record.cached_tokens;
    all.output_tokens += record.output_tokens;
    all.num_events += static_cast<int64_t>(record.token_s.size());
    all.num_without_usage += record.has_usage ? 0 : 1;
    num_within_slo += slo.is_met_by(record) ? 1 : 0;
    steady_tokens += tokens_until(record, result.steady_s);
    ttft.push_back(record.ttft_s() * kMsPerSecond);
    e2e.push_back(record.e2e_s() * kMsPerSecond);
    if (has_tpot(record)) tpot.push_back(record.tpot_s() * kMsPerSecond);
    for (size_t i = 1; i < record.token_s.size(); ++i)
      itl.push_back((record.token_s[i] - record.token_s[i - 1]) * kMsPerSecond);
  }
  if (result.elapsed_s > 0) {
    all.request_rate = static_cast<double>(all.num_ok) / result.elapsed_s;
    all.output_rate = static_cast<double>(all.output_tokens) / result.elapsed_s;
    all.total_rate = static_cast<double>(all.prompt_tokens + all.output_tokens) / result.elapsed_s;
    all.goodput = static_cast<double>(num_within_slo) / result.elapsed_s;
  }
  if (result.steady_s > 0) all.steady_output_rate = steady_tokens / result.steady_s;
  if (all.num_ok + all.num_errors > 0)
    all.goodput_share =
        static_cast<double>(num_within_slo) / static_cast<double>(all.num_ok + all.num_errors);
  all.ttft = summarize_latency(ttft);
  all.itl = summarize_latency(itl);
  all.tpot = summarize_latency(tpot);
  all.e2e = summarize_latency(e2e);
  return all;
}

std::string describe_errors(const LoadStatistics& statistics) {
  std::string text;
  for (int i = 1; i < kNumOutcomes; ++i) {
    const int64_t count = statistics.num_by_outcome[static_cast<size_t>(i)];
    if (count == 0 || static_cast<Outcome>(i) == Outcome::kInterrupted) continue;
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " " +
            outcome_name(static_cast<Outcome>(i));
    if (static_cast<Outcome>(i) != Outcome::kHttpStatus) continue;
    std::string statuses;
    for (const auto& [status, times] : statistics.num_by_http_status)
      statuses +=
          (statuses.empty() ? "" : ", ") + std::to_string(status) + ": " + std::to_string(times);
    text += " (" + statuses + ")";
  }
  return text.empty() ? "none" : text;
}

}  // namespace phalanx::bench
