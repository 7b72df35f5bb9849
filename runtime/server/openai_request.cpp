// Every field has a range; an error names the field, the value and what is allowed.
#include "runtime/server/openai_request.h"

#include <algorithm>
#include <limits>

#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using json = RequestJson;

constexpr size_t kMaxNameBytes = 512;  // user, cache_salt, model
constexpr int64_t kMaxTopK = 1 << 20;

// FNV-1a; never 0, which stands for "no salt".
uint64_t hash_salt(const std::string& text) {
  uint64_t hash = 14695981039346656037ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 1099511628211ULL;
  }
  return hash == 0 ? 1 : hash;
}

bool is_token(const json& value, const ServiceInfo& info) {
  return value.is_number_integer() && value.get<int64_t>() >= 0 &&
         value.get<int64_t>() < info.vocab_size &&
         (!value.is_number_unsigned() ||
          value.get<uint64_t>() < static_cast<uint64_t>(info.vocab_size));
}

// Tokens in [0, vocab_size); an error stays in `fields`.
std::vector<int32_t> read_tokens(const json& array, const std::string& name, size_t max_tokens,
                                 const ServiceInfo& info, FieldReader& fields) {
  std::vector<int32_t> tokens;
  if (array.size() > max_tokens) {
    fields.fail(invalid_field(name, name + " has " + std::to_string(array.size()) +
                                        " tokens; at most " + std::to_string(max_tokens) +
                                        " are allowed"));
    return tokens;
  }
  tokens.reserve(array.size());
  for (size_t i = 0; i < array.size(); ++i) {
    if (!is_token(array[i], info)) {
      const std::string element = name + "[" + std::to_string(i) + "]";
      fields.fail(invalid_field(element, element + " must be a token id in [0, " +
                                             std::to_string(info.vocab_size) + "), not " +
                                             excerpt(array[i])));
      return tokens;
    }
    tokens.push_back(array[i].get<int32_t>());
  }
  return tokens;
}

void read_one_prompt(const json& value, const std::string& name, const ServerOptions& options,
                     const ServiceInfo& info, FieldReader& fields, OpenAiRequest& request) {
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    if (text.size() > options.max_prompt_bytes) {
      fields.fail(
          invalid_field(name, name + " has " + std::to_string(text.size()) + " bytes; at most " +
                                  std::to_string(options.max_prompt_bytes) + " are allowed"));
    }
    request.prompts.emplace_back(text);
    return;
  }
  if (!value.is_array() || value.empty()) {
    fields.fail(invalid_field(name, name +
                                        " must be a string, a non-empty array of tokens, or a "
                                        "non-empty array of either, not " +
                                        excerpt(value)));
    return;
  }
  request.prompts.emplace_back(
      read_tokens(value, name, static_cast<size_t>(info.max_context_tokens), info, fields));
}

void read_prompts(const json& value, const ServerOptions& options, const ServiceInfo& info,
                  FieldReader& fields, OpenAiRequest& request) {
  const bool is_list =
      value.is_array() && !value.empty() && (value[0].is_string() || value[0].is_array());
  if (!is_list) return read_one_prompt(value, "prompt", options, info, fields, request);
  if (value.size() > static_cast<size_t>(options.max_prompts)) {
    fields.fail(invalid_field("prompt", "prompt has " + std::to_string(value.size()) +
                                            " prompts; at most " +
                                            std::to_string(options.max_prompts) + " are allowed"));
    return;
  }
  for (size_t i = 0; i < value.size(); ++i)
    read_one_prompt(value[i], "prompt[" + std::to_string(i) + "]", options, info, fields, request);
}

void read_model(FieldReader& fields, const ServiceInfo& info) {
  const auto model = fields.string("model", kMaxNameBytes);
  if (!model || *model == info.model_name) return;
  ApiError error;
  error.status = 404;
  error.message = "The model " + excerpt(json(*model)) + " does not exist; this server has \"" +
                  info.model_name + "\"";
  error.param = "model";
  error.code = "model_not_found";
  fields.fail(std::move(error));
}

void read_stop(FieldReader& fields, const ServerOptions& options, OpenAiRequest& request) {
  const json* value = fields.any("stop");
  if (value == nullptr) return;
  const std::string allowed = "stop must be a string or an array of at most " +
                              std::to_string(options.max_stop_strings) + " strings, each of 1 to " +
                              std::to_string(options.max_stop_bytes) + " bytes, not ";
  const json list = value->is_array() ? *value : json::array({*value});
  if (list.size() > static_cast<size_t>(options.max_stop_strings))
    return fields.fail(invalid_field("stop", allowed + std::to_string(list.size()) + " strings"));
  for (const json& item : list) {
    if (!item.is_string() || item.get_ref<const std::string&>().empty() ||
        item.get_ref<const std::string&>().size() > options.max_stop_bytes)
      return fields.fail(invalid_field("stop", allowed + excerpt(item)));
    request.stop.push_back(item.get<std::string>());
  }
}

