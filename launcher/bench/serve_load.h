// Sends a load to a server and records every request: closed loop (streams that each wait for their
// answer) or open loop (arrivals that wait for nobody). Used by serve.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "launcher/bench/serve_answer.h"
#include "launcher/bench/serve_http_client.h"
#include "launcher/bench/serve_record.h"

namespace phalanx::bench {

/// One phase: warm-up, or a measured run.
struct LoadPlan {
  // When to stop: at least one of the two, the earlier one counts. What runs then is waited for.
  int64_t num_requests = 0;  ///< 0: no bound
  double duration_s = 0;     ///< no request begins after that; 0: no bound

  int64_t streams = 1;              ///< closed loop: requests under way at a time
  double rate = 0;                  ///< open loop: arrivals per second; 0: closed loop
  int64_t concurrency_limit = 512;  ///< open loop: arrivals beyond it wait for an answer to end
  uint64_t seed = 0;                ///< of the arrivals
  uint64_t run = 0;                 ///< which repetition: has arrivals of its own

  int64_t first_index = 0;                     ///< requests are numbered from there
  std::chrono::milliseconds timeout{300'000};  ///< of one exchange
  LengthRule length_rule = LengthRule::kAtMost;
  bool shows_progress = false;  ///< one line on stderr, rewritten every second
  std::string title;            ///< of that line
};

/// What to send as request `index`.
struct PreparedRequest {
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  std::string bytes;  ///< make_http_request
};
using PrepareRequest = std::function<PreparedRequest(int64_t index)>;

struct LoadResult {
  std::vector<RequestRecord> records;  ///< of all requests sent, in order of their ends
  double elapsed_s = 0;                ///< begin of the phase to the end of its last request
  /// Until when the load was whole: closed loop, when the first stream found nothing left to send;
  /// open loop, the last arrival.
  double steady_s = 0;
  bool is_interrupted = false;  ///< Ctrl-C or SIGTERM: what was under way was cut off
  std::string gave_up;          ///< why the phase ended early, if it did: the server is gone
  int64_t num_unsent = 0;       ///< arrivals that had come when the phase ended early
  int64_t num_connections = 0;
  double worst_delay_s = 0;  ///< open loop: most that a request began after it was due
  double client_cpu_s = 0;   ///< processor time of this process during the phase
};

/// Runs the phase to its end; blocks. One thread, which sleeps when nothing happens. A stream whose
/// request failed pauses 100 ms, doubling up to 2 s while it fails. When max(16, 2 * streams)
/// requests in a row got no connection or lost it, the server counts as gone.
LoadResult run_load(const HttpTarget& target, const LoadPlan& plan, const PrepareRequest& prepare);

}  // namespace phalanx::bench
