// What became of one request of a load: times, counts and outcome. Filled by serve_answer and
// serve_load; read by serve_statistics.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace phalanx::bench {

/// How a request ended. All but kOk and kInterrupted are errors.
enum class Outcome {
  kOk,
  kRefused,      ///< no connection: refused, unreachable
  kHttpStatus,   ///< an answer of another status than 200
  kServerError,  ///< an error event within the stream
  kBroken,       ///< the connection or the stream ended before the answer did
  kMalformed,    ///< no event stream, or events that are not JSON of the expected shape
  kTimeout,      ///< --timeout ran out
  kWrongLength,  ///< more tokens than asked for, or fewer although the end token was to be ignored
  kInterrupted   ///< Ctrl-C
};
constexpr int kNumOutcomes = 9;

/// "ok", "refused", "http_status", ...
const char* outcome_name(Outcome outcome);

/// Times are seconds after the begin of the phase (steady clock).
struct RequestRecord {
  int64_t index = 0;         ///< of the workload
  int64_t asked_prompt = 0;  ///< tokens
  int64_t asked_output = 0;  ///< max_tokens

  double due_s = 0;      ///< open loop: the scheduled arrival; closed loop: same as started_s
  double started_s = 0;  ///< when the client began to send (or to connect, if it had to)
  double last_s = 0;     ///< the last event with a choice: text or finish reason
  std::vector<double> token_s;  ///< when each event with text arrived; front(): the first token
  double ended_s = 0;           ///< when the exchange was over, well or not

  bool has_usage = false;  ///< the server counted; else prompt as asked, output by events
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;  ///< of the prompt, from the server's prefix cache, as usage tells
  int64_t output_tokens = 0;

  Outcome outcome = Outcome::kOk;
  int http_status = 0;  ///< 0: no answer
  std::string message;  ///< why it failed; names the system's or the server's reason

  bool ok() const { return outcome == Outcome::kOk; }
  double ttft_s() const { return token_s.front() - due_s; }  ///< needs an event with text
  double e2e_s() const { return last_s - due_s; }
  /// (last - first) / (output_tokens - 1); needs two tokens.
  double tpot_s() const {
    return (last_s - token_s.front()) / static_cast<double>(output_tokens - 1);
  }
};

/// The record as one JSON object, times in milliseconds. `run`: which repetition it belongs to.
nlohmann::ordered_json to_json(const RequestRecord& record, int64_t run);

}  // namespace phalanx::bench
