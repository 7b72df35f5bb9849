// Graph passes: dumps before and after each one, and what they must not touch.
#include <algorithm>
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "runtime/builder/engine_builder.h"
#include "runtime/builder/passes/pass.h"
#include "runtime/model/engine_file.h"
#include "runtime/model/graph.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx::builder {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> all_passes() {
  std::vector<std::string> names;
  for (const Pass& pass : registered_passes()) names.emplace_back(pass.name);
  return names;
}

/// A one-layer model's manifest with some passes switched off.
engine::EngineManifest build(const std::string& family, std::vector<std::string> disabled,
                             const std::string& dump_directory = "") {
  const testing::TemporaryDirectory directory;
  testing::TinyModel model;
  model.architecture = family;
  model.num_layers = 1;
  const Status written = testing::write_tiny_checkpoint(directory.path() + "/c", model);
  EXPECT_TRUE(written.ok());
  BuildOptions options;
  options.checkpoint = directory.path() + "/c";
  options.engine = directory.path() + "/e";
  options.quantization.weights = engine::W8;
  options.quantization.group_size = 32;
  options.passes.disabled = std::move(disabled);
  options.passes.dump_directory = dump_directory;
  auto report = build_engine(options);
  PHALANX_CHECK(report.ok(), report.error().message);
  return report->manifest;
}

std::string dump(const engine::EngineManifest& manifest) {
  return model::dump_graph(manifest.graph(),
                           {manifest.weights().begin(), manifest.weights().end()});
}

constexpr const char* kUnfused =
    R"(embedding                embedding     () -> x  [128 x 64 w8 g32]
layers.0.attention_norm  rms_norm      x -> layers.0.h
layers.0.q               linear        layers.0.h -> layers.0.q  [64 -> 64 w8 g32 column]  + layers.0.q_bias
layers.0.k               linear        layers.0.h -> layers.0.k  [64 -> 32 w8 g32 kv_column]  + layers.0.k_bias
layers.0.v               linear        layers.0.h -> layers.0.v  [64 -> 32 w8 g32 kv_column]  + layers.0.v_bias
layers.0.rope_q          rope          layers.0.q -> layers.0.q.1
layers.0.rope_k          rope          layers.0.k -> layers.0.k.1
layers.0.attention       attention     layers.0.q.1, layers.0.k.1, layers.0.v -> layers.0.a
layers.0.o               linear        layers.0.a -> layers.0.d  [64 -> 64 w8 g16 row]
layers.0.attention_add   add           x, layers.0.d -> layers.0.x
layers.0.mlp_norm        rms_norm      layers.0.x -> layers.0.h.1
layers.0.gate            linear        layers.0.h.1 -> layers.0.gate  [64 -> 128 w8 g32 column]
layers.0.up              linear        layers.0.h.1 -> layers.0.up  [64 -> 128 w8 g32 column]
layers.0.silu_mul        silu_mul      layers.0.gate, layers.0.up -> layers.0.m
layers.0.down            linear        layers.0.m -> layers.0.d.1  [128 -> 64 w8 g32 row]
layers.0.mlp_add         add           layers.0.x, layers.0.d.1 -> layers.0.x.1
select                   select_rows   layers.0.x.1 -> s
final_norm               rms_norm      s -> h
lm_head                  linear        h -> logits  [64 -> 128 w8 g32 vocab]
)";

constexpr const char* kFused =
    R"(embedding                    embedding     () -> x  [128 x 64 w8 g32]
layers.0.attention_norm      rms_norm      x -> layers.0.h
layers.0.qkv                 linear        layers.0.h -> layers.0.q, layers.0.k, layers.0.v  [64 -> 64+32+32 w8 g32 column]  + layers.0.q_bias, layers.0.k_bias, layers.0.v_bias
layers.0.rope_q              rope          layers.0.q -> layers.0.q.1
layers.0.rope_k              rope          layers.0.k -> layers.0.k.1
layers.0.attention           attention     layers.0.q.1, layers.0.k.1, layers.0.v -> layers.0.a
layers.0.o                   linear        layers.0.a -> layers.0.d  [64 -> 64 w8 g16 row]
layers.0.attention_add_norm  add_rms_norm  x, layers.0.d -> layers.0.x, layers.0.h.1
layers.0.gate_up             linear        layers.0.h.1 -> layers.0.gate, layers.0.up  [64 -> 128+128 w8 g32 column]
layers.0.silu_mul            silu_mul      layers.0.gate, layers.0.up -> layers.0.m
layers.0.down                linear        layers.0.m -> layers.0.d.1  [128 -> 64 w8 g32 row]
layers.0.mlp_add             add           layers.0.x, layers.0.d.1 -> layers.0.x.1
select                       select_rows   layers.0.x.1 -> s
final_norm                   rms_norm      s -> h
lm_head                      linear        h -> logits  [64 -> 128 w8 g32 vocab]
)";

