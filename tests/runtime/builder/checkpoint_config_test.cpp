// config.json of both dialects and every family: what is read, what is refused and how.
#include "runtime/builder/checkpoint_config.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/model/architecture.h"

namespace phalanx::builder {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json base_config(const std::string& family = "llama") {
  return {{"model_type", family},        {"hidden_size", 64},        {"num_hidden_layers", 4},
          {"num_attention_heads", 8},    {"num_key_value_heads", 2}, {"intermediate_size", 128},
          {"vocab_size", 100},           {"rms_norm_eps", 1e-5},     {"hidden_act", "silu"},
          {"tie_word_embeddings", true}, {"eos_token_id", 2},        {"bos_token_id", 1}};
}

Result<CheckpointConfig> read(const json& config, const json& generation = nullptr,
                              const std::vector<std::string>& ignored = {}) {
  const auto architecture =
      model::architecture_for_model_type(config["model_type"].get<std::string>());
  return read_checkpoint_config(config, generation, *architecture, ignored);
}

engine::ModelConfig read_model(const json& config, const json& generation = nullptr) {
  const auto result = read(config, generation);
  EXPECT_TRUE(result.ok()) << (result.ok() ? "" : result.error().message);
  return result.ok() ? result->model : engine::ModelConfig();
}

TEST(CheckpointConfig, ReadsDimensionsAndDefaults) {
  const engine::ModelConfig model = read_model(base_config());
  EXPECT_EQ(model.architecture(), "llama");
  EXPECT_EQ(model.hidden_size(), 64);
  EXPECT_EQ(model.num_hidden_layers(), 4);
  EXPECT_EQ(model.num_attention_heads(), 8);
  EXPECT_EQ(model.num_key_value_heads(), 2);
  EXPECT_EQ(model.head_dim(), 8);  // hidden_size / heads
  EXPECT_EQ(model.max_position_embeddings(), 2048);
  EXPECT_EQ(model.rms_norm_eps(), 1e-5);
  EXPECT_TRUE(model.tie_word_embeddings());
  EXPECT_EQ(model.rope().type(), engine::Rope::DEFAULT);
  EXPECT_EQ(model.rope().theta(), 10000.0);
  EXPECT_EQ(model.rope().rotary_dim(), 8);
  EXPECT_EQ(model.sliding_window(), 0);
  EXPECT_EQ(model.bos_token_id(), 1);
}

TEST(CheckpointConfig, OptionalFields) {
  json config = base_config();
  config.erase("num_key_value_heads");
  config["head_dim"] = nullptr;
  EXPECT_EQ(read_model(config).num_key_value_heads(), 8);
  EXPECT_EQ(read_model(config).head_dim(), 8);
  config["head_dim"] = 24;
  EXPECT_EQ(read_model(config).head_dim(), 24);
  config["bos_token_id"] = nullptr;
  EXPECT_FALSE(read_model(config).has_bos_token_id());
  config.erase("tie_word_embeddings");
  const auto result = read(config);
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->tie_is_stated);
}

TEST(CheckpointConfig, FamilyDefaults) {
  EXPECT_EQ(read_model(base_config("qwen3")).head_dim(), 128);
  EXPECT_EQ(read_model(base_config("mistral")).sliding_window(), 4096);
  EXPECT_EQ(read_model(base_config("mistral")).max_position_embeddings(), 131072);
  EXPECT_EQ(read_model(base_config("qwen2")).sliding_window(), 0);
}

TEST(CheckpointConfig, Switches) {
  json config = base_config();
  EXPECT_FALSE(read(config)->switches.at("attention_bias"));
  config["attention_bias"] = true;
  config["mlp_bias"] = nullptr;
  EXPECT_TRUE(read(config)->switches.at("attention_bias"));
  EXPECT_FALSE(read(config)->switches.at("mlp_bias"));
}

TEST(CheckpointConfig, EndTokens) {
  json config = base_config();
  EXPECT_THAT(read_model(config).eos_token_ids(), ElementsAre(2));
  config["eos_token_id"] = {5, 2, 5};
  EXPECT_THAT(read_model(config).eos_token_ids(), ElementsAre(5, 2));
  EXPECT_THAT(read_model(config, {{"eos_token_id", {7, 9}}}).eos_token_ids(), ElementsAre(7, 9));
  EXPECT_THAT(read_model(config, {{"eos_token_id", nullptr}}).eos_token_ids(), ElementsAre(5, 2));
  EXPECT_THAT(read_model(config, {{"temperature", 0.6}}).eos_token_ids(), ElementsAre(5, 2));
  config["eos_token_id"] = nullptr;
  EXPECT_THAT(read_model(config).eos_token_ids(), ElementsAre());
}

TEST(CheckpointConfig, FirstToken) {
  const json config = base_config();
  EXPECT_EQ(read_model(config, {{"bos_token_id", 7}}).bos_token_id(), 7);
  EXPECT_EQ(read_model(config, {{"bos_token_id", nullptr}}).bos_token_id(), 1);
  EXPECT_THAT(read(config, {{"bos_token_id", 100}}).error().message,
              HasSubstr("generation_config.json: bos_token_id is 100"));
}

