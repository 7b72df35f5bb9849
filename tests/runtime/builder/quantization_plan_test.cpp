// Which lanes and groups a model gets, and what is said when it gets none.
#include "runtime/builder/quantization_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::builder {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

BoundTensor matrix(const char* name, int64_t rows, int64_t cols, engine::ShardAxis axis,
                   int64_t unit = 1) {
  BoundTensor bound;
  bound.weight.set_name(name);
  bound.weight.set_rows(rows);
  bound.weight.set_cols(cols);
  bound.weight.set_axis(axis);
  bound.weight.set_shard_unit(unit);
  bound.is_table = axis == engine::VOCAB;
  return bound;
}

std::vector<BoundTensor> model_tensors(int64_t heads, int64_t head_dim, int64_t intermediate) {
  return {matrix("lm_head", 100, 96, engine::VOCAB),
          matrix("q", heads * head_dim, 96, engine::COLUMN, head_dim),
          matrix("o", 96, heads * head_dim, engine::ROW),
          matrix("gate", intermediate, 96, engine::COLUMN),
          matrix("down", 96, intermediate, engine::ROW)};
}

LaneChoice lanes_of(int64_t heads, int64_t head_dim, int64_t intermediate,
                    engine::WeightFormat format) {
  engine::ModelConfig model;
  model.set_num_attention_heads(heads);
  return choose_reduction_lanes(model, model_tensors(heads, head_dim, intermediate), format);
}

TEST(ReductionLanes, Table) {
  EXPECT_EQ(lanes_of(8, 64, 1024, engine::W4).lanes, 8);  // the demo model
  EXPECT_EQ(lanes_of(8, 64, 1024, engine::W4).reason, "");
  EXPECT_EQ(lanes_of(32, 128, 14336, engine::W8).lanes, 8);
  EXPECT_EQ(lanes_of(12, 64, 1024, engine::BF16).lanes, 4);
  EXPECT_THAT(lanes_of(12, 64, 1024, engine::BF16).reason,
              HasSubstr("num_attention_heads 12 is no multiple of 8"));
  EXPECT_EQ(lanes_of(7, 64, 1024, engine::BF16).lanes, 1);
  EXPECT_EQ(lanes_of(8, 64, 1028, engine::F32).lanes, 4);
  EXPECT_THAT(lanes_of(8, 64, 1028, engine::F32).reason, HasSubstr("gate has 1028 outputs"));
  // 96 / 8 = 12 inputs a lane: fine for f32 and bf16, no group for w8; 96 / 4 = 24 has groups of 8.
  EXPECT_EQ(lanes_of(8, 64, 96, engine::F32).lanes, 8);
  EXPECT_EQ(lanes_of(8, 64, 96, engine::BF16).lanes, 8);
  EXPECT_EQ(lanes_of(8, 64, 96, engine::W8).lanes, 4);
  EXPECT_THAT(lanes_of(8, 64, 96, engine::W8).reason, HasSubstr("lanes of 12 inputs"));
  // 24 / 8 = 3: odd, so bf16 pairs do not fit.
  EXPECT_EQ(lanes_of(8, 64, 24, engine::F32).lanes, 8);
  EXPECT_EQ(lanes_of(8, 64, 24, engine::BF16).lanes, 4);
}

/// A checkpoint of e4m3 matrices with a scale every 48 x 48; the head holds floats.
std::vector<BoundTensor> fp8_tensors(const CheckpointTensor& scales) {
  std::vector<BoundTensor> tensors = model_tensors(8, 24, 192);
  for (BoundTensor& bound : tensors) {
    if (!bound.is_table) bound.e4m3 = {&scales, 48, 48};
  }
  return tensors;
}

TEST(PlanFormats, AnFp8CheckpointIsKeptUnlessToldOtherwise) {
  const CheckpointTensor scales;
  for (const std::optional<engine::WeightFormat> asked :
       {std::optional<engine::WeightFormat>(), std::optional(engine::FP8)}) {
    std::vector<BoundTensor> tensors = fp8_tensors(scales);
    QuantizationRequest request;
    request.weights = asked;
    EXPECT_EQ(main_format(request, tensors), engine::FP8);
    const auto notes = plan_formats(request, 8, &tensors);
    ASSERT_TRUE(notes.ok()) << notes.error().message;
    EXPECT_EQ(tensors[0].weight.format(), engine::BF16);
    EXPECT_EQ(tensors[1].weight.format(), engine::FP8);
    EXPECT_EQ(tensors[1].weight.scale_rows(), 48);
    EXPECT_EQ(tensors[1].weight.scale_cols(), 48);
    EXPECT_EQ(tensors[1].weight.group_size(), 16);  // of 96 columns in blocks of 48
    EXPECT_EQ(tensors[2].weight.group_size(), 8);   // of lanes of 24
    EXPECT_THAT(*notes, ::testing::Contains(HasSubstr("96 columns and blocks of 48")));
  }
  std::vector<BoundTensor> tensors = fp8_tensors(scales);
  QuantizationRequest request;
  request.weights = engine::W8;
  ASSERT_TRUE(plan_formats(request, 8, &tensors).ok());
  EXPECT_EQ(tensors[1].weight.format(), engine::W8);
  EXPECT_EQ(tensors[1].weight.scale_rows(), 0);
  EXPECT_EQ(tensors[1].weight.group_size(), 32);
}

