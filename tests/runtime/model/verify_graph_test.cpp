// verify_graph and verify_manifest refuse what the executor could not run: one broken thing a case.
#include <algorithm>
#include <cmath>
#include <functional>
#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/model/collectives.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/graph.h"
#include "runtime/model/manifest.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx::model {
namespace {

using ::testing::HasSubstr;

/// The manifest of a small engine: qwen2, so that there are biases too.
const engine::EngineManifest& valid_manifest() {
  static const engine::EngineManifest manifest = [] {
    const testing::TemporaryDirectory directory;
    testing::TinyModel model;
    model.architecture = "qwen2";
    const std::string path = testing::build_tiny_engine(directory.path(), model, "w8");
    auto opened = EngineFile::open(path);
    return (*opened)->manifest();
  }();
  return manifest;
}

std::vector<engine::Weight> weights_of(const engine::EngineManifest& manifest) {
  return {manifest.weights().begin(), manifest.weights().end()};
}

engine::Op& op_named(engine::EngineManifest& manifest, const std::string& name) {
  for (engine::Op& op : *manifest.mutable_graph()->mutable_ops()) {
    if (op.name() == name) return op;
  }
  throw std::runtime_error("no op " + name);
}

engine::Value& value_named(engine::EngineManifest& manifest, const std::string& name) {
  for (engine::Value& value : *manifest.mutable_graph()->mutable_values()) {
    if (value.name() == name) return value;
  }
  throw std::runtime_error("no value " + name);
}

engine::Weight& weight_named(engine::EngineManifest& manifest, const std::string& name) {
  for (engine::Weight& weight : *manifest.mutable_weights()) {
    if (weight.name() == name) return weight;
  }
  throw std::runtime_error("no weight " + name);
}

/// Layer 1 reads the norm of layer 0, past the add where a stage could begin.
void reuse_first_norm(engine::EngineManifest& manifest) {
  engine::Op& add = op_named(manifest, "layers.0.mlp_add_norm");
  add.set_kind(engine::ADD);
  add.mutable_outputs()->RemoveLast();
  add.clear_weights();
  add.clear_eps();
  op_named(manifest, "layers.1.qkv").set_inputs(0, "layers.0.h");
  auto* values = manifest.mutable_graph()->mutable_values();
  values->erase(std::find_if(values->begin(), values->end(), [](const engine::Value& value) {
    return value.name() == "layers.1.h";
  }));
}

/// Layer 1 attends right after layer 0: what came between comes later.
void attend_twice_in_a_row(engine::EngineManifest& manifest) {
  reuse_first_norm(manifest);
  auto* ops = manifest.mutable_graph()->mutable_ops();
  int end = 0;
  while (ops->Get(end).name() != "layers.0.attention") ++end;
  ++end;
  for (const char* name :
       {"layers.1.qkv", "layers.1.rope_q", "layers.1.rope_k", "layers.1.attention"}) {
    int at = end;
    while (ops->Get(at).name() != name) ++at;
    for (; at > end; --at) ops->SwapElements(at, at - 1);
    ++end;
  }
  for (int i = end; i < ops->size(); ++i) {
    if (ops->Get(i).layer() == 0) ops->Mutable(i)->set_layer(1);
  }
}

struct Breakage {
  const char* name;
  std::function<void(engine::EngineManifest&)> apply;
  const char* complaint;
};

class VerifyManifest : public ::testing::TestWithParam<Breakage> {};

TEST(VerifyManifestValid, Passes) {
  const Status status = verify_manifest(valid_manifest());
  EXPECT_TRUE(status.ok()) << status.error().message;
}

TEST_P(VerifyManifest, RefusesBreakage) {
  engine::EngineManifest manifest = valid_manifest();
  GetParam().apply(manifest);
  const Status status = verify_manifest(manifest);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr(GetParam().complaint));
}

using M = engine::EngineManifest;

