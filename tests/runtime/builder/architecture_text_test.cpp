// A family that no code knows, described by a text file alone: other tensor names, other config
// keys, another residual structure (attention and MLP read the same norm), a fixed switch.
#include <filesystem>
#include <fstream>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "runtime/builder/engine_builder.h"
#include "runtime/builder/safetensors_writer.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/graph.h"
#include "tests/support/temporary_directory.h"

namespace phalanx::builder {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kText = R"(
name: "parrot"
model_types: "parrot"
config_keys { name: "hidden_size" key: "n_embd" }
config_keys { name: "num_hidden_layers" key: "n_layer" }
config_keys { name: "num_attention_heads" key: "n_head" }
config_keys { name: "intermediate_size" key: "n_inner" }
config_keys { name: "rms_norm_eps" key: "norm_epsilon" absent: "1e-5" }
config_keys { name: "max_position_embeddings" key: "n_positions" }
config_keys { name: "rope_theta" absent: "5000.0" }
ignored_config_keys: "plumage"
switches { name: "qk_norm" config_key: "use_qk_norm" absent: true }

tensors { role: "wte" checkpoint_names: "wte" checkpoint_names: "base.wte"
          rows: "vocab_size" cols: "hidden_size" }
tensors { role: "norm" checkpoint_names: "base.h.{layer}.ln" rows: "hidden_size" }
tensors { role: "q" checkpoint_names: "base.h.{layer}.att.q"
          rows: "num_attention_heads * head_dim" cols: "hidden_size" axis: COLUMN heads: true }
tensors { role: "k" checkpoint_names: "base.h.{layer}.att.k"
          rows: "num_key_value_heads * head_dim" cols: "hidden_size" axis: KV_COLUMN heads: true }
tensors { role: "v" checkpoint_names: "base.h.{layer}.att.v"
          rows: "num_key_value_heads * head_dim" cols: "hidden_size" axis: KV_COLUMN heads: true }
tensors { role: "q_norm" checkpoint_names: "base.h.{layer}.att.qn" rows: "head_dim"
          condition: "qk_norm" }
tensors { role: "o" checkpoint_names: "base.h.{layer}.att.proj"
          rows: "hidden_size" cols: "num_attention_heads * head_dim" axis: ROW }
tensors { role: "gate" checkpoint_names: "base.h.{layer}.ff.a"
          rows: "intermediate_size" cols: "hidden_size" axis: COLUMN }
tensors { role: "up" checkpoint_names: "base.h.{layer}.ff.b"
          rows: "intermediate_size" cols: "hidden_size" axis: COLUMN }
tensors { role: "down" checkpoint_names: "base.h.{layer}.ff.c"
          rows: "hidden_size" cols: "intermediate_size" axis: ROW }
tensors { role: "ln_f" checkpoint_names: "base.ln_f" rows: "hidden_size" }
tensors { role: "head" checkpoint_names: "head" rows: "vocab_size" cols: "hidden_size"
          axis: VOCAB tied_to: "wte" }
ignored_tensors: "*.attn_mask"

prologue { kind: EMBEDDING name: "wte" outputs: "r" weights: "wte" }
layer { kind: RMS_NORM name: "ln" inputs: "r" outputs: "n" weights: "norm" }
layer { kind: LINEAR name: "ff_a" inputs: "n" outputs: "g" weights: "gate" }
layer { kind: LINEAR name: "ff_b" inputs: "n" outputs: "u" weights: "up" }
layer { kind: LINEAR name: "att_q" inputs: "n" outputs: "q" weights: "q" }
layer { kind: LINEAR name: "att_k" inputs: "n" outputs: "k" weights: "k" }
layer { kind: LINEAR name: "att_v" inputs: "n" outputs: "v" weights: "v" }
layer { kind: HEAD_NORM name: "att_qn" inputs: "q" outputs: "q" weights: "q_norm" condition: "qk_norm" }
layer { kind: ROPE name: "rope_q" inputs: "q" outputs: "q" }
layer { kind: ROPE name: "rope_k" inputs: "k" outputs: "k" }
layer { kind: ATTENTION name: "att" inputs: "q" inputs: "k" inputs: "v" outputs: "a" }
layer { kind: LINEAR name: "att_proj" inputs: "a" outputs: "p" weights: "o" }
layer { kind: SILU_MUL name: "ff_act" inputs: "g" inputs: "u" outputs: "m" }
layer { kind: LINEAR name: "ff_c" inputs: "m" outputs: "f" weights: "down" }
layer { kind: ADD name: "add_att" inputs: "r" inputs: "p" outputs: "r" }
layer { kind: ADD name: "add_ff" inputs: "r" inputs: "f" outputs: "r" }
epilogue { kind: SELECT_ROWS name: "select" inputs: "r" outputs: "s" }
epilogue { kind: RMS_NORM name: "ln_f" inputs: "s" outputs: "n" weights: "ln_f" }
epilogue { kind: LINEAR name: "head" inputs: "n" outputs: "logits" weights: "head" }
)";

