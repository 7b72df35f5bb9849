// What /metrics says about the API: requests by endpoint and status, latencies, tokens. Written by
// openai_api and generation_call. Any thread.
#pragma once

#include <cstdint>

namespace phalanx::api_metrics {

enum class Endpoint : uint8_t { kCompletions, kChatCompletions, kOther };

/// Status as answered; 499 for a client that went away before its answer was complete.
void count_request(Endpoint endpoint, int status);

void count_prompt(int64_t prompt_tokens);
void observe_cached_tokens(int64_t cached_tokens);
void observe_first_token(double seconds_since_request);
void observe_next_token(double seconds_since_previous);
void observe_answer(double seconds_since_request);

void stream_opened();
void stream_closed();
void slow_reader_cut();

}  // namespace phalanx::api_metrics