TEST(CheckpointConfig, RopeInBothDialects) {
  const json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  json old_dialect = base_config();
  old_dialect["rope_theta"] = 500000.0;
  old_dialect["rope_scaling"] = llama3;
  json current = base_config();
  current["rope_parameters"] = llama3;
  current["rope_parameters"]["rope_theta"] = 500000.0;
  for (const json& config : {old_dialect, current}) {
    const engine::Rope rope = read_model(config).rope();
    EXPECT_EQ(rope.type(), engine::Rope::LLAMA3);
    EXPECT_EQ(rope.theta(), 500000.0);
    EXPECT_EQ(rope.factor(), 32.0);
    EXPECT_EQ(rope.low_freq_factor(), 1.0);
    EXPECT_EQ(rope.high_freq_factor(), 4.0);
    EXPECT_EQ(rope.original_max_position_embeddings(), 8192);
  }
  json oldest = base_config();
  oldest["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  EXPECT_EQ(read_model(oldest).rope().type(), engine::Rope::LINEAR);
  EXPECT_EQ(read_model(oldest).rope().factor(), 4.0);
  oldest["rope_scaling"] = nullptr;
  oldest["rope_theta"] = 1000000;
  EXPECT_EQ(read_model(oldest).rope().theta(), 1e6);
  current["rope_parameters"].erase("original_max_position_embeddings");
  EXPECT_EQ(read_model(current).rope().original_max_position_embeddings(), 2048);
  current["original_max_position_embeddings"] = 777;
  EXPECT_EQ(read_model(current).rope().original_max_position_embeddings(), 777);
}

TEST(CheckpointConfig, Windows) {
  json mistral = base_config("mistral");
  mistral["sliding_window"] = nullptr;
  EXPECT_EQ(read_model(mistral).sliding_window(), 0);
  mistral["sliding_window"] = 24;
  EXPECT_EQ(read_model(mistral).sliding_window(), 24);

  json qwen = base_config("qwen2");
  qwen["sliding_window"] = 24;
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 0;
  EXPECT_EQ(read_model(qwen).sliding_window(), 24);
  qwen["max_window_layers"] = 4;  // no layer is at or beyond it
  EXPECT_EQ(read_model(qwen).sliding_window(), 0);
  qwen["max_window_layers"] = 2;
  EXPECT_THAT(read(qwen).error().message, HasSubstr("2 of 4 layers"));
  EXPECT_EQ(read(qwen).error().code, ErrorCode::kUnsupported);
  qwen["use_sliding_window"] = false;
  EXPECT_EQ(read_model(qwen).sliding_window(), 0);

  qwen["use_sliding_window"] = true;
  qwen["layer_types"] = json::array();
  for (int i = 0; i < 4; ++i) qwen["layer_types"].push_back("sliding_attention");
  EXPECT_EQ(read_model(qwen).sliding_window(), 24);  // layer_types wins over max_window_layers
  qwen["layer_types"][1] = "full_attention";
  EXPECT_THAT(read(qwen).error().message, HasSubstr("3 of 4 layers"));
  qwen["layer_types"][1] = "linear_attention";
  EXPECT_THAT(read(qwen).error().message, HasSubstr("linear_attention"));
  qwen["layer_types"] = {"full_attention"};
  EXPECT_THAT(read(qwen).error().message, HasSubstr("must list 4 layers"));
}

struct BadConfig {
  const char* name;
  std::function<void(json&)> apply;
  const char* complaint;
};

class CheckpointConfigRefuses : public ::testing::TestWithParam<BadConfig> {};

TEST_P(CheckpointConfigRefuses, WithTheKeyInTheMessage) {
  json config = base_config();
  GetParam().apply(config);
  const auto result = read(config);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr(GetParam().complaint));
}

