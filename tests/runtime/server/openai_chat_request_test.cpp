// Chat bodies: messages and tools are checked, flattened, and refused by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/server/openai_request.h"

namespace phalanx {
namespace {

using ::testing::HasSubstr;

ServiceInfo info() {
  ServiceInfo info;
  info.model_name = "m";
  info.vocab_size = 300;
  info.max_context_tokens = 100;
  return info;
}

// Later fields of the same name replace earlier ones.
ApiResult<OpenAiRequest> parse(const std::string& fields) {
  const RequestJson body = RequestJson::parse(
      R"({"model":"m","messages":[{"role":"user","content":"hi"}],)" + fields + "}");
  return parse_chat_request(body, ServerOptions(), info());
}

OpenAiRequest good(const std::string& fields) {
  auto result = parse(fields);
  EXPECT_TRUE(result.ok()) << fields << ": " << (result.ok() ? "" : result.error().message);
  return result.ok() ? result.value() : OpenAiRequest();
}

struct BadField {
  const char* fields;
  const char* param;
};

void expect_refused(const BadField& bad) {
  auto result = parse(bad.fields);
  ASSERT_FALSE(result.ok()) << bad.fields;
  EXPECT_EQ(result.error().status, 400) << bad.fields;
  EXPECT_EQ(result.error().param, bad.param) << bad.fields;
  EXPECT_FALSE(result.error().message.empty());
}

TEST(OpenAiChatRequest, RefusesBadChatFieldsByName) {
  const BadField cases[] = {
      {R"("messages": null)", "messages"},
      {R"("messages": [])", "messages"},
      {R"("messages": "hi")", "messages"},
      {R"("messages": ["hi"])", "messages[0]"},
      {R"("messages": [{"content": "x"}])", "messages[0].role"},
      {R"("messages": [{"role": "robot", "content": "x"}])", "messages[0].role"},
      {R"("messages": [{"role": 5, "content": "x"}])", "messages[0].role"},
      {R"("messages": [{"role": "user"}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": null}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": 5}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": []}])", "messages[0].content"},
      {R"("messages": [{"role": "user", "content": ["x"]}])", "messages[0].content[0]"},
      {R"("messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])",
       "messages[0].content[0].type"},
      {R"("messages": [{"role": "user", "content": [{"type": "text"}]}])",
       "messages[0].content[0].text"},
      {R"("messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b", "x": 1}])",
       "messages[1].x"},
      {R"("messages": [{"role": "user", "content": "a", "tool_calls": []}])",
       "messages[0].tool_calls"},
      {R"("messages": [{"role": "assistant", "tool_calls": [{"id": "1"}]}])",
       "messages[0].tool_calls[0]"},
      {R"("messages": [{"role": "user", "content": "a", "tool_call_id": "x"}])",
       "messages[0].tool_call_id"},
      {R"("tools": 5)", "tools"},
      {R"("tools": [{"type": "function"}])", "tools[0]"},
      {R"("tools": [{"type": "function", "function": {}}])", "tools[0].function.name"},
      {R"("tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}])",
       "tools[0].function.parameters"},
      {R"("tools": [{"type": "web_search"}])", "tools[0]"},
      {R"("tool_choice": "required")", "tool_choice"},
      {R"("tool_choice": {"type": "function", "function": {"name": "f"}})", "tool_choice"},
      {R"("response_format": {"type": "json_object"})", "response_format"},
      {R"("response_format": "text")", "response_format"},
      {R"("modalities": ["audio"])", "modalities"},
      {R"("audio": {"voice": "x"})", "audio"},
      {R"("functions": [{"name": "f"}])", "functions"},
      {R"("web_search_options": {"a": 1})", "web_search_options"},
      {R"("logprobs": 3)", "logprobs"},
      {R"("top_logprobs": 3)", "top_logprobs"},
      {R"("logprobs": true, "top_logprobs": 21)", "top_logprobs"},
      {R"("max_completion_tokens": 0)", "max_completion_tokens"},
      {R"("max_tokens": 5, "max_completion_tokens": 6)", "max_completion_tokens"},
      {R"("prompt": "x")", "prompt"},
      {R"("echo": true)", "echo"},
  };
  for (const BadField& one : cases) expect_refused(one);
}

