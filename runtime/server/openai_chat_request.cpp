// Messages and tools of a chat request: checked, contents flattened to strings, order of fields
// kept for templates that print them.
#include <algorithm>
#include <array>
#include <string_view>

#include "runtime/server/openai_request.h"

namespace phalanx {
namespace {

using json = RequestJson;

constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user", "assistant",
                                                    "tool"};
constexpr size_t kMaxNameBytes = 256;
constexpr size_t kMaxArgumentsDepth = 32;
constexpr size_t kMaxArgumentsValues = 100'000;

// A string, or text parts joined. False (with the error in `fields`) when it is neither.
bool flatten_content(const json& content, FieldReader& fields, size_t max_bytes,
                     std::string& text) {
  const std::string name = fields.full_name("content");
  if (content.is_string()) {
    text = content.get<std::string>();
  } else if (content.is_array() && !content.empty()) {
    for (size_t i = 0; i < content.size(); ++i) {
      const std::string part_name = name + "[" + std::to_string(i) + "]";
      const json& part = content[i];
      if (!part.is_object()) {
        fields.fail(
            invalid_field(part_name, part_name + " must be an object, not " + excerpt(part)));
        return false;
      }
      const auto type = part.find("type");
      if (type == part.end() || *type != "text") {
        fields.fail(unsupported_field(
            part_name + ".type", part_name + ".type must be \"text\", not " +
                                     (type == part.end() ? std::string("absent") : excerpt(*type)) +
                                     ": this server has text only"));
        return false;
      }
      FieldReader part_fields(part, part_name + ".");
      part_fields.ignore({"type", "annotations", "prompt_cache_breakpoint"});
      const auto part_text = part_fields.string("text", max_bytes);
      if (!part_text) {
        part_fields.fail(invalid_field(part_name + ".text", part_name + ".text is missing"));
      } else {
        text += *part_text;
      }
      if (auto error = part_fields.finish()) {
        fields.fail(std::move(*error));
        return false;
      }
    }
  } else {
    fields.fail(invalid_field(name, name +
                                        " must be a string or a non-empty array of text parts, "
                                        "not " +
                                        excerpt(content)));
    return false;
  }
  if (text.size() > max_bytes) {
    fields.fail(invalid_field(name, name + " has " + std::to_string(text.size()) +
                                        " bytes; at most " + std::to_string(max_bytes) +
                                        " are allowed"));
    return false;
  }
  return true;
}

// [{"id", "type": "function", "function": {"name", "arguments": string}}]
json read_tool_calls(const json& calls, FieldReader& fields, size_t max_bytes, size_t max_calls) {
  json checked = json::array();
  const std::string name = fields.full_name("tool_calls");
  if (!calls.is_array() || calls.size() > max_calls) {
    fields.fail(invalid_field(name, name + " must be an array of at most " +
                                        std::to_string(max_calls) + " calls, not " +
                                        excerpt(calls)));
    return checked;
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string path = name + "[" + std::to_string(i) + "]";
    if (!calls[i].is_object() || !calls[i].contains("function") ||
        !calls[i]["function"].is_object()) {
      fields.fail(invalid_field(path, path +
                                          " must be {\"id\", \"type\": \"function\", "
                                          "\"function\": {\"name\", \"arguments\"}}, not " +
                                          excerpt(calls[i])));
      return checked;
    }
    FieldReader call(calls[i], path + ".");
    call.ignore({"function", "type", "index"});
    const auto id = call.string("id", kMaxNameBytes);
    FieldReader function(calls[i]["function"], path + ".function.");
    const auto function_name = function.string("name", kMaxNameBytes);
    const auto arguments = function.string("arguments", max_bytes);
    if (!function_name || !arguments)
      function.fail(invalid_field(path + ".function",
                                  path + ".function needs a name and arguments, both strings"));
    if (auto error = call.finish()) fields.fail(std::move(*error));
    if (auto error = function.finish()) fields.fail(std::move(*error));
    json one;
    if (id) one["id"] = *id;
    one["type"] = "function";
    // Templates print arguments as JSON: an object where the text is one, as training data has it.
    auto parsed =
        parse_json_object(arguments.value_or(""), kMaxArgumentsDepth, kMaxArgumentsValues);
    one["function"] = {{"name", function_name.value_or("")},
                       {"arguments", parsed.ok() ? parsed.value() : json(arguments.value_or(""))}};
    checked.push_back(std::move(one));
  }
  return checked;
}

json read_message(const json& message, const std::string& path, FieldReader& outer,
                  const ServerOptions& options) {
  json checked = json::object();
  if (!message.is_object()) {
    outer.fail(invalid_field(path, path + " must be an object, not " + excerpt(message)));
    return checked;
  }
  FieldReader fields(message, path + ".");
  const auto role = fields.string("role", kMaxNameBytes);
  if (!role || std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
    fields.fail(invalid_field(path + ".role",
                              path +
                                  ".role must be system, developer, user, assistant or tool, "
                                  "not " +
                                  (role ? excerpt(json(*role)) : std::string("absent"))));
  }
  const bool is_assistant = role && *role == "assistant";
  // OpenAI's later name for system, which templates do not know.
  checked["role"] = role && *role == "developer" ? "system" : role.value_or("");

  const json* content = fields.any("content");
  const json* tool_calls = fields.any("tool_calls");
  checked["content"] = nullptr;
  if (content != nullptr) {
    std::string text;
    if (flatten_content(*content, fields, options.max_prompt_bytes, text))
      checked["content"] = text;
  } else if (!is_assistant || tool_calls == nullptr) {
    fields.fail(invalid_field(path + ".content",
                              path + ".content is missing: a string or an array of text parts"));
  }
  if (const auto name = fields.string("name", kMaxNameBytes)) checked["name"] = *name;
  if (tool_calls != nullptr) {
    if (!is_assistant)
      fields.fail(invalid_field(path + ".tool_calls",
                                path + ".tool_calls is only allowed for the assistant"));
    json calls = read_tool_calls(*tool_calls, fields, options.max_prompt_bytes,
                                 static_cast<size_t>(options.max_tools));
    if (!calls.empty()) checked["tool_calls"] = std::move(calls);
  }
  if (const auto id = fields.string("tool_call_id", kMaxNameBytes)) {
    if (role && *role != "tool")
      fields.fail(invalid_field(path + ".tool_call_id",
                                path + ".tool_call_id is only allowed for the role tool"));
    checked["tool_call_id"] = *id;
  }
  fields.refuse("function_call", "use tool_calls");
  fields.refuse("audio", "this server has text only");
  fields.ignore({"refusal", "annotations", "reasoning_content"});
  if (auto error = fields.finish()) outer.fail(std::move(*error));
  return checked;
}

json read_tools(const json& tools, FieldReader& fields, const ServerOptions& options) {
  json checked = json::array();
  if (!tools.is_array() || tools.size() > static_cast<size_t>(options.max_tools)) {
    fields.fail(invalid_field("tools", "tools must be an array of at most " +
                                           std::to_string(options.max_tools) + " tools, not " +
                                           excerpt(tools)));
    return checked;
  }
  for (size_t i = 0; i < tools.size(); ++i) {
    const std::string path = "tools[" + std::to_string(i) + "]";
    const json& tool = tools[i];
    const bool is_function = tool.is_object() && tool.contains("type") &&
                             tool["type"] == "function" && tool.contains("function") &&
                             tool["function"].is_object();
    if (!is_function) {
      fields.fail(invalid_field(path, path +
                                          " must be {\"type\": \"function\", \"function\": "
                                          "{\"name\", ...}}, not " +
                                          excerpt(tool)));
      return checked;
    }
    FieldReader function(tool["function"], path + ".function.");
    const auto name = function.string("name", kMaxNameBytes);
    if (!name || name->empty())
      function.fail(invalid_field(path + ".function.name", path + ".function.name is missing"));
    const auto description = function.string("description", options.max_prompt_bytes);
    const json* parameters = function.any("parameters");
    if (parameters != nullptr && !parameters->is_object())
      function.fail(invalid_field(
          path + ".function.parameters",
          path + ".function.parameters must be a JSON schema, not " + excerpt(*parameters)));
    function.ignore({"strict"});
    if (auto error = function.finish()) {
      fields.fail(std::move(*error));
      return checked;
    }
    json one = {{"type", "function"}, {"function", {{"name", *name}}}};
    if (description) one["function"]["description"] = *description;
    if (parameters != nullptr) one["function"]["parameters"] = *parameters;
    checked.push_back(std::move(one));
  }
  return checked;
}

}  // namespace

