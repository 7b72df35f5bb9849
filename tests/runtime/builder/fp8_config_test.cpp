// quantization_config of fp8 checkpoints: the forms on the hub, what is refused and how, and
// mutations of both.
#include "runtime/builder/fp8_config.h"

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::builder {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

json compressed_tensors() {
  return json::parse(R"({
    "config_groups": {"group_0": {
      "input_activations": {"actorder": null, "block_structure": null, "dynamic": true,
        "group_size": null, "num_bits": 8, "observer": "memoryless", "observer_kwargs": {},
        "strategy": "token", "symmetric": true, "type": "float"},
      "output_activations": null, "targets": ["Linear"],
      "weights": {"actorder": null, "block_structure": null, "dynamic": false, "group_size": null,
        "num_bits": 8, "observer": "minmax", "observer_kwargs": {}, "strategy": "channel",
        "symmetric": true, "type": "float"}}},
    "format": "float-quantized", "global_compression_ratio": 1.46, "ignore": ["lm_head"],
    "kv_cache_scheme": null, "quant_method": "compressed-tensors",
    "quantization_status": "compressed", "sparsity_config": {"format": "dense"}})");
}

json block_fp8() {
  return json::parse(R"({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
    "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"],
    "weight_block_size": [128, 128]})");
}

TEST(Fp8Config, CompressedTensors) {
  json config = compressed_tensors();
  const auto rows = read_fp8_config(config);
  ASSERT_TRUE(rows.ok()) << rows.error().message;
  EXPECT_THAT(rows->scale_suffixes, ElementsAre("_scale"));
  EXPECT_EQ(rows->block_rows, 0);
  EXPECT_FALSE(rows->has_kv_scales);

  json& group = config["config_groups"]["group_0"];
  group["input_activations"]["dynamic"] = false;
  group["weights"]["strategy"] = "tensor";
  config["kv_cache_scheme"] = {{"num_bits", 8}, {"type", "float"}};
  config["version"] = "0.11.0";
  const auto tensor = read_fp8_config(config);
  ASSERT_TRUE(tensor.ok()) << tensor.error().message;
  EXPECT_TRUE(tensor->has_kv_scales);

  group["weights"]["strategy"] = "block";
  group["weights"]["block_structure"] = {128, 64};
  group["input_activations"] = nullptr;
  const auto block = read_fp8_config(config);
  ASSERT_TRUE(block.ok()) << block.error().message;
  EXPECT_EQ(block->block_rows, 128);
  EXPECT_EQ(block->block_cols, 64);
}

TEST(Fp8Config, Fp8) {
  json config = block_fp8();
  config["scale_fmt"] = "ue8m0";
  const auto block = read_fp8_config(config);
  ASSERT_TRUE(block.ok()) << block.error().message;
  EXPECT_THAT(block->scale_suffixes, ElementsAre("_scale_inv", "_scale"));
  EXPECT_EQ(block->block_rows, 128);
  EXPECT_EQ(block->block_cols, 128);

  const auto tensor = read_fp8_config({{"quant_method", "fp8"},
                                       {"activation_scheme", "static"},
                                       {"ignored_layers", {"lm_head"}},
                                       {"weight_block_size", nullptr},
                                       {"dequantize", false}});
  ASSERT_TRUE(tensor.ok()) << tensor.error().message;
  EXPECT_EQ(tensor->block_rows, 0);
}

struct BadFp8 {
  std::string name;
  std::function<json()> make;
  std::string message;
};

class Fp8ConfigRefuses : public ::testing::TestWithParam<BadFp8> {};

TEST_P(Fp8ConfigRefuses, WithTheKey) {
  const auto result = read_fp8_config(GetParam().make());
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr(GetParam().message));
  EXPECT_THAT(result.error().message, HasSubstr("config.json: quantization_config"));
}

json with(json config, const char* pointer, json value) {
  config[json::json_pointer(pointer)] = std::move(value);
  return config;
}

const char* const kWeights = "/config_groups/group_0/weights/";