void read_stream(FieldReader& fields, OpenAiRequest& request) {
  request.stream = fields.boolean("stream").value_or(false);
  const json* stream_options = fields.any("stream_options");
  if (stream_options == nullptr) return;
  if (!stream_options->is_object()) {
    return fields.fail(invalid_field(
        "stream_options", "stream_options must be an object, not " + excerpt(*stream_options)));
  }
  if (!request.stream) {
    return fields.fail(
        invalid_field("stream_options", "stream_options is only allowed when stream is true"));
  }
  FieldReader inner(*stream_options, "stream_options.");
  request.include_usage = inner.boolean("include_usage").value_or(false);
  inner.ignore({"include_obfuscation"});
  if (auto error = inner.finish()) fields.fail(std::move(*error));
}

void check_choices(FieldReader& fields, const ServerOptions& options,
                   const OpenAiRequest& request) {
  const size_t num_prompts = request.is_chat ? 1 : request.prompts.size();
  const size_t num_choices = num_prompts * static_cast<size_t>(request.n);
  if (num_choices > static_cast<size_t>(options.max_choices)) {
    fields.fail(invalid_field("n", "n: " + std::to_string(num_prompts) + " prompts times n = " +
                                       std::to_string(request.n) + " make " +
                                       std::to_string(num_choices) + " choices; at most " +
                                       std::to_string(options.max_choices) + " are allowed"));
  }
}

void read_max_tokens(FieldReader& fields, const char* name, const ServiceInfo& info,
                     OpenAiRequest& request) {
  const auto value = fields.integer(name, 1, info.max_context_tokens);
  if (!value) return;
  if (request.max_tokens && *request.max_tokens != *value) {
    fields.fail(invalid_field(name, std::string(name) + " is " + std::to_string(*value) +
                                        ", but max_tokens is " +
                                        std::to_string(*request.max_tokens) + ": give one"));
  }
  request.max_tokens = value;
}

}  // namespace

void read_shared_fields(FieldReader& fields, const ServerOptions& options, const ServiceInfo& info,
                        OpenAiRequest& request) {
  read_model(fields, info);
  read_max_tokens(fields, "max_tokens", info, request);
  request.n = static_cast<int32_t>(fields.integer("n", 1, options.max_n).value_or(1));

  SamplingParams& sampling = request.sampling;
  sampling.temperature = static_cast<float>(fields.number("temperature", 0, 100).value_or(1));
  sampling.top_p = static_cast<float>(fields.number("top_p", 0, 1, true).value_or(1));
  sampling.min_p = static_cast<float>(fields.number("min_p", 0, 1).value_or(0));
  sampling.top_k =
      static_cast<int32_t>(std::max<int64_t>(0, fields.integer("top_k", -1, kMaxTopK).value_or(0)));
  sampling.presence_penalty =
      static_cast<float>(fields.number("presence_penalty", -2, 2).value_or(0));
  sampling.frequency_penalty =
      static_cast<float>(fields.number("frequency_penalty", -2, 2).value_or(0));
  sampling.repetition_penalty =
      static_cast<float>(fields.number("repetition_penalty", 0, 100, true).value_or(1));
  const auto seed = fields.integer("seed", std::numeric_limits<int64_t>::min(),
                                   std::numeric_limits<int64_t>::max());
  if (seed) request.seed = static_cast<uint64_t>(*seed);
  sampling.seed = request.seed.value_or(0);

  read_stop(fields, options, request);
  if (const json* ids = fields.any("stop_token_ids")) {
    if (ids->is_array()) {
      request.stop_token_ids = read_tokens(
          *ids, "stop_token_ids", static_cast<size_t>(options.max_stop_token_ids), info, fields);
    } else {
      fields.fail(invalid_field(
          "stop_token_ids", "stop_token_ids must be an array of token ids, not " + excerpt(*ids)));
    }
  }
  request.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  read_stream(fields, request);
  request.priority = static_cast<int32_t>(
      fields.integer("priority", -options.max_priority_magnitude, options.max_priority_magnitude)
          .value_or(0));
  const auto safety_identifier = fields.string("safety_identifier", kMaxNameBytes);
  request.client =
      fields.string("user", kMaxNameBytes).value_or(safety_identifier.value_or(std::string()));
  if (const auto salt = fields.string("cache_salt", kMaxNameBytes))
    request.cache_salt = hash_salt(*salt);
  fields.refuse("logit_bias", "logits are not biased here; leave it out");
  // OpenAI's, and without a meaning for this server: kIgnored for both endpoints.
  fields.ignore(
      {"metadata", "store", "service_tier", "prompt_cache_key", "prompt_cache_retention"});
}