TEST(Passes, UnfusedGraph) { EXPECT_EQ(dump(build("qwen2", all_passes())), kUnfused); }

TEST(Passes, FusedGraph) {
  const engine::EngineManifest manifest = build("qwen2", {});
  EXPECT_EQ(dump(manifest), kFused);
  EXPECT_THAT(manifest.provenance().passes(),
              ::testing::ElementsAre("fuse_qkv", "fuse_gate_up", "fuse_add_norm"));
}

TEST(Passes, EachAloneChangesItsOwn) {
  const auto alone = [](const std::string& name) {
    std::vector<std::string> others = all_passes();
    others.erase(std::find(others.begin(), others.end(), name));
    return build("qwen3", others);
  };
  const int unfused = build("qwen3", all_passes()).graph().ops_size();
  EXPECT_EQ(alone("fuse_qkv").graph().ops_size(), unfused - 2);
  EXPECT_THAT(dump(alone("fuse_qkv")), HasSubstr("layers.0.qkv"));  // through the head norms
  EXPECT_EQ(alone("fuse_gate_up").graph().ops_size(), unfused - 1);
  EXPECT_EQ(alone("fuse_add_norm").graph().ops_size(), unfused - 1);
}

TEST(Passes, AddNormCrossesLayersButNotTheRowSelection) {
  const testing::TemporaryDirectory directory;
  testing::TinyModel model;
  model.num_layers = 3;
  const std::string path = testing::build_tiny_engine(directory.path(), model);
  const auto engine = model::EngineFile::open(path);
  ASSERT_TRUE(engine.ok());
  std::vector<std::string> fused;
  std::vector<std::string> norms;
  for (const engine::Op& op : (*engine)->manifest().graph().ops()) {
    if (op.kind() == engine::ADD_RMS_NORM) fused.push_back(op.name());
    if (op.kind() == engine::RMS_NORM) norms.push_back(op.name());
  }
  EXPECT_THAT(fused, ::testing::ElementsAre("layers.0.attention_add_norm", "layers.0.mlp_add_norm",
                                            "layers.1.attention_add_norm", "layers.1.mlp_add_norm",
                                            "layers.2.attention_add_norm"));
  EXPECT_THAT(norms, ::testing::ElementsAre("layers.0.attention_norm", "final_norm"));
}

TEST(Passes, LinearsOfDifferentFormatsStayApart) {
  engine::EngineManifest manifest = build("llama", all_passes());
  std::vector<engine::Weight> weights(manifest.weights().begin(), manifest.weights().end());
  for (engine::Weight& weight : weights) {
    if (weight.name() == "layers.0.v" || weight.name() == "layers.0.up") {
      weight.set_format(engine::BF16);
      weight.set_group_size(0);
    }
  }
  PassContext context{*manifest.mutable_graph(), weights, manifest.model()};
  const int before = manifest.graph().ops_size();
  ASSERT_TRUE(fuse_qkv(context).ok());
  ASSERT_TRUE(fuse_gate_up(context).ok());
  EXPECT_EQ(context.num_rewrites, 0);
  EXPECT_EQ(manifest.graph().ops_size(), before);
}

TEST(Passes, RunTwiceChangesNothing) {
  engine::EngineManifest manifest = build("llama", {});
  const std::vector<engine::Weight> weights(manifest.weights().begin(), manifest.weights().end());
  PassContext context{*manifest.mutable_graph(), weights, manifest.model()};
  const std::string before = dump(manifest);
  const auto reports = run_passes({}, context);
  ASSERT_TRUE(reports.ok());
  for (const PassReport& report : *reports) EXPECT_EQ(report.num_rewrites, 0) << report.name;
  EXPECT_EQ(dump(manifest), before);
}

TEST(Passes, DumpsBeforeAndAfter) {
  const testing::TemporaryDirectory directory;
  build("qwen2", {"fuse_gate_up"}, directory.path());
  const auto read = [&](const std::string& name) {
    std::ifstream stream(directory.path() + "/" + name);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  EXPECT_EQ(read("01-fuse_qkv.before.txt"), kUnfused);
  EXPECT_EQ(read("01-fuse_qkv.after.txt"), read("03-fuse_add_norm.before.txt"));
  EXPECT_FALSE(std::filesystem::exists(directory.path() + "/02-fuse_gate_up.before.txt"));
  EXPECT_THAT(read("03-fuse_add_norm.after.txt"), HasSubstr("add_rms_norm"));
}

TEST(Passes, ABrokenGraphIsAnInvariant) {
  engine::EngineManifest manifest = build("llama", {});
  const std::vector<engine::Weight> weights(manifest.weights().begin(), manifest.weights().end());
  manifest.mutable_graph()->mutable_ops(3)->set_layer(7);
  PassContext context{*manifest.mutable_graph(), weights, manifest.model()};
  EXPECT_THROW((void)run_passes({}, context), InternalError);
}

}  // namespace
}  // namespace phalanx::builder
