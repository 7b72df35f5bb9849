// Tokenizes prompts and holds them against the context.
#include "runtime/server/prompt_encoding.h"

#include <algorithm>
#include <string>
#include <utility>

namespace phalanx {
namespace {

ApiResult<GenerationCall::Prompt> check_length(GenerationCall::Prompt prompt,
                                               const std::string& field, const ServiceInfo& info) {
  const auto num_tokens = static_cast<int64_t>(prompt.token_ids.size());
  if (num_tokens == 0) return invalid_field(field, field + " is empty: it has no tokens");
  const int64_t capacity = info.kv_capacity_tokens > 0
                               ? std::min(info.max_context_tokens, info.kv_capacity_tokens)
                               : info.max_context_tokens;
  if (num_tokens >= capacity) {
    ApiError error = invalid_field(field, field + " has " + std::to_string(num_tokens) +
                                              " tokens; at most " + std::to_string(capacity - 1) +
                                              " leave room for an answer in this model's " +
                                              std::to_string(capacity) + " tokens");
    error.code = "context_length_exceeded";
    return error;
  }
  return prompt;
}

ApiError with_param(const Error& error, const std::string& field) {
  ApiError api_error = to_api_error(error);
  api_error.param = field;
  return api_error;
}

}  // namespace

ApiResult<std::vector<GenerationCall::Prompt>> make_prompts(const OpenAiRequest& request,
                                                            const TextCodec& codec,
                                                            const ServerOptions& options,
                                                            const ServiceInfo& info) {
  std::vector<GenerationCall::Prompt> prompts;
  const auto take = [&](GenerationCall::Prompt prompt,
                        const std::string& field) -> std::optional<ApiError> {
    auto checked = check_length(std::move(prompt), field, info);
    if (!checked.ok()) return checked.error();
    prompts.push_back(std::move(checked.value()));
    return std::nullopt;
  };

  if (request.is_chat) {
    auto ids = codec.encode_chat(request.messages, request.tools, options.max_prompt_bytes);
    if (!ids.ok()) return with_param(ids.error(), "messages");
    if (auto error = take({std::move(*ids), ""}, "messages")) return std::move(*error);
    return prompts;
  }
  for (size_t i = 0; i < request.prompts.size(); ++i) {
    const std::string field =
        request.prompts.size() == 1 ? "prompt" : "prompt[" + std::to_string(i) + "]";
    GenerationCall::Prompt prompt;
    if (const auto* text = std::get_if<std::string>(&request.prompts[i])) {
      auto ids = codec.encode_prompt(*text);
      if (!ids.ok()) return with_param(ids.error(), field);
      prompt.token_ids = std::move(*ids);
      if (request.echo) prompt.echo = *text;
    } else {
      prompt.token_ids = std::get<std::vector<int32_t>>(request.prompts[i]);
      if (request.echo) prompt.echo = codec.decode(prompt.token_ids);
    }
    if (auto error = take(std::move(prompt), field)) return std::move(*error);
  }
  return prompts;
}

}  // namespace phalanx
