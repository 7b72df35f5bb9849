// Shards, topologies, rotary frequencies, architecture texts: the small rules of the model folder.
#include <cmath>
#include <numbers>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "runtime/model/architecture.h"
#include "runtime/model/content_hash.h"
#include "runtime/model/engine_file.h"

namespace phalanx::model {
namespace {

using ::testing::HasSubstr;

TEST(ShardRange, TilesEveryAxis) {
  for (const auto axis : {engine::COLUMN, engine::ROW, engine::VOCAB}) {
    for (const int tp : {1, 2, 4, 8}) {
      int64_t reached = 0;
      for (int rank = 0; rank < tp; ++rank) {
        const Range range = shard_range(axis, 128, 16, tp, rank);
        EXPECT_EQ(range.begin, reached);
        reached = range.end;
      }
      EXPECT_EQ(reached, 128);
    }
  }
  EXPECT_EQ(shard_range(engine::REPLICATED, 7, 1, 4, 3).size(), 7);
}

TEST(ShardRange, KvHeadsAreReplicatedWhenThereAreFewerThanRanks) {
  for (int rank = 0; rank < 8; ++rank) {
    const Range range = shard_range(engine::KV_COLUMN, 2 * 16, 16, 8, rank);
    EXPECT_EQ(range.begin, rank / 4 * 16);
    EXPECT_EQ(range.size(), 16);
  }
}

TEST(ShardRange, VocabularyNeedNotDivide) {
  EXPECT_EQ(shard_range(engine::VOCAB, 101, 1, 4, 0).size(), 26);
  EXPECT_EQ(shard_range(engine::VOCAB, 101, 1, 4, 3).size(), 23);
  EXPECT_EQ(shard_range(engine::VOCAB, 3, 1, 4, 3).size(), 0);
}

engine::EngineManifest manifest_with(int lanes, int kv_heads) {
  engine::EngineManifest manifest;
  manifest.set_reduction_lanes(lanes);
  manifest.mutable_model()->set_num_attention_heads(24);
  manifest.mutable_model()->set_num_key_value_heads(kv_heads);
  manifest.mutable_model()->set_num_hidden_layers(3);
  return manifest;
}

TEST(CheckTopology, SaysWhatFits) {
  const engine::EngineManifest manifest = manifest_with(8, 6);
  EXPECT_TRUE(check_topology(manifest, 1, 1).ok());
  EXPECT_TRUE(check_topology(manifest, 2, 3).ok());
  const Status kv = check_topology(manifest, 4, 1);
  ASSERT_FALSE(kv.ok());
  EXPECT_EQ(kv.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_THAT(kv.error().message, HasSubstr("num_key_value_heads 6"));
  EXPECT_THAT(kv.error().message, HasSubstr("tp_size can be 1, 2"));
  EXPECT_THAT(check_topology(manifest, 3, 1).error().message, HasSubstr("reduction_lanes 8"));
  EXPECT_THAT(check_topology(manifest, 16, 1).error().message, HasSubstr("reduction_lanes 8"));
  EXPECT_FALSE(check_topology(manifest, 0, 1).ok());
  EXPECT_FALSE(check_topology(manifest, -2, 1).ok());
  EXPECT_THAT(check_topology(manifest, 1, 4).error().message, HasSubstr("between 1 and 3"));
  EXPECT_FALSE(check_topology(manifest, 1, 0).ok());
  EXPECT_TRUE(check_topology(manifest_with(8, 2), 8, 1).ok());
}

engine::Rope rope_of(engine::Rope::Type type) {
  engine::Rope rope;
  rope.set_type(type);
  rope.set_theta(10000);
  rope.set_rotary_dim(8);
  rope.set_factor(8);
  rope.set_low_freq_factor(1);
  rope.set_high_freq_factor(4);
  rope.set_original_max_position_embeddings(32);
  return rope;
}

TEST(RopeFrequencies, DefaultAndLinear) {
  const auto plain = rope_inverse_frequencies(rope_of(engine::Rope::DEFAULT));
  ASSERT_EQ(plain.size(), 4U);
  EXPECT_DOUBLE_EQ(plain[0], 1.0);
  EXPECT_DOUBLE_EQ(plain[1], 0.1);
  EXPECT_NEAR(plain[3], 0.001, 1e-18);
  const auto linear = rope_inverse_frequencies(rope_of(engine::Rope::LINEAR));
  for (size_t i = 0; i < 4; ++i) EXPECT_DOUBLE_EQ(linear[i], plain[i] / 8);
}

TEST(RopeFrequencies, Llama3KeepsShortWavesAndStretchesLongOnes) {
  const auto scaled = rope_inverse_frequencies(rope_of(engine::Rope::LLAMA3));
  EXPECT_DOUBLE_EQ(scaled[0], 1.0);      // wavelength 6.28 < 32 / 4
  EXPECT_DOUBLE_EQ(scaled[1], 0.1 / 8);  // wavelength 62.8 > 32
  engine::Rope rope = rope_of(engine::Rope::LLAMA3);
  rope.set_original_max_position_embeddings(128);  // 62.8 is between 32 and 128
  const double smooth = (128 / (20 * std::numbers::pi) - 1) / 3;
  EXPECT_NEAR(rope_inverse_frequencies(rope)[1], (1 - smooth) * 0.1 / 8 + smooth * 0.1, 1e-15);
}

TEST(RopeFrequencies, OddDimensionIsAnInvariant) {
  engine::Rope rope = rope_of(engine::Rope::DEFAULT);
  rope.set_rotary_dim(7);
  EXPECT_THROW((void)rope_inverse_frequencies(rope), InternalError);
}

TEST(Architectures, BuiltInsServeTheirModelTypes) {
  for (const char* type : {"llama", "mistral", "qwen2", "qwen3"}) {
    const auto found = architecture_for_model_type(type);
    ASSERT_TRUE(found.ok()) << found.error().message;
    EXPECT_EQ(found->name(), type);
  }
  const auto unknown = architecture_for_model_type("gpt2");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(unknown.error().message, HasSubstr("llama, mistral, qwen2, qwen3"));
}

TEST(Architectures, ErrorsNameThePlace) {
  const auto error = [](const std::string& text) {
    const auto parsed = parse_architecture(text, "x.textproto");
    EXPECT_FALSE(parsed.ok()) << text;
    return parsed.ok() ? "" : parsed.error().message;
  };
  EXPECT_THAT(error("name: \"a\"\nnmae: 3"), HasSubstr("x.textproto:2:"));
  EXPECT_THAT(error("description: \"a\""), HasSubstr("name is empty"));
  const std::string head = "name: \"a\" ";
  EXPECT_THAT(error(head + "tensors { role: \"q\" checkpoint_names: \"q\" }"),
              HasSubstr("\"q\" has no rows"));
  EXPECT_THAT(error(head + "tensors { role: \"q\" checkpoint_names: \"q\" rows: \"hiden_size\" }"),
              HasSubstr("hiden_size"));
  EXPECT_THAT(error(head + "tensors { role: \"q\" checkpoint_names: \"q\" rows: \"3\" } "
                           "tensors { role: \"q\" checkpoint_names: \"r\" rows: \"3\" }"),
              HasSubstr("declared twice"));
  EXPECT_THAT(error(head + "tensors { role: \"q\" checkpoint_names: \"q\" rows: \"3\" "
                           "condition: \"c\" }"),
              HasSubstr("\"c\", which is not declared"));
  EXPECT_THAT(error(head + "tensors { role: \"q\" checkpoint_names: \"q\" rows: \"3\" "
                           "tied_to: \"e\" }"),
              HasSubstr("unknown role \"e\""));
  EXPECT_THAT(error(head + "layer { kind: LINEAR name: \"l\" outputs: \"y\" weights: \"w\" }"),
              HasSubstr("\"w\", which is not declared"));
  EXPECT_THAT(error(head + "layer { kind: ALL_REDUCE name: \"l\" outputs: \"y\" }"),
              HasSubstr("ALL_REDUCE"));
  EXPECT_THAT(error(head + "layer { name: \"l\" outputs: \"y\" }"), HasSubstr("no kind"));
}

TEST(Architectures, ShapeExpressions) {
  engine::ModelConfig config;
  config.set_num_attention_heads(6);
  config.set_head_dim(16);
  EXPECT_EQ(*shape_extent("num_attention_heads * head_dim", config), 96);
  EXPECT_EQ(*shape_extent("2*head_dim", config), 32);
  EXPECT_FALSE(shape_extent("", config).ok());
  EXPECT_FALSE(shape_extent("head_dim *", config).ok());
  EXPECT_FALSE(shape_extent("head_dim + 1", config).ok());
  EXPECT_FALSE(shape_extent("999999999*999999999*999999999", config).ok());
}

TEST(Architectures, Patterns) {
  EXPECT_TRUE(matches_pattern("a.*.b", "a.12.b"));
  EXPECT_TRUE(matches_pattern("*.inv_freq", "model.layers.0.rotary.inv_freq"));
  EXPECT_TRUE(matches_pattern("a*b*c", "a1b2b3c"));
  EXPECT_TRUE(matches_pattern("*", ""));
  EXPECT_FALSE(matches_pattern("a.*.b", "a.12.c"));
  EXPECT_FALSE(matches_pattern("a", "ab"));
  EXPECT_FALSE(matches_pattern("", "a"));
}

TEST(ContentHash, ChangesWithEveryByteLengthAndSeed) {
  std::vector<std::byte> bytes(100);
  const uint64_t empty = content_hash(bytes);
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = std::byte{1};
    EXPECT_NE(content_hash(bytes), empty) << i;
    bytes[i] = std::byte{0};
  }
  EXPECT_NE(content_hash(std::span(bytes).first(99)), empty);
  EXPECT_NE(content_hash(bytes, 1), empty);
  EXPECT_EQ(content_hash(bytes), empty);
  EXPECT_EQ(hash_text(0x0123456789abcdefULL), "0123456789abcdef");
}

}  // namespace
}  // namespace phalanx::model