INSTANTIATE_TEST_SUITE_P(
    All, Fp8ConfigRefuses,
    ::testing::Values(
        BadFp8{"Text", [] { return json("fp8"); }, "must be an object"},
        BadFp8{"NoMethod", [] { return json::object(); }, "is present; of quantized checkpoints"},
        BadFp8{"Awq",
               [] {
                 return json{{"quant_method", "awq"}};
               },
               "of method \"awq\""},
        BadFp8{"MethodNumber",
               [] {
                 return json{{"quant_method", 8}};
               },
               "of method 8"},
        BadFp8{"Packed", [] { return with(compressed_tensors(), "/format", "pack-quantized"); },
               ".format is \"pack-quantized\", must be \"float-quantized\" or \"naive-quantized\""},
        BadFp8{"Int8",
               [] {
                 return with(compressed_tensors(), (std::string(kWeights) + "type").c_str(), "int");
               },
               ".weights.type is \"int\", must be \"float\""},
        BadFp8{"FourBits",
               [] {
                 return with(compressed_tensors(), (std::string(kWeights) + "num_bits").c_str(), 4);
               },
               ".num_bits is 4, must be 8"},
        BadFp8{"Groups",
               [] {
                 return with(compressed_tensors(), (std::string(kWeights) + "strategy").c_str(),
                             "group");
               },
               "must be \"tensor\" or \"channel\" or \"block\""},
        BadFp8{"GroupSize",
               [] {
                 return with(compressed_tensors(), (std::string(kWeights) + "group_size").c_str(),
                             32);
               },
               ".group_size is 32, which nothing here reads"},
        BadFp8{"BlockWithoutSize",
               [] {
                 return with(compressed_tensors(), (std::string(kWeights) + "strategy").c_str(),
                             "block");
               },
               "block_structure is null, must be [rows, columns]"},
        BadFp8{"NoGroups",
               [] { return with(compressed_tensors(), "/config_groups", json::object()); },
               "config_groups is {}"},
        BadFp8{"Outputs",
               [] {
                 return with(compressed_tensors(), "/config_groups/group_0/output_activations",
                             {{"num_bits", 8}});
               },
               "output_activations"},
        BadFp8{"Transform",
               [] {
                 return with(compressed_tensors(), "/transform_config", {{"R1", 1}});
               },
               "transform_config"},
        BadFp8{"Sparse",
               [] {
                 return with(compressed_tensors(), "/sparsity_config/format", "sparse-24-bitmask");
               },
               "sparsity_config.format is \"sparse-24-bitmask\""},
        BadFp8{"IgnoreText", [] { return with(compressed_tensors(), "/ignore", "lm_head"); },
               ".ignore is \"lm_head\", must be a list of names"},
        BadFp8{"E5m2", [] { return with(block_fp8(), "/fmt", "e5m2"); }, ".fmt is \"e5m2\""},
        BadFp8{"BlockZero",
               [] {
                 return with(block_fp8(), "/weight_block_size", {0, 128});
               },
               "weight_block_size is [0,128], must be [rows, columns], each from 1"},
        BadFp8{"BlockLong",
               [] {
                 return with(block_fp8(), "/weight_block_size", {1, 128, 128});
               },
               "weight_block_size"},
        BadFp8{"Scheme", [] { return with(block_fp8(), "/activation_scheme", "none"); },
               "must be \"dynamic\" or \"static\" or absent"},
        BadFp8{"Unknown", [] { return with(block_fp8(), "/hadamard", true); },
               ".hadamard is true"}),
    [](const auto& instance) { return instance.param.name; });

/// Every value of the configs put in place of every other, and odd ones.
TEST(Fp8Config, MutationsAreReadOrRefused) {
  std::vector<json> values = {nullptr,
                              true,
                              -1,
                              0,
                              1e300,
                              18446744073709551615ULL,
                              "",
                              "\xff",
                              json::array(),
                              json::object(),
                              json::array({json::array()})};
  const std::vector<json> configs = {compressed_tensors(), block_fp8()};
  for (const json& config : configs) {
    const json leaves = config.flatten();
    values.insert(values.end(), leaves.begin(), leaves.end());
  }
  int num_read = 0;
  for (const json& config : configs) {
    std::vector<std::string> places = {"/config_groups", "/config_groups/group_0",
                                       "/config_groups/group_0/weights", "/weight_block_size"};
    const json leaves = config.flatten();
    for (const auto& [pointer, value] : leaves.items()) places.push_back(pointer);
    for (const std::string& place : places) {
      for (const json& value : values) {
        json mutated = config;
        try {
          mutated[json::json_pointer(place)] = value;
        } catch (const json::exception&) {
          continue;  // no such place in this one
        }
        const auto result = read_fp8_config(mutated);
        num_read += result.ok() ? 1 : 0;
        if (!result.ok()) {
          EXPECT_FALSE(result.error().message.empty());
        }
      }
    }
  }
  EXPECT_GT(num_read, 10);
}

}  // namespace
}  // namespace phalanx::builder