class ArchitectureText : public ::testing::Test {
 protected:
  void SetUp() override {
    config_ = {
        {"model_type", "parrot"}, {"n_embd", 32},     {"n_layer", 2},      {"n_head", 4},
        {"n_inner", 64},          {"vocab_size", 50}, {"n_positions", 99}, {"plumage", "grey"}};
    tensors_ = {{"base.wte", {50, 32}}, {"base.ln_f", {32}}, {"head", {50, 32}}};
    for (int layer = 0; layer < 2; ++layer) {
      const std::string h = "base.h." + std::to_string(layer) + ".";
      tensors_.insert({{h + "ln", {32}},
                       {h + "att.q", {32, 32}},
                       {h + "att.k", {32, 32}},
                       {h + "att.v", {32, 32}},
                       {h + "att.qn", {8}},
                       {h + "att.proj", {32, 32}},
                       {h + "att.attn_mask", {3, 3}},
                       {h + "ff.a", {64, 32}},
                       {h + "ff.b", {64, 32}},
                       {h + "ff.c", {32, 64}}});
    }
    text_ = kText;
  }

  Result<BuildReport> build() {
    const std::string checkpoint = directory_.path() + "/c";
    std::filesystem::remove_all(checkpoint);
    std::filesystem::create_directory(checkpoint);
    std::ofstream(checkpoint + "/config.json") << config_;
    std::vector<model::StoredTensor> stored;
    for (const auto& [name, shape] : tensors_) stored.push_back({name, DType::kF32, shape});
    auto writer = SafetensorsWriter::create(checkpoint + "/model.safetensors", stored);
    EXPECT_TRUE(writer.ok());
    for (const model::StoredTensor& tensor : stored) {
      const std::vector<std::byte> zeros(static_cast<size_t>(tensor.num_bytes()));
      EXPECT_TRUE((*writer)->write(tensor.name, 0, zeros).ok());
    }
    EXPECT_TRUE((*writer)->finish().ok());
    std::ofstream(directory_.path() + "/parrot.textproto") << text_;
    BuildOptions options;
    options.checkpoint = checkpoint;
    options.engine = directory_.path() + "/e";
    options.architecture_file = directory_.path() + "/parrot.textproto";
    options.force = true;
    return build_engine(options);
  }

  std::string build_error() {
    const auto report = build();
    EXPECT_FALSE(report.ok());
    return report.ok() ? "" : report.error().message;
  }

  void replace(const std::string& from, const std::string& to) {
    const size_t at = text_.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    text_.replace(at, from.size(), to);
  }

  testing::TemporaryDirectory directory_;
  json config_;
  std::map<std::string, std::vector<int64_t>> tensors_;
  std::string text_;
};

