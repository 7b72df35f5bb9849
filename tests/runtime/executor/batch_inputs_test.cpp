// BatchInputs: plans to rows, and every contradiction a plan can hold.
#include "runtime/executor/batch_inputs.h"

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

constexpr StepLimits kLimits{.max_rows = 64, .max_sequences = 4, .max_positions = 128};
constexpr int64_t kBlocks = 10;

SequencePlan prefill(uint32_t slot, std::vector<int32_t> tokens, std::vector<int32_t> blocks,
                     bool samples) {
  SequencePlan sequence;
  sequence.slot = slot;
  sequence.starts = true;
  sequence.token_ids = std::move(tokens);
  sequence.appended_block_ids = std::move(blocks);
  sequence.samples = samples;
  return sequence;
}

SequencePlan decode(uint32_t slot, int64_t position, std::vector<int32_t> blocks = {}) {
  SequencePlan sequence;
  sequence.slot = slot;
  sequence.first_position = position;
  sequence.appended_block_ids = std::move(blocks);
  sequence.samples = true;
  return sequence;
}

StepPlan plan_of(uint64_t step, std::vector<SequencePlan> sequences,
                 std::vector<uint32_t> released = {}) {
  StepPlan plan;
  plan.step = step;
  plan.sequences = std::move(sequences);
  plan.released_slots = std::move(released);
  return plan;
}

TEST(BatchInputs, LaysOutMixedPrefillAndDecode) {
  BatchInputs inputs(kLimits, kBlocks);
  inputs.apply(plan_of(0, {prefill(1, {5, 6, 7}, {4}, true)}));
  EXPECT_EQ(std::vector<int32_t>(inputs.token_ids().begin(), inputs.token_ids().end()),
            (std::vector<int32_t>{5, 6, 7}));
  ASSERT_EQ(inputs.sampling().size(), 1U);
  EXPECT_EQ(inputs.sampling()[0].row, 2);
  EXPECT_EQ(inputs.sampling()[0].position, 3);
  inputs.set_sampled(1, 0, 42);

  inputs.apply(plan_of(1, {decode(1, 3), prefill(0, {9, 8}, {2}, false)}));
  ASSERT_EQ(inputs.fed_back().size(), 1U);
  EXPECT_EQ(inputs.newest_needed_step(), 0);
  std::vector<int32_t> fed_back;
  inputs.collect_fed_back(fed_back);
  inputs.fill_fed_back(fed_back);
  EXPECT_EQ(std::vector<int32_t>(inputs.token_ids().begin(), inputs.token_ids().end()),
            (std::vector<int32_t>{42, 9, 8}));
  EXPECT_EQ(std::vector<int32_t>(inputs.positions().begin(), inputs.positions().end()),
            (std::vector<int32_t>{3, 0, 1}));
  ASSERT_EQ(inputs.sequences().size(), 2U);
  EXPECT_EQ(inputs.sequences()[0].first_position, 3);
  EXPECT_EQ(inputs.sequences()[0].block_table[0], 4);
  EXPECT_EQ(inputs.sequences()[1].first_row, 1);
  EXPECT_EQ(inputs.sampled_rows().size(), 1U);
}

TEST(BatchInputs, CachedBlocksStartASequenceInTheMiddle) {
  BatchInputs inputs(kLimits, kBlocks);
  SequencePlan sequence = prefill(0, {1}, {3, 7}, true);
  sequence.first_position = 32;
  inputs.apply(plan_of(0, {sequence}));
  EXPECT_EQ(inputs.positions()[0], 32);
  EXPECT_EQ(inputs.sequences()[0].block_table[1], 7);
}

TEST(BatchInputs, BlockTablePointersSurviveGrowth) {
  BatchInputs inputs(kLimits, kBlocks);
  inputs.apply(plan_of(0, {prefill(0, std::vector<int32_t>(32, 1), {0}, true)}));
  const int32_t* table = inputs.sequences()[0].block_table;
  inputs.set_sampled(0, 0, 1);
  inputs.apply(plan_of(1, {decode(0, 32, {9})}));
  EXPECT_EQ(inputs.sequences()[0].block_table, table);
  EXPECT_EQ(table[1], 9);
}

TEST(BatchInputs, ALateResultDoesNotReachTheSlotsNextSequence) {
  BatchInputs inputs(kLimits, kBlocks);
  inputs.apply(plan_of(0, {prefill(0, {1}, {0}, true)}));
  inputs.apply(plan_of(1, {prefill(0, {2}, {1}, true)}, {0}));
  inputs.set_sampled(0, 0, 99);  // of the released sequence
  inputs.set_sampled(0, 1, 7);
  inputs.apply(plan_of(2, {decode(0, 1)}));
  std::vector<int32_t> fed_back;
  inputs.collect_fed_back(fed_back);
  EXPECT_EQ(fed_back, std::vector<int32_t>{7});
}

TEST(BatchInputs, AResultMayComeAfterThePlanThatFeedsItBack) {
  BatchInputs inputs(kLimits, kBlocks);
  inputs.apply(plan_of(0, {prefill(0, {1}, {0}, true)}));
  inputs.apply(plan_of(1, {decode(0, 1)}));  // samples again before step 0's token is known
  inputs.set_sampled(0, 0, 42);
  std::vector<int32_t> fed_back;
  inputs.collect_fed_back(fed_back);
  EXPECT_EQ(fed_back, std::vector<int32_t>{42});
}

TEST(BatchInputs, FeedingBackAnUnknownTokenIsAnError) {
  BatchInputs inputs(kLimits, kBlocks);
  inputs.apply(plan_of(0, {prefill(0, {1}, {0}, true)}));
  inputs.apply(plan_of(1, {decode(0, 1)}));
  std::vector<int32_t> fed_back;
  EXPECT_THROW(inputs.collect_fed_back(fed_back), InternalError);
}

TEST(BatchInputs, ContradictionsAreErrors) {
  const auto started = [] {
    auto inputs = std::make_unique<BatchInputs>(kLimits, kBlocks);
    inputs->apply(plan_of(0, {prefill(0, {1, 2}, {0}, true)}));
    inputs->set_sampled(0, 0, 5);
    return inputs;
  };
  struct Case {
    const char* what;
    StepPlan plan;
  };
  const Case cases[] = {
      {"slot out of range", plan_of(1, {decode(4, 2)})},
      {"slot without a sequence", plan_of(1, {decode(1, 0)})},
      {"gap in positions", plan_of(1, {decode(0, 3)})},
      {"repeated position", plan_of(1, {decode(0, 1)})},
      {"block outside the pool", plan_of(1, {decode(0, 2, {10})})},
      {"negative block", plan_of(1, {decode(0, 2, {-1})})},
      {"table longer than a context", plan_of(1, {decode(0, 2, {1, 2, 3, 4})})},
      {"table too short", plan_of(1, {prefill(1, std::vector<int32_t>(33, 1), {1}, false)})},
      {"start in a busy slot", plan_of(1, {prefill(0, {1}, {1}, false)})},
      {"release of a free slot", plan_of(1, {}, {2})},
      {"release out of range", plan_of(1, {}, {9})},
      {"too many rows", plan_of(1, {prefill(1, std::vector<int32_t>(65, 1), {1, 2, 3}, false)})},
  };
  for (const Case& test : cases) {
    EXPECT_THROW(started()->apply(test.plan), InternalError) << test.what;
  }
}

}  // namespace
}  // namespace phalanx