TEST(PlanFormats, Fp8OfFloatsHasBlocksOf128) {
  std::vector<BoundTensor> tensors = model_tensors(8, 64, 1024);
  tensors.push_back(matrix("wide", 300, 1024, engine::COLUMN));
  QuantizationRequest request;
  EXPECT_EQ(main_format(request, tensors), engine::BF16);
  request.weights = engine::FP8;
  request.group_size = 512;
  ASSERT_TRUE(plan_formats(request, 8, &tensors).ok());
  for (const BoundTensor& bound : tensors) {
    EXPECT_EQ(bound.weight.format(), engine::FP8) << bound.weight.name();  // the head too
    EXPECT_EQ(bound.weight.scale_rows(), 128);
    EXPECT_EQ(bound.weight.scale_cols(), 128);
  }
  EXPECT_EQ(tensors[0].weight.group_size(), 32);  // of 96 columns, all in one block
  EXPECT_EQ(tensors[4].weight.group_size(), 128);
  EXPECT_EQ(tensors[5].weight.group_size(), 128);  // no group straddles blocks
}

TEST(GroupSize, Table) {
  EXPECT_EQ(largest_group_size(1024, 128), 128);
  EXPECT_EQ(largest_group_size(64, 128), 64);
  EXPECT_EQ(largest_group_size(96, 128), 32);
  EXPECT_EQ(largest_group_size(24, 128), 8);
  EXPECT_EQ(largest_group_size(24, 8), 8);
  EXPECT_EQ(largest_group_size(12, 128), 0);
  EXPECT_EQ(largest_group_size(7, 128), 0);
  EXPECT_EQ(largest_group_size(1024, 4), 0);
}

TEST(PlanFormats, GroupsAndHeads) {
  std::vector<BoundTensor> tensors = model_tensors(8, 64, 1024);
  tensors.push_back(matrix("norm", 96, 0, engine::REPLICATED));
  QuantizationRequest request;
  request.weights = engine::W4;
  const auto notes = plan_formats(request, 8, &tensors);
  ASSERT_TRUE(notes.ok()) << notes.error().message;
  EXPECT_EQ(tensors[0].weight.format(), engine::W8);  // the head
  EXPECT_EQ(tensors[0].weight.group_size(), 32);      // 96 columns
  EXPECT_EQ(tensors[1].weight.format(), engine::W4);
  EXPECT_EQ(tensors[2].weight.group_size(), 64);   // 512 / 8 lanes
  EXPECT_EQ(tensors[4].weight.group_size(), 128);  // 1024 / 8 lanes
  EXPECT_EQ(tensors[5].weight.format(), engine::F32);
  EXPECT_EQ(tensors[5].weight.group_size(), 0);
  EXPECT_THAT(*notes, UnorderedElementsAre(
                          "group size 32 instead of 128 in 3 weights: the largest that divides "
                          "96 columns",
                          "group size 64 instead of 128 in 1 weights: the largest that divides "
                          "64 columns a lane"));
}

TEST(PlanFormats, HeadWeightsCanBeChosen) {
  std::vector<BoundTensor> tensors = model_tensors(8, 64, 1024);
  QuantizationRequest request;
  request.weights = engine::W8;
  request.head_weights = engine::BF16;
  ASSERT_TRUE(plan_formats(request, 8, &tensors).ok());
  EXPECT_EQ(tensors[0].weight.format(), engine::BF16);
  EXPECT_EQ(tensors[1].weight.format(), engine::W8);
}

TEST(PlanFormats, SaysWhyThereIsNoGroup) {
  std::vector<BoundTensor> tensors = {matrix("odd", 8, 20, engine::COLUMN)};
  QuantizationRequest request;
  request.weights = engine::W8;
  const auto notes = plan_formats(request, 1, &tensors);
  ASSERT_FALSE(notes.ok());
  EXPECT_EQ(notes.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_THAT(notes.error().message, HasSubstr("weight odd has 20 columns"));
  EXPECT_THAT(notes.error().message, HasSubstr("--weights bf16"));
}

}  // namespace
}  // namespace phalanx::builder
