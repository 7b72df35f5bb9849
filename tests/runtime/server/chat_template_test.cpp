// Tests runtime/server/chat_template against what transformers renders, byte for byte; and limits.
#include "runtime/server/chat_template.h"

#include <fstream>
#include <sstream>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace phalanx {
namespace {

using nlohmann::ordered_json;

const std::string kFixtures = std::string(PHALANX_SOURCE_DIR) + "/tests/runtime/server/fixtures/";

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

const ordered_json& golden() {
  static const ordered_json value =
      ordered_json::parse(read_file(kFixtures + "template_cases.json"));
  return value;
}

ChatTemplateInput base_input() {
  ChatTemplateInput input;
  input.bos_token = golden()["bos"].get<std::string>();
  input.eos_token = golden()["eos"].get<std::string>();
  input.now = std::chrono::sys_seconds(std::chrono::seconds(golden()["now"].get<int64_t>()));
  return input;
}

Result<std::string> render(const std::string& source, const ChatTemplateInput& input,
                           const JinjaLimits& limits = {}) {
  PHALANX_ASSIGN_OR_RETURN(const ChatTemplate parsed, ChatTemplate::parse(source));
  return parsed.render(input, limits);
}

Result<std::string> render(const std::string& source) {
  return render(source, ChatTemplateInput());
}

std::string error_of(const Result<std::string>& result) {
  return result.ok() ? "no error: " + *result : result.error().message;
}

void expect_golden(const ordered_json& expected, const Result<std::string>& actual) {
  if (expected.is_null()) {
    EXPECT_FALSE(actual.ok()) << *actual;
    return;
  }
  ASSERT_TRUE(actual.ok()) << actual.error().message;
  EXPECT_EQ(*actual, expected.get<std::string>());
}

TEST(ChatTemplate, RendersModelTemplatesLikeTransformers) {
  const ordered_json& all = golden();
  ASSERT_GT(all["whole"].size(), 300U);
  for (const ordered_json& item : all["whole"]) {
    SCOPED_TRACE(item["template"].dump() + " " + item["messages"].dump() + " " +
                 item["tools"].dump() + " " + item["extra"].dump());
    ChatTemplateInput input = base_input();
    input.messages = all["messages"][item["messages"].get<std::string>()];
    if (item["tools"].get<bool>()) input.tools = all["tools"];
    input.add_generation_prompt = item["prompt"].get<bool>();
    input.extra = item["extra"];
    const std::string source =
        read_file(kFixtures + "templates/" + item["template"].get<std::string>());
    expect_golden(item["text"], render(source, input));
  }
}

TEST(ChatTemplate, RendersEveryFeatureLikeJinja) {
  ASSERT_GT(golden()["snippets"].size(), 500U);
  for (const ordered_json& item : golden()["snippets"]) {
    SCOPED_TRACE(item["source"].dump());
    ChatTemplateInput input = base_input();
    input.extra = golden()["variables"];
    expect_golden(item["text"], render(item["source"].get<std::string>(), input));
  }
}

TEST(ChatTemplate, ErrorsNameTheLineAndTheReason) {
  EXPECT_EQ(error_of(render("a\nb\n{{ raise_exception('no system role') }}")),
            "chat template, line 3: no system role");
  EXPECT_EQ(error_of(render("\n{% for x in messages %}\n{% endif %}")),
            "chat template, line 3: unknown or unsupported tag 'endif'");
  EXPECT_EQ(error_of(render("{% include 'x' %}")),
            "chat template, line 1: unknown or unsupported tag 'include'");
  EXPECT_EQ(error_of(render("{{ foo.bar }}")), "chat template, line 1: 'foo' is undefined");
  EXPECT_EQ(error_of(render("{% set x = [] %}\n{{ x.append(1) }}")),
            "chat template, line 2: access to attribute 'append' of 'list' object is unsafe.");
  EXPECT_EQ(error_of(render("{# a #}\n\n{{ 1 +\n }}")),
            "chat template, line 4: unexpected '}}', expected an expression");
  EXPECT_EQ(ChatTemplate::parse("\xff").error().message, "chat template: byte 0 is not UTF-8");
  EXPECT_EQ(ChatTemplate::parse("{{ x").error().code, ErrorCode::kInvalidArgument);
}

TEST(ChatTemplate, StopsAtItsLimits) {
  const std::string loops =
      "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}"
      "{% endfor %}{% endfor %}{% endfor %}";
  EXPECT_NE(error_of(render(loops)).find("steps"), std::string::npos);

  const std::string recursion = "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}";
  EXPECT_NE(error_of(render(recursion)).find("recursion deeper"), std::string::npos);

  const std::string doubling =
      "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}"
      "{% endfor %}";
  EXPECT_NE(error_of(render(doubling)).find("bytes"), std::string::npos);
  EXPECT_NE(error_of(render("{{ 'abc' * 1000000000000 }}")).find("bytes"), std::string::npos);

  const std::string output = "{% for i in range(1000) %}{{ 'x' * 1000 }}{% endfor %}";
  JinjaLimits small;
  small.max_output_bytes = 100'000;
  EXPECT_NE(error_of(render(output, ChatTemplateInput(), small)).find("output"), std::string::npos);
  EXPECT_EQ(render(output)->size(), 1'000'000U);

  const std::string nesting =
      "{% set ns = namespace(l=[]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}";
  EXPECT_NE(error_of(render(nesting)).find("nested deeper"), std::string::npos);

  // Small to write, huge to walk: every level refers twice to the one below.
  const std::string shared =
      "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(90) %}{% set ns.a = [ns.a, ns.a] %}"
      "{% set ns.b = [ns.b, ns.b] %}{% endfor %}";
  EXPECT_NE(error_of(render(shared + "{{ ns.a == ns.b }}")).find("steps"), std::string::npos);
  EXPECT_NE(error_of(render(shared + "{{ ns.a | tojson }}")).find("bytes"), std::string::npos);
  EXPECT_NE(error_of(render(shared + "{{ ns.a }}")).find("bytes"), std::string::npos);

  std::string deep = "{{ ";
  for (int i = 0; i < 5000; ++i) deep += "(";
  deep += "1" + std::string(5000, ')') + " }}";
  EXPECT_NE(error_of(render(deep)).find("nested too deeply"), std::string::npos);
  std::string chain = "{{ 1";
  for (int i = 0; i < 5000; ++i) chain += " + 1";
  EXPECT_NE(error_of(render(chain + " }}")).find("nested too deeply"), std::string::npos);
  std::string blocks;
  for (int i = 0; i < 5000; ++i) blocks += "{% if 1 %}";
  EXPECT_NE(error_of(render(blocks)).find("nested too deeply"), std::string::npos);
}

TEST(ChatTemplate, DeepInputIsAnErrorNotACrash) {
  ChatTemplateInput input;
  for (int i = 0; i < 1000; ++i) input.messages = ordered_json::array({input.messages});
  EXPECT_NE(error_of(render("{{ messages }}", input)).find("nested deeper"), std::string::npos);
}

TEST(ChatTemplate, NamespaceCyclesAreFreed) {  // the leak checker of the sanitizer build looks
  const std::string source =
      "{% set ns = namespace() %}{% set ns.me = [ns, {'k': ns}] %}{% macro m() %}{{ ns }}"
      "{% endmacro %}{% set ns.m = m %}{% for x in [1] %}{% set ns.loop = loop %}{% endfor %}done";
  EXPECT_EQ(render(source).value(), "done");
}

TEST(ChatTemplate, RendersFromManyThreads) {
  const std::string source = read_file(kFixtures + "templates/qwen3.jinja");
  const ChatTemplate parsed = ChatTemplate::parse(source).value();
  ChatTemplateInput input = base_input();
  input.messages = golden()["messages"]["thinking"];
  const std::string expected = parsed.render(input).value();
  std::vector<std::thread> threads;
  std::vector<int> equal(4, 0);
  for (size_t t = 0; t < equal.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 50; ++i) equal[t] += parsed.render(input).value() == expected ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(equal, std::vector<int>(4, 50));
}

TEST(ChatTemplate, AThousandMessagesTakeFewSteps) {
  ChatTemplateInput input = base_input();
  for (int i = 0; i < 1000; ++i) {
    input.messages.push_back(
        {{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", std::string(1000, 'x')}});
  }
  const auto text = render(read_file(kFixtures + "templates/qwen3.jinja"), input);
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_GT(text->size(), 1'000'000U);
}

}  // namespace
}  // namespace phalanx
