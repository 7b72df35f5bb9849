// llm-bench serve: a load on an OpenAI-compatible server, and how long its users wait.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <utility>

#include "launcher/bench/commands.h"
#include "launcher/bench/serve_options.h"
#include "launcher/stop_signal.h"

namespace phalanx::bench {
namespace {

using nlohmann::ordered_json;

constexpr std::chrono::milliseconds kQuestionTimeout{10'000};
constexpr int64_t kOpenLoopWarmupStreams = 8;
constexpr int64_t kVocabularyIfUnknown = 10'000;  // below that of nearly every model

/// What the server tells about itself, as far as it does.
struct ServerFacts {
  std::string model;
  int64_t vocab_size = 0;  ///< 0: not told
};

ordered_json parse_reply(const HttpReply& reply) {
  return reply.status == 200 ? ordered_json::parse(reply.body, nullptr, false) : ordered_json();
}

int64_t positive_integer(const ordered_json& object, const char* name) {
  if (!object.is_object() || !object.contains(name) || !object[name].is_number_integer()) return 0;
  return std::max<int64_t>(0, object[name].get<int64_t>());
}

/// From /v1/models (llama.cpp adds meta.n_vocab) and our own /health (vocab_size).
Result<ServerFacts> ask_server(const HttpTarget& target) {
  ServerFacts facts;
  PHALANX_ASSIGN_OR_RETURN(const HttpReply models,
                           http_get(target, target.url.api_path("models"), kQuestionTimeout));
  if (models.status == 401 || models.status == 403)
    return failed_precondition("the server wants an API key (HTTP " +
                               std::to_string(models.status) +
                               "): --api-key-file or LLM_BENCH_API_KEY");
  const ordered_json list = parse_reply(models);
  if (list.is_object() && list.contains("data") && list["data"].is_array() &&
      !list["data"].empty()) {
    const ordered_json& first = list["data"][0];
    if (first.is_object() && first.contains("id") && first["id"].is_string())
      facts.model = first["id"].get<std::string>();
    if (first.is_object() && first.contains("meta"))
      facts.vocab_size = positive_integer(first["meta"], "n_vocab");
  }
  if (facts.vocab_size == 0) {
    const auto health = http_get(target, target.url.prefix + "/health", kQuestionTimeout);
    if (health.ok()) facts.vocab_size = positive_integer(parse_reply(*health), "vocab_size");
  }
  return facts;
}

/// Ids that are most likely words: control tokens lie at either end of a vocabulary.
IdRange choose_ids(int64_t vocab_size) {
  if (vocab_size == 0) vocab_size = kVocabularyIfUnknown;
  return {static_cast<int32_t>(std::min<int64_t>(256, vocab_size / 8)),
          static_cast<int32_t>(std::max<int64_t>(1, vocab_size * 15 / 16 - 1))};
}

/// The load, its server and what has been learnt of it.
class ServeRun {
 public:
  ServeRun(ServeOptions options, HttpTarget target)
      : options_(std::move(options)),
        target_(std::move(target)),
        workload_(options_.workload),
        path_(target_.url.api_path(options_.body.is_chat ? "chat/completions" : "completions")) {
    options_.plan.shows_progress = isatty(STDERR_FILENO) != 0;
    options_.body.include_usage = options_.usage != UsageWish::kOff;
  }

  Status warm_up() {
    if (options_.num_warmups == 0) return {};
    PHALANX_ASSIGN_OR_RETURN(RequestRecord first, first_request());
    if (options_.usage == UsageWish::kAuto && first.outcome == Outcome::kHttpStatus &&
        (first.http_status == 400 || first.http_status == 422)) {
      options_.body.include_usage = false;
      const std::string message = std::move(first.message);
      PHALANX_ASSIGN_OR_RETURN(first, first_request());
      if (first.outcome == Outcome::kHttpStatus) first.message = message;
    }
    if (!first.ok()) return io_error("the first request failed: " + first.message);
    if (options_.workload.kind == PromptKind::kText && first.has_usage && first.prompt_tokens > 0) {
      // One word a token was assumed; a chat template's tokens count as the words' own.
      tokens_per_word_ =
          static_cast<double>(first.prompt_tokens) / static_cast<double>(first.asked_prompt);
      workload_.set_tokens_per_word(tokens_per_word_);
    }
    if (options_.num_warmups == 1) return {};
    LoadPlan plan = warmup_plan(options_.num_warmups - 1);
    if (plan.rate > 0) {
      plan.streams = kOpenLoopWarmupStreams;
      plan.rate = 0;
    }
    return check(run_phase(plan));
  }

  /// Measured run number `run`. What it found stays in `result`, also where it ends early.
  Status measure(int64_t run, LoadResult& result) {
    LoadPlan plan = options_.plan;
    plan.run = static_cast<uint64_t>(run);
    plan.title = options_.num_runs == 1
                     ? "run"
                     : "run " + std::to_string(run + 1) + "/" + std::to_string(options_.num_runs);
    result = run_phase(plan);
    return check(result);
  }

  ordered_json facts() const {
    return {{"url", "http://" + target_.url.authority() + path_},
            {"model", options_.body.model},
            {"prompt_as", options_.workload.kind == PromptKind::kIds ? "ids" : "text"},
            {"tokens_per_word", tokens_per_word_},
            {"shared_prefix", options_.workload.shared_prefix},
            {"ignore_eos", options_.body.ignore_eos},
            {"include_usage", options_.body.include_usage},
            {"extra", options_.body.extra},
            {"timeout_s", static_cast<double>(options_.plan.timeout.count()) / 1000},
            {"seed", options_.workload.seed}};
  }

  const ServeOptions& options() const { return options_; }

 private:
  LoadPlan warmup_plan(int64_t num_requests) const {
    LoadPlan plan = options_.plan;
    plan.num_requests = num_requests;
    plan.duration_s = 0;
    plan.title = "warm-up";
    return plan;
  }

  Result<RequestRecord> first_request() {
    LoadPlan plan = warmup_plan(1);
    plan.streams = 1;
    plan.rate = 0;
    const LoadResult result = run_phase(plan);
    PHALANX_RETURN_IF_ERROR(check(result));
    return result.records.front();
  }

  LoadResult run_phase(LoadPlan plan) {
    plan.first_index = next_index_;
    int64_t end = next_index_;
    const PrepareRequest prepare = [&](int64_t index) {
      end = std::max(end, index + 1);
      const WorkItem item = workload_.item(index);
      return PreparedRequest{
          item.prompt_tokens, item.output_tokens,
          make_http_request(target_, "POST", path_, make_request_body(options_.body, item))};
    };
    LoadResult result = run_load(target_, plan, prepare);
    catch_stop_signals();  // the load had them
    next_index_ = end;
    return result;
  }

  static Status check(const LoadResult& result) {
    if (result.is_interrupted) return Error{ErrorCode::kCancelled, "interrupted"};
    if (!result.gave_up.empty()) return unavailable("the server seems gone: " + result.gave_up);
    return {};
  }

  ServeOptions options_;
  HttpTarget target_;
  Workload workload_;
  std::string path_;
  int64_t next_index_ = 0;  ///< no prompt is used twice
  double tokens_per_word_ = 1;
};

using Parameters = std::vector<std::pair<std::string, std::string>>;

std::string plain_number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%g", value);
  return text;
}

Parameters load_parameters(const ServeOptions& options) {
  const WorkloadOptions& workload = options.workload;
  const bool has_pairs = !workload.pairs.empty();
  Parameters parameters;
  if (options.plan.rate > 0) {
    parameters.emplace_back("rate", plain_number(options.plan.rate));
  } else {
    parameters.emplace_back("streams", std::to_string(options.plan.streams));
  }
  parameters.emplace_back("in", has_pairs ? "file" : workload.prompt_length.text());
  parameters.emplace_back("out", has_pairs ? "file" : workload.output_length.text());
  return parameters;
}

/// One row from one figure of each run; runs without it are left out.
template <typename Figure>
void add_row(Report& report, const std::vector<LoadStatistics>& runs, const std::string& name,
             const Parameters& parameters, const std::string& unit, Better better,
             const Figure& figure) {
  Measurement row;
  row.name = name;
  row.parameters = parameters;
  row.unit = unit;
  row.better = better;
  for (const LoadStatistics& run : runs) {
    if (const std::optional<double> value = figure(run)) row.samples.push_back(*value);
  }
  if (!row.samples.empty()) report.add(std::move(row));
}

void add_latency_rows(Report& report, const std::vector<LoadStatistics>& runs,
                      const std::string& name, const Parameters& load,
                      std::optional<LatencySummary> LoadStatistics::*latency) {
  const std::pair<const char*, double LatencySummary::*> statistics[] = {
      {"mean", &LatencySummary::mean}, {"p50", &LatencySummary::p50},
      {"p90", &LatencySummary::p90},   {"p95", &LatencySummary::p95},
      {"p99", &LatencySummary::p99},   {"max", &LatencySummary::most}};
  for (const auto& [statistic, field] : statistics) {
    Parameters parameters = load;
    parameters.emplace_back("stat", statistic);
    add_row(report, runs, name, parameters, "ms", Better::kLower,
            [&, member = field](const LoadStatistics& run) -> std::optional<double> {
              const std::optional<LatencySummary>& summary = run.*latency;
              if (!summary) return std::nullopt;
              return (*summary).*member;
            });
  }
}

void add_rows(Report& report, const ServeOptions& options,
              const std::vector<LoadStatistics>& runs) {
  const Parameters load = load_parameters(options);
  const auto rate = [&](const char* name, const char* unit, double LoadStatistics::*field) {
    add_row(report, runs, name, load, unit, Better::kHigher,
            [&](const LoadStatistics& run) -> std::optional<double> {
              if (run.num_ok == 0) return std::nullopt;
              return run.*field;
            });
  };
  rate("requests", "req/s", &LoadStatistics::request_rate);
  rate("output", "tok/s", &LoadStatistics::output_rate);
  rate("output_steady", "tok/s", &LoadStatistics::steady_output_rate);
  rate("total", "tok/s", &LoadStatistics::total_rate);
  if (options.has_slo) {
    rate("goodput", "req/s", &LoadStatistics::goodput);
    rate("goodput_share", "1", &LoadStatistics::goodput_share);
  }
  add_latency_rows(report, runs, "ttft", load, &LoadStatistics::ttft);
  add_latency_rows(report, runs, "tpot", load, &LoadStatistics::tpot);
  add_latency_rows(report, runs, "itl", load, &LoadStatistics::itl);
  add_latency_rows(report, runs, "e2e", load, &LoadStatistics::e2e);
  for (int i = 1; i < kNumOutcomes; ++i) {
    const auto count = [i](const LoadStatistics& run) -> std::optional<double> {
      return static_cast<double>(run.num_by_outcome[static_cast<size_t>(i)]);
    };
    const bool occurs = std::any_of(runs.begin(), runs.end(),
                                    [&](const LoadStatistics& run) { return *count(run) > 0; });
    if (!occurs || static_cast<Outcome>(i) == Outcome::kInterrupted) continue;
    Parameters parameters = load;
    parameters.emplace_back("kind", outcome_name(static_cast<Outcome>(i)));
    add_row(report, runs, "errors", parameters, "req", Better::kLower, count);
  }
}

/// The first message of each kind of failure.
ordered_json failure_examples(const LoadResult& result) {
  ordered_json examples = ordered_json::object();
  for (const RequestRecord& record : result.records) {
    const char* name = outcome_name(record.outcome);
    if (!record.ok() && record.outcome != Outcome::kInterrupted && !examples.contains(name))
      examples[name] = record.message;
  }
  return examples;
}

double client_share(const LoadResult& result) {
  return result.elapsed_s > 0 ? result.client_cpu_s / result.elapsed_s : 0;
}

ordered_json run_facts(const LoadResult& result, const LoadStatistics& statistics) {
  const auto mean = [&](int64_t sum) {
    return statistics.num_ok == 0
               ? 0.0
               : static_cast<double>(sum) / static_cast<double>(statistics.num_ok);
  };
  ordered_json statuses = ordered_json::object();
  for (const auto& [status, count] : statistics.num_by_http_status)
    statuses[std::to_string(status)] = count;
  return {{"requests", result.records.size()},
          {"ok", statistics.num_ok},
          {"errors", describe_errors(statistics)},
          {"cut_off", statistics.num_by_outcome[static_cast<size_t>(Outcome::kInterrupted)]},
          {"http_statuses", statuses},
          {"failures", failure_examples(result)},
          {"elapsed_s", result.elapsed_s},
          {"steady_s", result.steady_s},
          {"prompt_tokens_mean", mean(statistics.prompt_tokens)},
          {"output_tokens_mean", mean(statistics.output_tokens)},
          {"cached_tokens_mean", mean(statistics.cached_tokens)},
          {"tokens_per_event", statistics.num_events == 0
                                   ? 0.0
                                   : static_cast<double>(statistics.output_tokens) /
                                         static_cast<double>(statistics.num_events)},
          {"requests_without_usage", statistics.num_without_usage},
          {"connections", result.num_connections},
          {"worst_delay_ms", result.worst_delay_s * 1000},
          {"unsent", result.num_unsent},
          {"client_cpu_s", result.client_cpu_s},
          {"client_cpu_share", client_share(result)},
          {"interrupted", result.is_interrupted},
          {"gave_up", result.gave_up}};
}

void print_run(const LoadResult& result, const LoadStatistics& statistics) {
  const ordered_json facts = run_facts(result, statistics);
  std::printf(
      "%zu requests in %.1f s%s; errors: %s; prompt %.1f (%.1f cached) and output %.1f tokens "
      "each, "
      "%.2f an event%s; this client used %.1f %% of a core\n",
      result.records.size(), result.elapsed_s,
      result.is_interrupted
          ? (", " + std::to_string(facts["cut_off"].get<int64_t>()) + " of them cut off").c_str()
          : "",
      describe_errors(statistics).c_str(), facts["prompt_tokens_mean"].get<double>(),
      facts["cached_tokens_mean"].get<double>(), facts["output_tokens_mean"].get<double>(),
      facts["tokens_per_event"].get<double>(),
      statistics.num_without_usage > 0 ? " (events counted: the server gives no usage)" : "",
      100 * client_share(result));
  for (const auto& [kind, message] : facts["failures"].items())
    std::printf("  %s: %s\n", kind.c_str(), message.get<std::string>().c_str());
  std::fflush(stdout);
}

Status append_records(std::ofstream& file, const std::string& path, const LoadResult& result,
                      int64_t run) {
  for (const RequestRecord& record : result.records) file << to_json(record, run).dump() << "\n";
  file.flush();
  if (!file) return io_error("--records " + path + ": " + std::strerror(errno));
  return {};
}

Status run(const BenchOptions& flags, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(ServeOptions options, parse_serve_options(flags));
  std::ofstream records;
  if (!options.records_path.empty()) {
    records.open(options.records_path);
    if (!records)
      return io_error("--records " + options.records_path + ": " + std::strerror(errno));
  }
  PHALANX_ASSIGN_OR_RETURN(HttpTarget target, resolve_target(options.url, options.api_key));
  PHALANX_ASSIGN_OR_RETURN(const ServerFacts server, ask_server(target));
  if (options.body.model.empty()) options.body.model = server.model;
  const IdRange ids = options.ids.value_or(choose_ids(server.vocab_size));
  options.workload.low_id = ids.low;
  options.workload.high_id = ids.high;

  ServeRun serve(std::move(options), std::move(target));
  PHALANX_RETURN_IF_ERROR(serve.warm_up());
  std::vector<LoadStatistics> runs;
  ordered_json facts = serve.facts();
  facts["ids"] = {ids.low, ids.high};
  Status status;
  for (int64_t number = 0; status.ok() && number < serve.options().num_runs; ++number) {
    check_stop();
    LoadResult result;
    status = serve.measure(number, result);
    const LoadStatistics statistics = summarize_load(result, serve.options().slo);
    print_run(result, statistics);
    facts["runs"].push_back(run_facts(result, statistics));
    runs.push_back(statistics);
    if (records.is_open())
      PHALANX_RETURN_IF_ERROR(
          append_records(records, serve.options().records_path, result, number));
  }
  std::printf("seed %llu\n", static_cast<unsigned long long>(serve.options().workload.seed));
  report.set_fact("serve", std::move(facts));
  add_rows(report, serve.options(), runs);
  const bool has_answer =
      std::any_of(runs.begin(), runs.end(), [](const LoadStatistics& r) { return r.num_ok > 0; });
  if (status.ok() && !has_answer) return io_error("no request was answered");
  return status;
}

}  // namespace

Command serve_command() {
  return {"serve",     "a load on an OpenAI-compatible server: latencies, throughput, goodput",
          "",          0,
          serve_flags, run};
}

}  // namespace phalanx::bench
