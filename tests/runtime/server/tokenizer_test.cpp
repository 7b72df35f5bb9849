// Tests runtime/server/tokenizer against the tokenizers library: ids and texts must be equal.
#include "runtime/server/tokenizer.h"

#include <fstream>
#include <sstream>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace phalanx {
namespace {

using nlohmann::json;

const std::string kFixtures = std::string(PHALANX_SOURCE_DIR) + "/tests/runtime/server/fixtures/";

json read_json(const std::string& name) {
  std::ifstream file(kFixtures + name);
  EXPECT_TRUE(file.good()) << name;
  return json::parse(file);
}

std::shared_ptr<const Tokenizer> load_flavour(const std::string& name) {
  auto tokenizer = Tokenizer::load(kFixtures + "tokenizers/" + name + ".json");
  EXPECT_TRUE(tokenizer.ok()) << (tokenizer.ok() ? "" : tokenizer.error().message);
  return tokenizer.ok() ? *tokenizer : nullptr;
}

const std::vector<std::string> kFlavours = {"gpt2",   "gpt4o",   "llama2",
                                            "llama3", "mistral", "qwen2"};

TEST(Tokenizer, EncodesAndDecodesLikeTheReferenceLibrary) {
  const json golden = read_json("tokenizer_cases.json");
  ASSERT_EQ(golden.size(), kFlavours.size());
  for (const std::string& name : kFlavours) {
    const auto tokenizer = load_flavour(name);
    ASSERT_NE(tokenizer, nullptr);
    for (const json& item : golden[name]["cases"]) {
      const auto text = item["text"].get<std::string>();
      SCOPED_TRACE(name + ": " + item["text"].dump().substr(0, 200));
      const auto expected = item["ids"].get<std::vector<int32_t>>();

      const auto plain = tokenizer->encode(text, {.add_special_tokens = false});
      ASSERT_TRUE(plain.ok());
      EXPECT_EQ(*plain, expected);

      auto with_special = golden[name]["bos"].get<std::vector<int32_t>>();
      EXPECT_EQ(with_special.size(), item["prefix"].get<size_t>());
      with_special.insert(with_special.end(), expected.begin(), expected.end());
      EXPECT_EQ(tokenizer->encode(text).value(), with_special);

      const auto unparsed =
          item["unparsed"].is_null() ? expected : item["unparsed"].get<std::vector<int32_t>>();
      EXPECT_EQ(
          tokenizer->encode(text, {.add_special_tokens = false, .parse_special = false}).value(),
          unparsed);

      EXPECT_EQ(tokenizer->decode(expected, false), item["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer->decode(with_special, true), item["decoded_skip"].get<std::string>());
    }
    for (const json& item : golden[name]["decodes"]) {
      SCOPED_TRACE(name + ": " + item["ids"].dump());
      const auto ids = item["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer->decode(ids, false), item["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer->decode(ids, true), item["decoded_skip"].get<std::string>());
    }
  }
}

json component_file(const json& golden, const json& parts) {
  json file = {
      {"version", "1.0"}, {"added_tokens", golden["added_tokens"]}, {"model", golden["model"]}};
  file.update(parts);
  return file;
}

TEST(Tokenizer, EveryComponentCutsAndRewritesLikeTheReferenceLibrary) {
  const json golden = read_json("component_cases.json");
  ASSERT_GT(golden["cases"].size(), 80U);
  for (const json& item : golden["cases"]) {
    const auto tokenizer = Tokenizer::parse(component_file(golden, item["parts"]).dump());
    ASSERT_TRUE(tokenizer.ok()) << item["name"] << ": " << tokenizer.error().message;
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      SCOPED_TRACE(item["name"].get<std::string>() + ": " + golden["texts"][i].dump());
      const auto ids = (*tokenizer)->encode(golden["texts"][i].get<std::string>());
      ASSERT_TRUE(ids.ok()) << ids.error().message;
      EXPECT_EQ(*ids, item["ids"][i].get<std::vector<int32_t>>());
    }
  }
}

TEST(Tokenizer, EveryDecoderDecodesLikeTheReferenceLibrary) {
  const json golden = read_json("component_cases.json");
  for (const json& item : golden["decoders"]) {
    json vocabulary = json::object();
    for (size_t i = 0; i < item["tokens"].size(); ++i)
      vocabulary[item["tokens"][i].get<std::string>()] = i;
    const json file = {
        {"decoder", item["decoder"]},
        {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}};
    const auto tokenizer = Tokenizer::parse(file.dump());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    EXPECT_EQ((*tokenizer)->decode(item["ids"].get<std::vector<int32_t>>(), false),
              item["text"].get<std::string>())
        << item["name"] << " " << item["ids"];
  }
}

/// A vocabulary of `size` tokens "t0", "t1", ..., and then `last`.
std::string file_with_vocabulary(int size, const std::string& last) {
  std::string text = R"({"version":"1.0","model":{"type":"BPE","merges":[],"vocab":{)";
  for (int i = 0; i < size; ++i) {
    text += "\"t" + std::to_string(i) + "\":" + std::to_string(i) + ",";
  }
  return text + last + "}}}";
}

TEST(Tokenizer, RefusesATokenOrAnIdThatIsThereTwice) {
  // Small objects and big ones are read in different ways.
  const auto whole = Tokenizer::parse(file_with_vocabulary(1000, R"("end":1000)"));
  ASSERT_TRUE(whole.ok()) << whole.error().message;
  EXPECT_EQ((*whole)->token_id("t999"), 999);
  EXPECT_EQ((*whole)->token_id("end"), 1000);
  EXPECT_EQ((*whole)->token_id("t1000"), std::nullopt);

  const auto same_token = Tokenizer::parse(file_with_vocabulary(1000, R"("t7":1000)"));
  ASSERT_FALSE(same_token.ok());
  EXPECT_EQ(same_token.error().message, "model.vocab: the token 't7' is there twice");

  const auto same_id = Tokenizer::parse(file_with_vocabulary(1000, R"("end":7)"));
  ASSERT_FALSE(same_id.ok());
  EXPECT_EQ(same_id.error().message, "model.vocab: id 7 is used by 't7' and by 'end'");
}

}  // namespace
}  // namespace phalanx
