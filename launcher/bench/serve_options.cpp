// Flags to options.
#include "launcher/bench/serve_options.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <random>

namespace phalanx::bench {
namespace {

constexpr int64_t kDefaultRequests = 64;
constexpr int64_t kMaxStreams = 4096;
constexpr int64_t kMaxRequests = 10'000'000;

Result<std::string> read_api_key(const BenchOptions& options) {
  if (!options.is_set("--api-key-file")) {
    const char* key = std::getenv("LLM_BENCH_API_KEY");
    return std::string(key == nullptr ? "" : key);
  }
  const std::string& path = options.text("--api-key-file");
  std::ifstream file(path);
  std::string key;
  if (!std::getline(file, key) && !file.eof())
    return not_found("--api-key-file " + path + ": " + std::strerror(errno));
  return key;
}

Status check_api_key(const std::string& key) {
  for (const char c : key) {
    if (c < ' ' || c == 127)
      return invalid_argument("the API key has a control character; it must be one line of text");
  }
  return {};
}

Result<IdRange> parse_ids(const std::string& text) {
  const size_t dots = text.find("..");
  const Error wrong =
      invalid_argument("--ids is \"" + text + "\", must be LOW..HIGH with 0 <= LOW < HIGH < 2^31");
  if (dots == std::string::npos) return wrong;
  const auto number = [](const std::string& digits) -> int64_t {
    if (digits.empty() || digits.size() > 10 ||
        digits.find_first_not_of("0123456789") != std::string::npos)
      return -1;
    return std::stoll(digits);
  };
  const int64_t low = number(text.substr(0, dots));
  const int64_t high = number(text.substr(dots + 2));
  if (low < 0 || high <= low || high > std::numeric_limits<int32_t>::max()) return wrong;
  return IdRange{static_cast<int32_t>(low), static_cast<int32_t>(high)};
}

Status read_workload(const BenchOptions& options, ServeOptions& serve) {
  WorkloadOptions& workload = serve.workload;
  PHALANX_ASSIGN_OR_RETURN(
      workload.prompt_length,
      LengthDistribution::parse("--prompt-tokens", options.text("--prompt-tokens")));
  PHALANX_ASSIGN_OR_RETURN(
      workload.output_length,
      LengthDistribution::parse("--output-tokens", options.text("--output-tokens")));
  if (options.is_set("--lengths")) {
    if (options.is_set("--prompt-tokens") || options.is_set("--output-tokens"))
      return invalid_argument(
          "--lengths gives both lengths; --prompt-tokens and --output-tokens must not be there "
          "too");
    PHALANX_ASSIGN_OR_RETURN(workload.pairs, read_length_pairs(options.text("--lengths")));
  }
  PHALANX_ASSIGN_OR_RETURN(workload.shared_prefix,
                           options.integer("--shared-prefix", 0, kMaxLengthTokens));
  if (options.is_set("--seed")) {
    PHALANX_ASSIGN_OR_RETURN(const int64_t seed,
                             options.integer("--seed", 0, std::numeric_limits<int64_t>::max()));
    workload.seed = static_cast<uint64_t>(seed);
  } else {
    std::random_device device;
    // 53 bits: every JSON reader gives the same number back.
    workload.seed = ((static_cast<uint64_t>(device()) << 32U) | device()) >> 11U;
  }

  const bool is_chat = serve.body.is_chat;
  std::string kind = is_chat ? "text" : "ids";
  if (options.is_set("--prompt-as")) {
    PHALANX_ASSIGN_OR_RETURN(kind, options.one_of("--prompt-as", {"ids", "text"}));
  }
  if (is_chat && kind == "ids")
    return invalid_argument("--prompt-as is \"ids\", must be text for --endpoint chat");
  workload.kind = kind == "ids" ? PromptKind::kIds : PromptKind::kText;
  if (options.is_set("--ids")) {
    if (workload.kind == PromptKind::kText)
      return invalid_argument("--ids is only for --prompt-as ids, and these prompts are text");
    PHALANX_ASSIGN_OR_RETURN(serve.ids, parse_ids(options.text("--ids")));
  }
  return {};
}

Status read_body(const BenchOptions& options, ServeOptions& serve) {
  PHALANX_ASSIGN_OR_RETURN(const std::string endpoint,
                           options.one_of("--endpoint", {"completions", "chat"}));
  serve.body.is_chat = endpoint == "chat";
  serve.body.model = options.text("--model");
  PHALANX_ASSIGN_OR_RETURN(serve.body.temperature, options.number("--temperature", 0, 100));
  serve.body.ignore_eos = options.is_set("--ignore-eos");
  if (options.is_set("--extra")) {
    const std::string& extra = options.text("--extra");
    serve.body.extra = nlohmann::ordered_json::parse(extra, nullptr, /*allow_exceptions=*/false);
    if (!serve.body.extra.is_object())
      return invalid_argument("--extra is \"" + extra +
                              "\", must be a JSON object of further request fields");
  }
  PHALANX_ASSIGN_OR_RETURN(const std::string usage,
                           options.one_of("--usage", {"auto", "on", "off"}));
  serve.usage = usage == "auto" ? UsageWish::kAuto
                : usage == "on" ? UsageWish::kOn
                                : UsageWish::kOff;
  return {};
}

Status read_plan(const BenchOptions& options, ServeOptions& serve) {
  LoadPlan& plan = serve.plan;
  PHALANX_ASSIGN_OR_RETURN(plan.streams, options.integer("--streams", 1, kMaxStreams));
  if (options.is_set("--rate")) {
    if (options.is_set("--streams"))
      return invalid_argument("--rate makes an open loop and --streams a closed one: give one");
    PHALANX_ASSIGN_OR_RETURN(plan.rate, options.number("--rate", 1e-4, 1e5));
  } else if (options.is_set("--concurrency-limit")) {
    return invalid_argument("--concurrency-limit is only for an open loop, --rate");
  }
  PHALANX_ASSIGN_OR_RETURN(plan.concurrency_limit,
                           options.integer("--concurrency-limit", 1, kMaxStreams));
  if (options.is_set("--requests")) {
    PHALANX_ASSIGN_OR_RETURN(plan.num_requests, options.integer("--requests", 1, kMaxRequests));
  }
  if (options.is_set("--duration")) {
    PHALANX_ASSIGN_OR_RETURN(plan.duration_s, options.number("--duration", 0.1, 1e6));
  } else if (!options.is_set("--requests")) {
    plan.num_requests = kDefaultRequests;
  }
  PHALANX_ASSIGN_OR_RETURN(const double timeout_s, options.number("--timeout", 0.01, 1e5));
  plan.timeout = std::chrono::milliseconds(static_cast<int64_t>(timeout_s * 1000));
  plan.seed = serve.workload.seed;
  plan.length_rule = serve.body.ignore_eos ? LengthRule::kExactly : LengthRule::kAtMost;

  serve.num_warmups = plan.streams;
  if (options.is_set("--warmup")) {
    PHALANX_ASSIGN_OR_RETURN(serve.num_warmups, options.integer("--warmup", 0, kMaxRequests));
  }
  PHALANX_ASSIGN_OR_RETURN(serve.num_runs, options.integer("--runs", 1, 1000));
  return {};
}

}  // namespace

std::vector<Flag> serve_flags() {
  return {
      {"--url", "URL", "http://127.0.0.1:8000",
       "the server; a path like /v3 goes before the API's"},
      {"--model", "NAME", "", "default: the first that the server lists"},
      {"--endpoint", "NAME", "completions", "completions or chat"},
      {"--api-key-file", "FILE", "",
       "its first line is the key; else LLM_BENCH_API_KEY of the environment"},
      {"--streams", "N", "8", "closed loop: requests under way at a time"},
      {"--rate", "R", "", "open loop instead: Poisson arrivals, R a second"},
      {"--concurrency-limit", "N", "512",
       "open loop: arrivals beyond it wait, and their clocks run"},
      {"--requests", "N", "", "how many (default 64 unless --duration is given)"},
      {"--duration", "S", "", "begin no request after S seconds"},
      {"--prompt-tokens", "LENGTH", "128", "N, LOW..HIGH or lognormal:MEDIAN,SIGMA[,MAX]"},
      {"--output-tokens", "LENGTH", "64", "the same, sent as max_tokens"},
      {"--lengths", "FILE", "", "instead: pairs to draw from, PROMPT OUTPUT a line"},
      {"--prompt-as", "KIND", "", "ids or text (default: ids for completions, text for chat)"},
      {"--ids", "LOW..HIGH", "", "token ids to draw from (default: from the server's vocabulary)"},
      {"--shared-prefix", "N", "0", "first tokens that all prompts of the run share"},
      {"--ignore-eos", "", "", "send ignore_eos, and take another length for an error"},
      {"--temperature", "T", "0", "of the sampling"},
      {"--usage", "WISH", "auto", "ask for token counts: auto, on or off"},
      {"--extra", "JSON", "", "further fields of each request, {\"cache_prompt\": false}"},
      {"--timeout", "S", "300", "of one request"},
      {"--warmup", "N", "", "requests before that are not counted (default: as many as streams)"},
      {"--seed", "N", "", "repeats the prompts and arrivals of a run (default: fresh)"},
      {"--runs", "N", "1", "repetitions with other prompts; rows get a sample of each"},
      {"--slo", "LIST", "", "ttft=MS,tpot=MS,e2e=MS: what goodput asks of a request"},
      {"--records", "FILE", "", "every request as a line of JSON"},
  };
}

Result<ServeOptions> parse_serve_options(const BenchOptions& options) {
  ServeOptions serve;
  PHALANX_ASSIGN_OR_RETURN(serve.url, parse_serve_url(options.text("--url")));
  PHALANX_ASSIGN_OR_RETURN(serve.api_key, read_api_key(options));
  PHALANX_RETURN_IF_ERROR(check_api_key(serve.api_key));
  PHALANX_RETURN_IF_ERROR(read_body(options, serve));
  PHALANX_RETURN_IF_ERROR(read_workload(options, serve));
  PHALANX_RETURN_IF_ERROR(read_plan(options, serve));
  serve.has_slo = options.is_set("--slo");
  if (serve.has_slo) {
    PHALANX_ASSIGN_OR_RETURN(serve.slo, ServiceLevel::parse("--slo", options.text("--slo")));
  }
  serve.records_path = options.text("--records");
  return serve;
}

}  // namespace phalanx::bench