INSTANTIATE_TEST_SUITE_P(
    Graph, VerifyManifest,
    ::testing::Values(
        Breakage{"NoOps", [](M& m) { m.mutable_graph()->clear_ops(); }, "has no ops"},
        Breakage{"UnknownKind",
                 [](M& m) { op_named(m, "layers.0.o").set_kind(static_cast<engine::OpKind>(77)); },
                 "unknown kind 77"},
        Breakage{"MissingInput", [](M& m) { op_named(m, "layers.0.o").clear_inputs(); },
                 "has 0 inputs"},
        Breakage{"UndefinedInput", [](M& m) { op_named(m, "layers.0.o").set_inputs(0, "nothing"); },
                 "reads nothing, which no earlier op makes"},
        Breakage{"ReadsLater", [](M& m) { op_named(m, "layers.0.o").set_inputs(0, "layers.1.a"); },
                 "which no earlier op makes"},
        Breakage{"ReadsOverwritten",
                 [](M& m) { op_named(m, "layers.0.attention").set_inputs(0, "layers.0.q"); },
                 "which layers.0.rope_q overwrote"},
        Breakage{"ReadsTwice",
                 [](M& m) {
                   engine::Op& op = op_named(m, "layers.0.attention");
                   op.set_inputs(1, op.inputs(0));
                 },
                 "twice"},
        Breakage{"MadeTwice", [](M& m) { op_named(m, "layers.1.o").set_outputs(0, "layers.0.d"); },
                 "which an earlier op made"},
        Breakage{"UnlistedValue", [](M& m) { op_named(m, "layers.0.o").set_outputs(0, "secret"); },
                 "which the graph's values lack"},
        Breakage{"WrongWidth", [](M& m) { value_named(m, "layers.0.d").set_cols(65); },
                 "listed as 65"},
        Breakage{"WrongPartial", [](M& m) { value_named(m, "layers.0.d").set_partial(false); },
                 "partial"},
        Breakage{"WrongAxis",
                 [](M& m) { value_named(m, "layers.0.a").set_axis(engine::REPLICATED); },
                 "listed as"},
        Breakage{"ListedTwice",
                 [](M& m) { *m.mutable_graph()->add_values() = m.graph().values(0); },
                 "listed twice"},
        Breakage{"ListedUnmade",
                 [](M& m) {
                   engine::Value* value = m.mutable_graph()->add_values();
                   *value = m.graph().values(0);
                   value->set_name("ghost");
                 },
                 "ghost is listed, but no op makes it"},
        Breakage{"DeadValue",
                 [](M& m) {
                   engine::Op op = op_named(m, "lm_head");
                   op.set_name("again");
                   op.set_outputs(0, "logits2");
                   engine::Value value = value_named(m, "logits");
                   value.set_name("logits2");
                   *m.mutable_graph()->add_ops() = op;
                   *m.mutable_graph()->add_values() = value;
                 },
                 "logits is dead"},
        Breakage{"NameUsedTwice", [](M& m) { op_named(m, "layers.1.o").set_name("layers.0.o"); },
                 "used before"},
        Breakage{"LayerSkipped",
                 [](M& m) {
                   for (engine::Op& op : *m.mutable_graph()->mutable_ops())
                     if (op.layer() == 0) op.set_layer(-1);
                 },
                 "layer"},
        Breakage{"LayersDescend", [](M& m) { op_named(m, "layers.1.down").set_layer(0); },
                 "after layer 1"},
        Breakage{"LayerTooHigh", [](M& m) { op_named(m, "layers.1.down").set_layer(2); },
                 "allowed are -1 to 1"},
        Breakage{"TooFewLayers", [](M& m) { m.mutable_model()->set_num_hidden_layers(3); },
                 "has 2 layers"},
        Breakage{"NoEps", [](M& m) { op_named(m, "final_norm").set_eps(0); }, "eps"},
        Breakage{"EpsOfLinear", [](M& m) { op_named(m, "lm_head").set_eps(1e-5); },
                 "must be unset"},
        Breakage{"UnknownWeight",
                 [](M& m) { op_named(m, "layers.0.o").set_weights(0, "layers.0.none"); },
                 "does not exist"},
        Breakage{"VectorAsMatrix",
                 [](M& m) { op_named(m, "layers.0.o").set_weights(0, "final_norm"); },
                 "must be a matrix"},
        Breakage{"MatrixAsVector",
                 [](M& m) { op_named(m, "final_norm").set_weights(0, "layers.0.o"); },
                 "must be a vector of 64"},
        Breakage{"BiasesMissing", [](M& m) { op_named(m, "layers.0.qkv").clear_biases(); },
                 "biases"},
        Breakage{"BiasOfRowCut",
                 [](M& m) { op_named(m, "layers.0.o").set_biases(0, "final_norm"); },
                 "after the all-reduce"},
        Breakage{"BiasCutOtherwise",
                 [](M& m) { weight_named(m, "layers.0.q_bias").set_axis(engine::REPLICATED); },
                 "is cut by replicated, its weight by column"},
        Breakage{"MixedFormats",
                 [](M& m) {
                   engine::Weight& weight = weight_named(m, "layers.0.k");
                   weight.set_format(engine::BF16);
                   weight.set_group_size(0);
                 },
                 "cannot share one op"},
        Breakage{"PartialIntoNorm",
                 [](M& m) {
                   engine::Op& op = op_named(m, "layers.0.gate_up");
                   op.set_inputs(0, "layers.0.d");
                 },
                 "needs a whole"},
        Breakage{"EmbeddingNotFirst",
                 [](M& m) { m.mutable_graph()->mutable_ops()->SwapElements(0, 1); },
                 "no earlier op makes"},
        Breakage{"AllReduceStored", [](M& m) { *m.mutable_graph() = with_collectives(m.graph()); },
                 "knows no topology"},
        Breakage{"ReadsAcrossAStageCut", reuse_first_norm,
                 "op layers.1.qkv (linear): reads layers.0.h, made before layers.0.mlp_add_norm"},
        Breakage{"NoAddBetweenAttentions", attend_twice_in_a_row,
                 "op layers.1.attention (attention): follows layers.0.attention without an add"},
        Breakage{"LogitsNotLast", [](M& m) { m.mutable_graph()->mutable_ops()->RemoveLast(); },
                 "must be the logits"}),
    [](const auto& instance) { return instance.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Manifest, VerifyManifest,
    ::testing::Values(
        Breakage{"Version", [](M& m) { m.set_format_version(2); }, "format_version is 2"},
        Breakage{"LanesNotPower", [](M& m) { m.set_reduction_lanes(3); }, "reduction_lanes is 3"},
        Breakage{"HeadDimNoMultiple", [](M& m) { m.mutable_model()->set_head_dim(12); },
                 "model.head_dim is 12, must be a multiple of 8 from 8 to 256"},
        Breakage{"HeadDimTooWide", [](M& m) { m.mutable_model()->set_head_dim(264); },
                 "model.head_dim is 264"},
        Breakage{"LanesTooMany",
                 [](M& m) {
                   m.mutable_model()->set_num_attention_heads(128);
                   m.set_reduction_lanes(128);
                 },
                 "reduction_lanes is 128, must be a power of two from 1 to 64"},
        Breakage{"LanesBeyondHeads", [](M& m) { m.set_reduction_lanes(8); },
                 "divides num_attention_heads 4"},
        Breakage{"KvHeads", [](M& m) { m.mutable_model()->set_num_key_value_heads(3); },
                 "must divide num_attention_heads"},
        Breakage{"HiddenZero", [](M& m) { m.mutable_model()->set_hidden_size(0); },
                 "model.hidden_size is 0"},
        Breakage{"EosOutside", [](M& m) { m.mutable_model()->add_eos_token_ids(128); },
                 "model.eos_token_ids is 128"},
        Breakage{"EpsNan", [](M& m) { m.mutable_model()->set_rms_norm_eps(NAN); }, "rms_norm_eps"},
        Breakage{"RopeOdd", [](M& m) { m.mutable_model()->mutable_rope()->set_rotary_dim(15); },
                 "must be even"},
        Breakage{"RopeTooWide", [](M& m) { m.mutable_model()->mutable_rope()->set_rotary_dim(18); },
                 "rotary_dim is 18"},
        Breakage{"RopeTheta", [](M& m) { m.mutable_model()->mutable_rope()->set_theta(-1); },
                 "rope.theta"},
        Breakage{"WeightTwice", [](M& m) { *m.add_weights() = m.weights(3); }, "listed twice"},
        Breakage{"WeightNegative", [](M& m) { weight_named(m, "layers.0.o").set_rows(-1); },
                 "cannot be"},
        Breakage{"KvUnits", [](M& m) { weight_named(m, "layers.0.k").set_shard_unit(8); },
                 "must have num_key_value_heads 2"},
        Breakage{"GroupZero", [](M& m) { weight_named(m, "layers.0.o").set_group_size(0); },
                 "layers.0.o: group_size is 0"},
        Breakage{"GroupNoMultiple", [](M& m) { weight_named(m, "layers.0.o").set_group_size(4); },
                 "group_size is 4, must be a multiple of 8 from 8 to 65536 that divides 16"},
        Breakage{"GroupTooLarge",
                 [](M& m) {
                   engine::Weight& weight = weight_named(m, "layers.0.gate");
                   weight.set_cols(131072);
                   weight.set_group_size(131072);
                 },
                 "group_size is 131072"},
        Breakage{"GroupStraddlesLanes",
                 [](M& m) { weight_named(m, "layers.0.o").set_group_size(32); }, "that divides 16"},
        Breakage{"VectorQuantized",
                 [](M& m) { weight_named(m, "final_norm").set_format(engine::W8); }, "must be f32"},
        Breakage{"BlocksWithoutFp8",
                 [](M& m) { weight_named(m, "layers.0.o").set_scale_rows(128); },
                 "can have neither scale_rows nor scale_cols"},
        Breakage{"Fp8WithoutBlocks",
                 [](M& m) { weight_named(m, "layers.0.o").set_format(engine::FP8); },
                 "layers.0.o: scale_rows is 0"},
        Breakage{"Fp8WithoutGroups",
                 [](M& m) {
                   engine::Weight& weight = weight_named(m, "layers.0.o");
                   weight.set_format(engine::FP8);
                   weight.set_group_size(0);
                   weight.set_scale_rows(128);
                   weight.set_scale_cols(128);
                 },
                 "group_size is 0"},
        Breakage{"GroupsStraddleBlocks",
                 [](M& m) {
                   engine::Weight& weight = weight_named(m, "layers.0.o");
                   weight.set_format(engine::FP8);
                   weight.set_scale_rows(128);
                   weight.set_scale_cols(24);
                 },
                 "scale_cols is 24, must be a multiple of group_size 16 or at least cols 64"},
        Breakage{"Fp8Zeros",
                 [](M& m) {
                   engine::Weight& weight = weight_named(m, "layers.0.o");
                   weight.set_format(engine::FP8);
                   weight.set_scale_rows(128);
                   weight.set_scale_cols(128);
                   weight.set_has_zeros(true);
                 },
                 "is fp8 and can have no zeros"},
        Breakage{"FilePath", [](M& m) { m.mutable_files(0)->set_name("../x"); }, "plain file name"},
        Breakage{"NoFiles", [](M& m) { m.clear_files(); }, "files is empty"}),
    [](const auto& instance) { return instance.param.name; });

TEST(GraphIndexTest, FindsProducersAndConsumers) {
  const engine::Graph& graph = valid_manifest().graph();
  const GraphIndex index(graph);
  EXPECT_EQ(index.producer("x"), 0);
  EXPECT_EQ(index.producer("nothing"), -1);
  EXPECT_TRUE(index.consumers("logits").empty());
  ASSERT_NE(index.value("logits"), nullptr);
  EXPECT_EQ(index.value("logits")->cols(), 128);
  EXPECT_EQ(index.value("nothing"), nullptr);
  EXPECT_EQ(index.consumers("x").size(), 2U);  // the norm, and the residual add later
}

TEST(WithCollectives, ReducesEveryPartialValueOnceAndVerifies) {
  const engine::EngineManifest& manifest = valid_manifest();
  const engine::Graph reduced = with_collectives(manifest.graph());
  const Status status = verify_graph(reduced, weights_of(manifest), manifest.model());
  EXPECT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(reduced.ops_size(), manifest.graph().ops_size() + 4);  // o and down of two layers
  for (const engine::Op& op : reduced.ops()) {
    const GraphIndex index(reduced);
    for (const std::string& input : op.inputs()) {
      if (op.kind() == engine::ALL_REDUCE) continue;
      EXPECT_FALSE(index.value(input)->partial()) << op.name() << " reads " << input;
    }
  }
}

}  // namespace
}  // namespace phalanx::model