INSTANTIATE_TEST_SUITE_P(
    All, CheckpointConfigRefuses,
    ::testing::Values(
        BadConfig{"MissingSize", [](json& c) { c.erase("hidden_size"); }, "lacks hidden_size"},
        BadConfig{"TextSize", [](json& c) { c["hidden_size"] = "64"; }, "hidden_size is \"64\""},
        BadConfig{"FractionalSize", [](json& c) { c["hidden_size"] = 64.5; }, "64.5"},
        BadConfig{"NegativeLayers", [](json& c) { c["num_hidden_layers"] = -1; },
                  "num_hidden_layers is -1"},
        BadConfig{"HugeVocabulary", [](json& c) { c["vocab_size"] = 1ULL << 40; }, "vocab_size"},
        BadConfig{"KvHeadsDoNotDivide", [](json& c) { c["num_key_value_heads"] = 3; },
                  "must divide num_attention_heads 8"},
        BadConfig{"OddHead", [](json& c) { c["head_dim"] = 9; },
                  "head_dim is 9, must be a multiple of 8 from 8 to 256"},
        BadConfig{"HeadNoMultiple", [](json& c) { c["head_dim"] = 100; }, "head_dim is 100, must"},
        BadConfig{"HeadTooWide", [](json& c) { c["head_dim"] = 264; }, "head_dim is 264, must"},
        BadConfig{"HeadByDivision", [](json& c) { c["hidden_size"] = 96; },
                  "hidden_size / num_attention_heads, is 12, must be a multiple of 8"},
        BadConfig{"HiddenNoMultiple", [](json& c) { c["hidden_size"] = 60; },
                  "head_dim is not given"},
        BadConfig{"Gelu", [](json& c) { c["hidden_act"] = "gelu"; }, "hidden_act is \"gelu\""},
        BadConfig{"NotCausal", [](json& c) { c["is_causal"] = false; },
                  "is_causal is false, must be true or absent"},
        BadConfig{"CausalText", [](json& c) { c["is_causal"] = "yes"; },
                  "is_causal is \"yes\", must be true or false"},
        BadConfig{"NoEps", [](json& c) { c["rms_norm_eps"] = 0; }, "rms_norm_eps is 0"},
        BadConfig{"Tied", [](json& c) { c["tie_word_embeddings"] = 1; }, "tie_word_embeddings"},
        BadConfig{"Yarn",
                  [](json& c) {
                    c["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4}};
                  },
                  "rope type is \"yarn\"; supported are default, linear and llama3"},
        BadConfig{"LinearWithoutFactor",
                  [](json& c) {
                    c["rope_scaling"] = {{"type", "linear"}};
                  },
                  "lacks factor"},
        BadConfig{"RopeUnknownField",
                  [](json& c) {
                    c["rope_scaling"] = {{"type", "linear"}, {"factor", 2}, {"beta", 1}};
                  },
                  "rope_scaling.beta"},
        BadConfig{"RopeList",
                  [](json& c) {
                    c["rope_scaling"] = {1, 2};
                  },
                  "must be an object"},
        BadConfig{"NegativeTheta", [](json& c) { c["rope_theta"] = -1; }, "rope_theta"},
        BadConfig{"PartialRotation", [](json& c) { c["partial_rotary_factor"] = 0.5; },
                  "partial_rotary_factor is 0.5"},
        BadConfig{"Llama3Order",
                  [](json& c) {
                    c["rope_scaling"] = {{"rope_type", "llama3"},
                                         {"factor", 8},
                                         {"low_freq_factor", 4},
                                         {"high_freq_factor", 1}};
                  },
                  "greater than low_freq_factor"},
        BadConfig{"EosOutside", [](json& c) { c["eos_token_id"] = 100; }, "below 100"},
        BadConfig{"EosText", [](json& c) { c["eos_token_id"] = "</s>"; }, "eos_token_id"},
        BadConfig{"Quantized",
                  [](json& c) {
                    c["quantization_config"] = {{"quant_method", "gptq"}};
                  },
                  "method \"gptq\""},
        BadConfig{"UnknownMaths", [](json& c) { c["logit_scale"] = 0.0625; },
                  "--ignore-config-key logit_scale"},
        BadConfig{"UnknownSwitch", [](json& c) { c["use_qk_norm"] = true; }, "use_qk_norm"},
        BadConfig{"WindowInLlama", [](json& c) { c["sliding_window"] = 128; }, "sliding_window"},
        BadConfig{"BiasText", [](json& c) { c["attention_bias"] = "yes"; },
                  "must be true or false"}),
    [](const auto& instance) { return instance.param.name; });

TEST(CheckpointConfig, UnknownKeysThatAreOffOrIgnoredPass) {
  json config = base_config();
  config["use_qk_norm"] = false;
  config["is_causal"] = true;
  config["extra"] = nullptr;
  config["more"] = json::object();
  config["initializer_range"] = 0.02;
  config["pretraining_tp"] = 1;
  EXPECT_TRUE(read(config).ok());
  config["logit_scale"] = 0.0625;
  EXPECT_FALSE(read(config).ok());
  const auto ignored = read(config, nullptr, {"logit_scale"});
  ASSERT_TRUE(ignored.ok());
  EXPECT_THAT(ignored->notes, ::testing::Contains(HasSubstr("logit_scale was ignored")));
}

TEST(CheckpointConfig, KeysThatAreReadCannotBeIgnored) {
  json config = base_config();
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  for (const char* key : {"rope_scaling", "hidden_size", "tie_word_embeddings", "attention_bias",
                          "is_causal", "quantization_config"}) {
    const auto result = read(config, nullptr, {key});
    ASSERT_FALSE(result.ok()) << key;
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(result.error().message,
                HasSubstr(std::string("--ignore-config-key ") + key + ": architecture llama"));
  }
}

TEST(CheckpointConfig, ModelType) {
  EXPECT_EQ(*model_type_of({{"model_type", "llama"}}), "llama");
  EXPECT_FALSE(model_type_of({{"model_type", 3}}).ok());
  EXPECT_FALSE(model_type_of(json::object()).ok());
  EXPECT_FALSE(model_type_of(json::array()).ok());
}

}  // namespace
}  // namespace phalanx::builder
