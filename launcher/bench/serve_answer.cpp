// Events to times and counts.
#include "launcher/bench/serve_answer.h"

#include <utility>

namespace phalanx::bench {
namespace {

using nlohmann::json;

constexpr size_t kMaxExcerptBytes = 200;

const json* member(const json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

enum class Text { kAbsent, kEmpty, kSome };

Text text_of(const json& object, const char* name) {
  const json* value = member(object, name);
  if (value == nullptr) return Text::kAbsent;
  if (value->is_array()) return value->empty() ? Text::kEmpty : Text::kSome;  // tool_calls
  if (!value->is_string()) return Text::kAbsent;
  return value->get_ref<const std::string&>().empty() ? Text::kEmpty : Text::kSome;
}

/// Strings as they are, all else as JSON.
std::string show(const json& value) {
  return excerpt_of(value.is_string() ? value.get<std::string>() : value.dump());
}

std::string message_of(const json& body) {
  if (const json* error = member(body, "error")) {
    const json* message = member(*error, "message");
    return show(message != nullptr ? *message : *error);
  }
  for (const char* name : {"message", "detail"}) {
    if (const json* message = member(body, name)) return show(*message);
  }
  return show(body);
}

}  // namespace

std::string excerpt_of(std::string_view text) {
  std::string line(text.substr(0, kMaxExcerptBytes));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) c = ' ';
  }
  return text.size() > kMaxExcerptBytes ? line + "..." : line;
}

std::string error_message_of(std::string_view body) {
  const json parsed = json::parse(body, nullptr, /*allow_exceptions=*/false);
  return parsed.is_discarded() ? excerpt_of(body) : message_of(parsed);
}

bool StreamedAnswer::fail(Outcome outcome, std::string message) {
  record_.outcome = outcome;
  record_.message = std::move(message);
  return false;
}

bool StreamedAnswer::push(std::string_view bytes, double now_s) {
  events_.clear();
  const bool fits = reader_.push(bytes, events_);
  for (const std::string& data : events_) {
    if (!is_done_ && !read_event(data, now_s)) return false;
  }
  return fits || fail(Outcome::kMalformed, "an event has more than 16 MiB");
}

bool StreamedAnswer::read_event(const std::string& data, double now_s) {
  if (data == "[DONE]") {
    is_done_ = true;
    return true;
  }
  const json event = json::parse(data, nullptr, /*allow_exceptions=*/false);
  if (!event.is_object())
    return fail(Outcome::kMalformed, "an event is no JSON object: " + excerpt_of(data));
  if (member(event, "error") != nullptr) return fail(Outcome::kServerError, message_of(event));
  if (const json* usage = member(event, "usage")) {
    if (!read_usage(*usage))
      return fail(Outcome::kMalformed, "an event's usage has no counts: " + excerpt_of(data));
  }
  const json* choices = member(event, "choices");
  if (choices == nullptr) return true;
  if (!choices->is_array())
    return fail(Outcome::kMalformed, "an event's choices are no array: " + excerpt_of(data));
  for (const json& choice : *choices) {
    if (!read_choice(choice, now_s))
      return fail(Outcome::kMalformed, "an event's choice is no object: " + excerpt_of(data));
  }
  return true;
}

bool StreamedAnswer::read_choice(const json& choice, double now_s) {
  if (!choice.is_object()) return false;
  const bool finishes = member(choice, "finish_reason") != nullptr;
  const json* delta = member(choice, "delta");
  Text text = Text::kAbsent;
  if (delta == nullptr) {
    text = text_of(choice, "text");
  } else {
    for (const char* name : {"content", "reasoning", "reasoning_content", "tool_calls"})
      text = std::max(text, text_of(*delta, name));
  }
  const bool is_opening = delta != nullptr && member(*delta, "role") != nullptr;
  if (text == Text::kSome || (text == Text::kEmpty && !finishes && !is_opening))
    record_.token_s.push_back(now_s);
  // An opening event alone is no part of the answer yet.
  if (text == Text::kSome || finishes || !record_.token_s.empty()) record_.last_s = now_s;
  has_finish_reason_ = has_finish_reason_ || finishes;
  return true;
}

bool StreamedAnswer::read_usage(const json& usage) {
  const json* prompt = member(usage, "prompt_tokens");
  if (prompt == nullptr || !prompt->is_number_integer()) return false;
  record_.prompt_tokens = prompt->get<int64_t>();
  // vLLM leaves it out (or null) where nothing has been generated.
  const json* output = member(usage, "completion_tokens");
  record_.output_tokens =
      output != nullptr && output->is_number_integer() ? output->get<int64_t>() : 0;
  if (const json* details = member(usage, "prompt_tokens_details")) {
    const json* cached = member(*details, "cached_tokens");
    if (cached != nullptr && cached->is_number_integer())
      record_.cached_tokens = cached->get<int64_t>();
  }
  record_.has_usage = true;
  return true;
}

void StreamedAnswer::finish() {
  if (!record_.ok()) return;
  if (!is_done_ && !has_finish_reason_) {
    fail(Outcome::kBroken, record_.token_s.empty()
                               ? "the stream ended without an answer"
                               : "the stream ended without [DONE] or a finish reason");
    return;
  }
  if (!record_.has_usage) {
    record_.prompt_tokens = record_.asked_prompt;
    record_.output_tokens = static_cast<int64_t>(record_.token_s.size());
  }
  const int64_t asked = record_.asked_output;
  const int64_t got = record_.output_tokens;
  if (got < 1) {
    fail(Outcome::kWrongLength, "the answer has no token");
  } else if (record_.has_usage && (got > asked || (rule_ == LengthRule::kExactly && got < asked))) {
    fail(Outcome::kWrongLength, "the answer has " + std::to_string(got) + " tokens, asked for " +
                                    (rule_ == LengthRule::kExactly ? "" : "at most ") +
                                    std::to_string(asked));
  } else if (record_.token_s.empty()) {
    // Tokens without text, an end token alone: they were there when the answer ended.
    record_.token_s.push_back(record_.last_s);
  }
}

}  // namespace phalanx::bench