ApiResult<OpenAiRequest> parse_completion_request(const json& body, const ServerOptions& options,
                                                  const ServiceInfo& info) {
  OpenAiRequest request;
  FieldReader fields(body);
  if (const json* prompt = fields.any("prompt")) {
    read_prompts(*prompt, options, info, fields, request);
  } else {
    fields.fail(invalid_field("prompt",
                              "prompt is missing: a string, an array of strings, of tokens, or of "
                              "arrays of tokens"));
  }
  read_shared_fields(fields, options, info, request);
  check_choices(fields, options, request);
  const auto logprobs = fields.integer("logprobs", 0, options.max_top_logprobs);
  request.sampling.num_top_logprobs = static_cast<int32_t>(logprobs.value_or(-1));
  request.echo = fields.boolean("echo").value_or(false);
  if (request.echo && logprobs)
    fields.fail(unsupported_field("echo",
                                  "echo together with logprobs is not supported: prompt "
                                  "tokens have no logprobs here"));
  const auto best_of = fields.integer("best_of", 1, options.max_n);
  if (best_of && *best_of != request.n)
    fields.fail(unsupported_field("best_of", "best_of = " + std::to_string(*best_of) +
                                                 " is not supported unless it equals n"));
  if (const auto suffix = fields.string("suffix", options.max_prompt_bytes);
      suffix && !suffix->empty())
    fields.fail(unsupported_field("suffix", "suffix is not supported: no text is inserted here"));
  if (auto error = fields.finish()) return std::move(*error);
  return request;
}

ApiResult<OpenAiRequest> parse_chat_request(const json& body, const ServerOptions& options,
                                            const ServiceInfo& info) {
  OpenAiRequest request;
  request.is_chat = true;
  FieldReader fields(body);
  read_chat_input(fields, options, request);
  read_shared_fields(fields, options, info, request);
  read_max_tokens(fields, "max_completion_tokens", info, request);
  check_choices(fields, options, request);

  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top_logprobs = fields.integer("top_logprobs", 0, options.max_top_logprobs);
  if (top_logprobs && !logprobs)
    fields.fail(
        invalid_field("top_logprobs", "top_logprobs is only allowed when logprobs is true"));
  if (logprobs) request.sampling.num_top_logprobs = static_cast<int32_t>(top_logprobs.value_or(0));

  if (const json* format = fields.any("response_format")) {
    const bool is_text =
        format->is_object() && format->contains("type") && (*format)["type"] == "text";
    if (!is_text)
      fields.fail(unsupported_field("response_format",
                                    "response_format must be {\"type\": \"text\"}, not " +
                                        excerpt(*format) + ": output is not constrained here"));
  }
  if (const json* modalities = fields.any("modalities"); modalities != nullptr) {
    if (*modalities != json::array({"text"}))
      fields.fail(unsupported_field("modalities",
                                    "modalities must be [\"text\"], not " + excerpt(*modalities)));
  }
  fields.refuse("audio", "this server has text only");
  fields.refuse("functions", "use tools");
  fields.refuse("function_call", "use tool_choice");
  fields.refuse("web_search_options", "this server searches nothing");
  // OpenAI's, without a meaning for this server; see also read_shared_fields.
  fields.ignore({"parallel_tool_calls", "prediction", "reasoning_effort", "verbosity"});
  if (auto error = fields.finish()) return std::move(*error);
  return request;
}

ApiResult<json> body_of_query(const std::vector<std::pair<std::string, std::string>>& query,
                              bool is_chat, const ServerOptions& options) {
  json body = json::object();
  json messages = json::array();
  std::string message;
  bool has_message = false;
  for (const auto& [name, value] : query) {
    if (find_ill_formed_utf8(name) || find_ill_formed_utf8(value))
      return invalid_field(name.substr(0, name.find_first_of("\x80\xff")),
                           "the query is not UTF-8");
    if (is_chat && name == "system") {
      messages.push_back({{"role", "system"}, {"content", value}});
    } else if (is_chat && name == "message") {
      message = value;
      has_message = true;
    } else if (is_chat && name == "messages") {
      auto parsed = parse_json_object("{\"messages\":" + value + "}", options.max_json_depth,
                                      options.max_json_values);
      if (!parsed.ok() || parsed.value().size() != 1)
        return invalid_field("messages", "messages must be a JSON array of messages");
      body["messages"] = parsed.value()["messages"];
    } else if (name == "stop") {
      body["stop"].push_back(value);
    } else if (name == "prompt" || name == "user" || name == "model" || name == "cache_salt") {
      body[name] = value;
    } else {
      // A number or a boolean; the field's own check says what it must be if it is neither.
      json literal = json::parse(value, nullptr, /*allow_exceptions=*/false);
      const bool is_literal = literal.is_number() || literal.is_boolean();
      json& field = name == "include_usage" ? body["stream_options"][name] : body[name];
      field = is_literal ? literal : json(value);
    }
  }
  if (is_chat && !body.contains("messages")) {
    if (!has_message)
      return invalid_field("message",
                           "message is missing: what the user says (or give messages, "
                           "the JSON array of a chat request)");
    messages.push_back({{"role", "user"}, {"content", message}});
    body["messages"] = messages;
  }
  body["stream"] = true;
  return body;
}

}  // namespace phalanx
