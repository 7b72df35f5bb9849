// A model's chat template: messages and tools in, the prompt's text out.
// Called by the server for every chat request; parsed once at start.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "runtime/base/result.h"
#include "runtime/server/jinja_interpreter.h"

namespace phalanx {

/// What a template gets to see. The JSON values are copied.
struct ChatTemplateInput {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  nlohmann::ordered_json tools;      ///< null when there are none: the template sees none then
  nlohmann::ordered_json documents;  ///< the same
  bool add_generation_prompt = true;
  std::string bos_token;  ///< empty: the variable stays undefined
  std::string eos_token;
  /// An object of more variables (enable_thinking, ...); they take precedence over the ones above.
  nlohmann::ordered_json extra = nlohmann::ordered_json::object();
  /// What strftime_now prints: the wall clock of the wanted time zone.
  std::chrono::sys_seconds now{};
};

/// Immutable after parse; render may be called from any thread at the same time. The language is
/// the Jinja that transformers' apply_chat_template gives templates, without include, import,
/// extends, block and do; see jinja_interpreter.h.
class ChatTemplate {
 public:
  /// Errors: kInvalidArgument "chat template, line N: ..." (syntax, an unknown tag, more than 1
  /// MiB).
  static Result<ChatTemplate> parse(std::string_view source);

  /// The prompt, byte for byte what transformers renders. Errors: kInvalidArgument "chat template,
  /// line N: ..." with what the template raised (raise_exception) or did wrong, or the limit it
  /// hit.
  Result<std::string> render(const ChatTemplateInput& input, const JinjaLimits& limits = {}) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const JinjaBody> body) : body_(std::move(body)) {}
  std::shared_ptr<const JinjaBody> body_;
};

}  // namespace phalanx
