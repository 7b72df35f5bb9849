// Mutates tokenizer files, templates and texts: whatever the bytes, there is a value or an error,
// soon, and no crash. Deterministic; the sanitizer build gives it its teeth.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "runtime/server/chat_template.h"
#include "runtime/server/token_stream.h"
#include "runtime/server/tokenizer.h"
#include "runtime/server/utf8.h"

namespace phalanx {
namespace {

using nlohmann::json;

const std::string kFixtures = std::string(PHALANX_SOURCE_DIR) + "/tests/runtime/server/fixtures/";
constexpr auto kTimeForEach = std::chrono::seconds(3);

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Runs until the time is over, at least a few rounds.
template <typename Round>
void repeat(Round&& round) {
  const auto end = std::chrono::steady_clock::now() + kTimeForEach;
  for (int i = 0; i < 20 || std::chrono::steady_clock::now() < end; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    round();
    ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20)) << "hangs";
  }
}

std::string mutate_bytes(std::string text, std::mt19937& random) {
  const int edits = 1 + static_cast<int>(random() % 4);
  for (int i = 0; i < edits && !text.empty(); ++i) {
    const size_t at = random() % text.size();
    switch (random() % 5) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(at, 1 + random() % 8);
        break;
      case 2:
        text.insert(at, text.substr(random() % text.size(), random() % 40));
        break;
      case 3:
        text.resize(at);
        break;
      default: {
        static constexpr const char* kPieces[] = {
            "\"", "{",  "}",  "[",  "]",  "null", "-1",   "1e9", "true", "\\u",
            "%",  "{{", "}}", "{%", "%}", "(",    "\xff", "|",   ".",    "4294967295"};
        text.insert(at, kPieces[random() % std::size(kPieces)]);
      }
    }
  }
  return text;
}

void collect(json& value, std::vector<json*>& nodes) {
  nodes.push_back(&value);
  if (value.is_structured() && value.size() < 40)
    for (json& child : value) collect(child, nodes);
}

// A well-formed file with fields replaced by what does not belong there.
void mutate_json(json& file, std::mt19937& random) {
  static const json kStrange[] = {nullptr,
                                  true,
                                  -1,
                                  0,
                                  1ULL << 63,
                                  4194304,
                                  1.5,
                                  "",
                                  "NFC",
                                  "Split",
                                  "\xE2\x96\x81",
                                  "(a|b)*\\1[",
                                  "Sequence",
                                  json::array(),
                                  json::object(),
                                  {{"type", "Sequence"}},
                                  {{"Regex", "(?:"}},
                                  {{"String", ""}},
                                  {{"Regex", "\\s*"}}};
  std::vector<json*> nodes;
  collect(file, nodes);
  json* node = nodes[random() % nodes.size()];
  if (random() % 3 == 0) {
    const json copy = *nodes[random() % nodes.size()];
    *node = copy;
  } else {
    *node = kStrange[random() % std::size(kStrange)];
  }
}

const std::vector<std::string>& texts() {
  static const std::vector<std::string> value = {
      "",
      " ",
      "Hello world, it's 12345!\n\n  x",
      "e\xCC\x81\xE4\xB8\xAD\xF0\x9F\x98\x80 <s><|im_end|> <mask> single",
      std::string(300, ' ') + "a",
      std::string(300, 'a'),
      "\xE2\x96\x81\xE2\x96\x81 <0x41>"};
  return value;
}

void use(const Tokenizer& tokenizer) {
  for (const std::string& text : texts()) {
    const auto ids = tokenizer.encode(text);
    if (!ids.ok()) continue;
    for (const int32_t id : *ids) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, tokenizer.vocab_size());
    }
    const std::string whole = tokenizer.decode(*ids, false);
    ASSERT_FALSE(find_ill_formed_utf8(whole).has_value());
    const std::vector<int32_t> strange = {-1, 0, 1, 2, 255, 256, 700, INT32_MAX, INT32_MIN};
    ASSERT_FALSE(find_ill_formed_utf8(tokenizer.decode(strange, true)).has_value());
    for (const int32_t id : strange) tokenizer.token_bytes(id);
  }
}

TEST(TextFuzz, TokenizerFilesWithBytesChanged) {
  std::mt19937 random(1);
  std::vector<std::string> files;
  for (const char* name : {"gpt2", "llama2", "llama3", "mistral", "qwen2"})
    files.push_back(read_file(kFixtures + "tokenizers/" + name + ".json"));
  repeat([&] {
    const std::string text = mutate_bytes(files[random() % files.size()], random);
    const auto tokenizer = Tokenizer::parse(text);
    if (tokenizer.ok()) use(**tokenizer);
  });
}

TEST(TextFuzz, TokenizerFilesWithFieldsChanged) {
  std::mt19937 random(2);
  std::vector<json> files;
  for (const char* name : {"gpt2", "gpt4o", "llama2", "llama3", "mistral"})
    files.push_back(json::parse(read_file(kFixtures + "tokenizers/" + name + ".json")));
  const json golden = json::parse(read_file(kFixtures + "component_cases.json"));
  repeat([&] {
    json file = files[random() % files.size()];
    if (random() % 2 == 0) {
      file.update(golden["cases"][random() % golden["cases"].size()]["parts"]);
      file["decoder"] = golden["decoders"][random() % golden["decoders"].size()]["decoder"];
    }
    const int edits = 1 + static_cast<int>(random() % 3);
    for (int i = 0; i < edits; ++i) mutate_json(file, random);
    const auto tokenizer = Tokenizer::parse(file.dump());
    if (tokenizer.ok()) use(**tokenizer);
  });
}

