// Names and JSON of a request's record.
#include "launcher/bench/serve_record.h"

#include <cmath>

namespace phalanx::bench {
namespace {

/// Milliseconds to the microsecond.
double to_ms(double seconds) { return std::round(seconds * 1e6) / 1e3; }

}  // namespace

const char* outcome_name(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOk:
      return "ok";
    case Outcome::kRefused:
      return "refused";
    case Outcome::kHttpStatus:
      return "http_status";
    case Outcome::kServerError:
      return "server_error";
    case Outcome::kBroken:
      return "broken";
    case Outcome::kMalformed:
      return "malformed";
    case Outcome::kTimeout:
      return "timeout";
    case Outcome::kWrongLength:
      return "wrong_length";
    case Outcome::kInterrupted:
      return "interrupted";
  }
  return "unknown";
}

nlohmann::ordered_json to_json(const RequestRecord& record, int64_t run) {
  nlohmann::ordered_json json = {{"run", run},
                                 {"index", record.index},
                                 {"outcome", outcome_name(record.outcome)},
                                 {"due_ms", to_ms(record.due_s)},
                                 {"started_ms", to_ms(record.started_s)},
                                 {"ended_ms", to_ms(record.ended_s)},
                                 {"asked_prompt", record.asked_prompt},
                                 {"asked_output", record.asked_output},
                                 {"prompt_tokens", record.prompt_tokens},
                                 {"cached_tokens", record.cached_tokens},
                                 {"output_tokens", record.output_tokens},
                                 {"has_usage", record.has_usage},
                                 {"http_status", record.http_status}};
  if (record.ok() && !record.token_s.empty()) {
    json["ttft_ms"] = to_ms(record.ttft_s());
    json["e2e_ms"] = to_ms(record.e2e_s());
    if (record.output_tokens > 1) json["tpot_ms"] = to_ms(record.tpot_s());
  }
  if (!record.message.empty()) json["message"] = record.message;
  auto times = nlohmann::ordered_json::array();
  for (const double seconds : record.token_s) times.push_back(to_ms(seconds));
  json["token_ms"] = std::move(times);
  return json;
}

}  // namespace phalanx::bench
