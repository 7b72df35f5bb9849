// A model's chat template: messages and tools in, the prompt's text out.
// Called by the server for every chat request; parsed once at start.
#include "runtime/server/chat_template.h"

#include <utility>

#include "runtime/server/jinja_parser.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

constexpr size_t kMaxSourceBytes = size_t{1} << 20;

Error template_error(const JinjaError& error) {
  return invalid_argument("chat template, line " + std::to_string(error.line) + ": " +
                          error.what());
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return invalid_argument("chat template: " + std::to_string(source.size()) + " bytes, at most " +
                            std::to_string(kMaxSourceBytes));
  }
  if (const auto offset = find_ill_formed_utf8(source)) {
    return invalid_argument("chat template: byte " + std::to_string(*offset) + " is not UTF-8");
  }
  try {
    return ChatTemplate(std::make_shared<const JinjaBody>(parse_jinja(source)));
  } catch (const JinjaError& error) {
    return template_error(error);
  }
}

Result<std::string> ChatTemplate::render(const ChatTemplateInput& input,
                                         const JinjaLimits& limits) const {
  if (!input.extra.is_object() && !input.extra.is_null()) {
    return invalid_argument("chat template variables: must be an object");
  }
  try {
    JinjaDict variables;
    variables.set("messages", JinjaValue::from_json(input.messages));
    variables.set("tools", JinjaValue::from_json(input.tools));
    variables.set("documents", JinjaValue::from_json(input.documents));
    variables.set("add_generation_prompt", JinjaValue::boolean(input.add_generation_prompt));
    if (!input.bos_token.empty()) variables.set("bos_token", JinjaValue::string(input.bos_token));
    if (!input.eos_token.empty()) variables.set("eos_token", JinjaValue::string(input.eos_token));
    for (const auto& item : input.extra.items())
      variables.set(item.key(), JinjaValue::from_json(item.value()));
    return JinjaInterpreter(limits, input.now).render(*body_, variables);
  } catch (const JinjaError& error) {
    return template_error(error);
  }
}

}  // namespace phalanx