TEST(TextFuzz, TruncatedAndRandomUtf8IsAnErrorWithItsOffset) {
  std::mt19937 random(3);
  const auto tokenizer = Tokenizer::load(kFixtures + "tokenizers/llama3.json").value();
  const std::string text = "a\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80 b";
  for (size_t length = 0; length <= text.size(); ++length) {
    const std::string cut = text.substr(0, length);
    const auto offset = find_ill_formed_utf8(cut);
    const auto ids = tokenizer->encode(cut);
    ASSERT_EQ(ids.ok(), !offset.has_value());
    if (offset) {
      EXPECT_NE(ids.error().message.find("byte " + std::to_string(*offset)), std::string::npos);
    } else {
      EXPECT_EQ(tokenizer->decode(*ids, true), cut);
    }
  }
  repeat([&] {
    std::string bytes(random() % 200, ' ');
    for (char& c : bytes) c = static_cast<char>(random());
    const auto ids = tokenizer->encode(bytes);
    ASSERT_EQ(ids.ok(), !find_ill_formed_utf8(bytes).has_value());
  });
}

TEST(TextFuzz, RandomTextComesBackFromByteLevelTokenizers) {
  std::mt19937 random(4);
  std::vector<std::shared_ptr<const Tokenizer>> tokenizers;
  for (const char* name : {"gpt2", "llama3", "gpt4o"})
    tokenizers.push_back(Tokenizer::load(kFixtures + "tokenizers/" + name + ".json").value());
  repeat([&] {
    std::string text;
    const size_t length = random() % 60;
    for (size_t i = 0; i < length; ++i) {
      const uint32_t kind = random() % 4;
      char32_t c = kind == 0 ? random() % 0x80 : kind == 1 ? random() % 0x800 : random() % 0x11000;
      if (kind == 3) c = 0x1F300 + random() % 0x400;
      if (c >= 0xD800 && c < 0xE000) c = ' ';
      append_utf8(text, c);
    }
    for (const auto& tokenizer : tokenizers) {
      const auto ids =
          tokenizer->encode(text, {.add_special_tokens = false, .parse_special = false});
      ASSERT_TRUE(ids.ok());
      ASSERT_EQ(tokenizer->decode(*ids, false), text);
    }
  });
}

TEST(TextFuzz, AMegabyteOfTheSameTakesNoSquareOfTime) {
  const std::vector<std::string> units = {"a",
                                          " ",
                                          "\n",
                                          " \n",
                                          "1",
                                          "\xE4\xB8\xAD",
                                          "!",
                                          "a ",
                                          "Aa",
                                          "<",
                                          "<s>",
                                          "'s",
                                          "\xCC\x81",
                                          "\xCC\xA3\xCC\x81",
                                          "\xE2\x96\x81",
                                          "<|im_",
                                          "\xF0\x9F\x98\x80"};
  for (const char* name : {"gpt2", "gpt4o", "llama2", "llama3", "mistral", "qwen2"}) {
    const auto tokenizer = Tokenizer::load(kFixtures + "tokenizers/" + name + ".json").value();
    for (const std::string& unit : units) {
      std::string text = "x";
      while (text.size() < 200'000) text += unit;
      const auto begin = std::chrono::steady_clock::now();
      const auto ids = tokenizer->encode(text + "z");
      ASSERT_TRUE(ids.ok()) << name << " '" << unit << "': " << ids.error().message;
      // A square of time would be minutes; sanitizers and a busy machine are slow but not that
      // slow.
      ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(15))
          << name << " '" << unit << "'";
    }
  }
}

TEST(TextFuzz, TemplatesWithBytesChanged) {
  std::mt19937 random(5);
  const nlohmann::ordered_json golden =
      nlohmann::ordered_json::parse(read_file(kFixtures + "template_cases.json"));
  std::vector<std::string> sources;
  for (const auto& entry : std::filesystem::directory_iterator(kFixtures + "templates"))
    sources.push_back(entry.path().string());
  std::sort(sources.begin(), sources.end());
  for (std::string& source : sources) source = read_file(source);
  for (const auto& item : golden["snippets"]) sources.push_back(item["source"].get<std::string>());
  std::vector<std::string> names;
  for (const auto& item : golden["messages"].items()) names.push_back(item.key());
  JinjaLimits limits;
  limits.max_steps = 200'000;
  limits.max_output_bytes = size_t{1} << 20;
  limits.max_created_bytes = uint64_t{16} << 20;
  repeat([&] {
    std::string source = sources[random() % sources.size()];
    if (random() % 3 == 0) source += sources[random() % sources.size()];
    const auto parsed = ChatTemplate::parse(mutate_bytes(source, random));
    if (!parsed.ok()) return;
    ChatTemplateInput input;
    input.messages = golden["messages"][names[random() % names.size()]];
    if (random() % 2 == 0) input.tools = golden["tools"];
    input.extra = golden["variables"];
    const auto text = parsed->render(input, limits);
    if (text.ok()) {
      ASSERT_LE(text->size(), limits.max_output_bytes);
      ASSERT_FALSE(find_ill_formed_utf8(*text).has_value());
    }
  });
}

}  // namespace
}  // namespace phalanx