void read_chat_input(FieldReader& fields, const ServerOptions& options, OpenAiRequest& request) {
  const json* messages = fields.any("messages");
  request.messages = json::array();
  const auto max_messages = static_cast<size_t>(options.max_messages);
  if (messages == nullptr || !messages->is_array() || messages->empty() ||
      messages->size() > max_messages) {
    fields.fail(invalid_field(
        "messages", "messages must be an array of 1 to " + std::to_string(max_messages) +
                        " messages, not " +
                        (messages == nullptr ? std::string("absent") : excerpt(*messages))));
  } else {
    bool has_system = false;
    for (size_t i = 0; i < messages->size(); ++i) {
      const std::string path = "messages[" + std::to_string(i) + "]";
      request.messages.push_back(read_message((*messages)[i], path, fields, options));
      const auto& role = request.messages.back()["role"];
      has_system = has_system || role == "system";
    }
    if (!has_system && !options.default_system_prompt.empty()) {
      request.messages.insert(
          request.messages.begin(),
          json({{"role", "system"}, {"content", options.default_system_prompt}}));
    }
  }

  const json* tools = fields.any("tools");
  if (tools != nullptr) request.tools = read_tools(*tools, fields, options);
  if (request.tools.empty()) request.tools = nullptr;
  if (const json* choice = fields.any("tool_choice")) {
    if (*choice == "none") {
      request.tools = nullptr;
    } else if (*choice != "auto") {
      fields.fail(
          unsupported_field("tool_choice", "tool_choice must be \"none\" or \"auto\", not " +
                                               excerpt(*choice) + ": calls cannot be forced here"));
    }
  }
}

}  // namespace phalanx
