// Every limit and setting of the HTTP side in one place. Filled by the launcher from config.proto;
// read by http_server, http_connection and openai_api.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace phalanx {

struct ServerOptions {
  // Listening.
  std::string address = "127.0.0.1";  ///< IPv4 or IPv6 literal or a host name; "0.0.0.0": all
  uint16_t port = 8000;               ///< 0: the system chooses (HttpServer::port() tells)
  int32_t num_threads = 1;            ///< I/O threads; at least 1
  int32_t max_connections = 1024;     ///< open at once; further ones get 503 and are closed

  // One request's bytes.
  size_t max_header_bytes = 16 * 1024;       ///< request line and fields; beyond: 431 (or 414)
  size_t max_header_fields = 100;            ///< beyond: 431
  size_t max_body_bytes = 8 * 1024 * 1024;   ///< beyond: 413
  size_t max_all_bodies_bytes = 256U << 20;  ///< bodies being read, all connections; beyond: 503
  size_t max_pipelined_bytes = 64 * 1024;    ///< read ahead while a request is being answered

  // Time. Each wait of a connection has one of these deadlines.
  std::chrono::milliseconds header_timeout{10'000};  ///< first byte to the end of the header: 408
  std::chrono::milliseconds body_timeout{60'000};    ///< end of header to the end of body: 408
  std::chrono::milliseconds idle_timeout{75'000};    ///< between requests; then closed silently
  std::chrono::milliseconds write_timeout{30'000};   ///< for each 64 KiB the client must take
  std::chrono::milliseconds heartbeat_interval{15'000};  ///< SSE comment when a stream is silent
  std::chrono::milliseconds request_timeout{600'000};    ///< a whole generation: 503 or SSE error

  // A slow reader: what one connection may hold back before it is cut off.
  size_t max_unsent_bytes = 1024 * 1024;
  size_t max_answer_bytes = 64U << 20;  ///< text and logprobs of an answer that is not streamed
  int32_t send_buffer_bytes = 0;        ///< SO_SNDBUF of each connection; 0: the system's choice

  std::string cors_allow_origin = "*";  ///< Access-Control-Allow-Origin; empty: no CORS headers
  int32_t retry_after_seconds = 1;      ///< Retry-After of 429 and 503

  // What a request may ask for (the model's context bounds max_tokens and prompts besides).
  int32_t max_n = 16;                      ///< `n`: answers for one prompt
  int32_t max_prompts = 64;                ///< `prompt` given as an array
  int32_t max_choices = 128;               ///< prompts x n
  size_t max_prompt_bytes = 1024 * 1024;   ///< text of one prompt or rendered chat
  int32_t max_messages = 1024;             ///< `messages`
  int32_t max_tools = 128;                 ///< `tools`
  int32_t max_stop_strings = 16;           ///< `stop`
  size_t max_stop_bytes = 256;             ///< one stop string
  int32_t max_stop_token_ids = 64;         ///< `stop_token_ids`
  int32_t max_top_logprobs = 20;           ///< `logprobs` (completions), `top_logprobs` (chat)
  size_t max_json_depth = 32;              ///< nesting of arrays and objects in a body
  size_t max_json_values = 1024 * 1024;    ///< values in a body (bounds memory, not text)
  int32_t max_priority_magnitude = 100;    ///< `priority` in [-this, this]
  std::string default_system_prompt = "";  ///< put before chats without a system message if set
};

}  // namespace phalanx