TEST(OpenAiChatRequest, TakesChatFields) {
  const OpenAiRequest request = good(R"(
    "max_completion_tokens": 9, "logprobs": true, "top_logprobs": 2,
    "response_format": {"type": "text"}, "modalities": ["text"], "parallel_tool_calls": true,
    "reasoning_effort": "low", "tool_choice": "auto",
    "tools": [{"type": "function", "function": {"name": "f", "description": "d", "strict": true,
               "parameters": {"type": "object", "properties": {"z": {}, "a": {}}}}}])");
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.sampling.num_top_logprobs, 2);
  ASSERT_EQ(request.tools.size(), 1U);
  // The order of fields is kept: templates print tools as they were given.
  EXPECT_THAT(request.tools.dump(), HasSubstr(R"({"z":{},"a":{}})"));
  EXPECT_TRUE(good(R"("tools": [{"type": "function", "function": {"name": "f"}}],
                            "tool_choice": "none")")
                  .tools.is_null());
  EXPECT_EQ(good(R"("logprobs": true)").sampling.num_top_logprobs, 0);
}

TEST(OpenAiChatRequest, FlattensMessages) {
  const OpenAiRequest request = good(R"("messages": [
    {"role": "developer", "content": "d"},
    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    {"role": "assistant", "content": null, "refusal": null, "audio": null, "function_call": null,
     "annotations": [],
     "tool_calls": [{"id": "c1", "type": "function",
                     "function": {"name": "f", "arguments": "{}"}}]},
    {"role": "tool", "tool_call_id": "c1", "content": "4", "name": "f"}])");
  ASSERT_EQ(request.messages.size(), 4U);
  EXPECT_EQ(request.messages[1]["content"], "ab");
  EXPECT_TRUE(request.messages[2]["content"].is_null());
  EXPECT_EQ(request.messages[0]["role"], "system");
  EXPECT_EQ(request.messages[2]["tool_calls"][0]["function"]["name"], "f");
  EXPECT_TRUE(request.messages[2]["tool_calls"][0]["function"]["arguments"].is_object());
  EXPECT_EQ(request.messages[3]["tool_call_id"], "c1");
}

TEST(OpenAiChatRequest, AddsTheDefaultSystemPromptOnlyWhereNoneIs) {
  ServerOptions options;
  options.default_system_prompt = "be brief";
  const auto roles = [&](const char* text) {
    auto result = parse_chat_request(RequestJson::parse(text), options, info());
    std::string all;
    for (const auto& message : result.value().messages)
      all += message["role"].get<std::string>()[0];
    return all;
  };
  EXPECT_EQ(roles(R"({"messages": [{"role": "user", "content": "x"}]})"), "su");
  EXPECT_EQ(roles(R"({"messages": [{"role": "system", "content": "y"},
                                   {"role": "user", "content": "x"}]})"),
            "su");
}

TEST(OpenAiChatRequest, ArgumentsThatAreNoObjectStayText) {
  const auto arguments = [](const std::string& text) {
    const RequestJson call = {{"id", "1"}, {"function", {{"name", "f"}, {"arguments", text}}}};
    return good("\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [" + call.dump() + "]}]")
        .messages[0]["tool_calls"][0]["function"]["arguments"];
  };
  EXPECT_EQ(arguments(R"({"b": 1, "a": [2]})").dump(), R"({"b":1,"a":[2]})");
  EXPECT_EQ(arguments("not json"), "not json");
  const std::string deep = "{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}";
  EXPECT_EQ(arguments(deep), deep);
}

}  // namespace
}  // namespace phalanx
