// The bodies of /v1/completions and /v1/chat/completions as one checked struct. Called by
// openai_api; knows no tokenizer, service or socket.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/scheduler/step_plan.h"
#include "runtime/server/api_error.h"
#include "runtime/server/generation_service.h"
#include "runtime/server/json_input.h"
#include "runtime/server/server_options.h"

namespace phalanx {

/// A completion's prompt: text, or tokens.
using PromptInput = std::variant<std::string, std::vector<int32_t>>;

// nlohmann's noexcept move checks an invariant; it does not throw.
// NOLINTNEXTLINE(bugprone-exception-escape)
struct OpenAiRequest {
  bool is_chat = false;
  std::vector<PromptInput> prompts;  ///< completions: at least one
  RequestJson messages;              ///< chat: contents are strings or null
  RequestJson tools;                 ///< chat: null, or a non-empty array
  int32_t n = 1;
  std::optional<int64_t>
      max_tokens;                ///< absent: 16 for completions, the rest of the context (chat)
  SamplingParams sampling;       ///< num_top_logprobs set; seed from `seed`
  std::optional<uint64_t> seed;  ///< absent: drawn at random for each choice
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool echo = false;
  bool stream = false;
  bool include_usage = false;
  int32_t priority = 0;
  std::string client;       ///< `user`, or `safety_identifier`, or empty
  uint64_t cache_salt = 0;  ///< hash of `cache_salt`; 0 when absent
};

/// Fields (those of OpenAI, and top_k, min_p, repetition_penalty, stop_token_ids, ignore_eos,
/// priority, cache_salt), ranges from `options` and `info`:
///   model             absent, or info.model_name; else 404 model_not_found
///   prompt            string, array of strings, array of tokens, array of arrays of tokens
///   max_tokens        [1, max_context_tokens]; cut to what the prompt leaves of the context
///   n                 [1, max_n]; prompts x n <= max_choices
///   temperature       [0, 100]; 0 is greedy        top_p  (0, 1]     min_p  [0, 1]
///   top_k             [0, 2^20] or -1; 0 and -1: off
///   presence_penalty, frequency_penalty  [-2, 2]   repetition_penalty  (0, 100]
///   seed              [-2^63, 2^63)
///   stop              string or up to max_stop_strings of 1 to max_stop_bytes bytes
///   logprobs          completions: [0, max_top_logprobs]; chat: bool with top_logprobs
///   echo              not together with logprobs
///   best_of           only equal to n; logit_bias, suffix: only empty; else code "unsupported"
/// Fields of OpenAI without effect here are listed in the source (kIgnored...); any other field is
/// an error that names it. null is absent.
ApiResult<OpenAiRequest> parse_completion_request(const RequestJson& body,
                                                  const ServerOptions& options,
                                                  const ServiceInfo& info);

/// Messages: roles system, developer (becomes system), user, assistant, tool; content a string, or
/// an array of
/// {"type": "text", "text": ...} parts (joined); null only for an assistant with tool_calls.
/// tools: OpenAI's function tools, handed to the template unless tool_choice is "none"; tool_choice
/// "required" or a named tool, response_format other than text, and audio are refused.
ApiResult<OpenAiRequest> parse_chat_request(const RequestJson& body, const ServerOptions& options,
                                            const ServiceInfo& info);

/// The body that a GET stream's query stands for (EventSource can only GET): each parameter is the
/// field of that name, numbers and booleans unquoted, `stop` may be repeated, include_usage stands
/// for that stream option; completions take `prompt`; chat takes `message` (and `system`), or
/// `messages` as JSON. "stream": true is added.
ApiResult<RequestJson> body_of_query(const std::vector<std::pair<std::string, std::string>>& query,
                                     bool is_chat, const ServerOptions& options);

/// The fields both endpoints share; errors stay in the reader.
void read_shared_fields(FieldReader& fields, const ServerOptions& options, const ServiceInfo& info,
                        OpenAiRequest& request);

/// Checks and flattens `messages` and `tools`; errors stay in the reader.
void read_chat_input(FieldReader& fields, const ServerOptions& options, OpenAiRequest& request);

}  // namespace phalanx