TEST_F(ArchitectureText, BuildsAFamilyNoCodeKnows) {
  const auto report = build();
  ASSERT_TRUE(report.ok()) << report.error().message;
  const auto engine = model::EngineFile::open(directory_.path() + "/e");
  ASSERT_TRUE(engine.ok()) << engine.error().message;
  const engine::EngineManifest& manifest = (*engine)->manifest();
  EXPECT_EQ(manifest.model().architecture(), "parrot");
  EXPECT_EQ(manifest.model().num_key_value_heads(), 4);
  EXPECT_EQ(manifest.model().rope().theta(), 5000.0);
  EXPECT_EQ(manifest.model().max_position_embeddings(), 99);
  EXPECT_EQ(manifest.reduction_lanes(), 4);
  const std::string dump =
      model::dump_graph(manifest.graph(), {manifest.weights().begin(), manifest.weights().end()});
  // The passes see through the other names and the other order.
  EXPECT_THAT(dump, AllOf(HasSubstr("layers.1.qkv"), HasSubstr("layers.1.gate_up"),
                          HasSubstr("layers.1.att_qn"), HasSubstr("layers.0.add_ff_norm")));
}

TEST_F(ArchitectureText, SwitchesTakeOpsAndTensorsAway) {
  config_["use_qk_norm"] = false;
  EXPECT_THAT(build_error(), HasSubstr("base.h.0.att.qn [8] is read by nothing"));
  tensors_.erase("base.h.0.att.qn");
  tensors_.erase("base.h.1.att.qn");
  const auto report = build();
  ASSERT_TRUE(report.ok()) << report.error().message;
  for (const engine::Op& op : report->manifest.graph().ops())
    EXPECT_NE(op.kind(), engine::HEAD_NORM);
}

TEST_F(ArchitectureText, WrongTextsAreExplained) {
  replace("inputs: \"q\" inputs: \"k\" inputs: \"v\" outputs: \"a\"",
          "inputs: \"q\" inputs: \"k\" inputs: \"w\" outputs: \"a\"");
  EXPECT_THAT(build_error(), HasSubstr("op \"att\" reads \"w\""));
  text_ = kText;
  replace("axis: KV_COLUMN heads: true", "axis: COLUMN heads: true");
  EXPECT_THAT(build_error(), AllOf(HasSubstr("layers.0.att"), HasSubstr("cut by kv_column")));
  text_ = kText;
  replace("inputs: \"r\" inputs: \"p\" outputs: \"r\"",
          "inputs: \"p\" inputs: \"r\" outputs: \"r\"");
  EXPECT_THAT(build_error(), HasSubstr("layers.0.add_att"));
  text_ = kText;
  replace("model_types: \"parrot\"", "model_types: \"macaw\"");
  EXPECT_THAT(build_error(), HasSubstr("do not name \"parrot\""));
  text_ = kText;
  replace("ignored_config_keys: \"plumage\"", "");
  EXPECT_THAT(build_error(), HasSubstr("plumage is \"grey\""));
  text_ = kText;
  replace("ignored_tensors: \"*.attn_mask\"", "");
  EXPECT_THAT(build_error(), HasSubstr("att.attn_mask"));
  for (const char* field : {"rows", "cols"}) {
    for (const char* shape : {"0", "0 * hidden_size", "hidden_size * 00"}) {
      text_ = kText;
      const std::string role =
          "role: \"down\" checkpoint_names: \"base.h.{layer}.ff.c\"\n          ";
      replace(role + "rows: \"hidden_size\" cols: \"intermediate_size\"",
              role + (field == std::string("rows") ? "" : "rows: \"hidden_size\" ") + field +
                  ": \"" + shape + "\"");
      EXPECT_THAT(build_error(),
                  AllOf(HasSubstr("parrot.textproto: tensor \"down\": "),
                        HasSubstr(std::string(field) + " is \"" + shape + "\", must be positive")));
    }
  }
  text_ = kText;
  replace("kind: SELECT_ROWS", "kind: SELECT_ROW");
  EXPECT_THAT(build_error(), HasSubstr("parrot.textproto:"));
}

}  // namespace
}  // namespace phalanx::builder
