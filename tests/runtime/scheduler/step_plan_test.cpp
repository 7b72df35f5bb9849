// step_plan.cpp: round trips, size of a decode, refusal of every value outside its range.
#include "runtime/scheduler/step_plan.h"

#include <functional>
#include <limits>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "runtime/scheduler/step_plan.pb.h"
#include "tests/runtime/scheduler/random_step_plan.h"

namespace phalanx {
namespace {

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(StepPlan, RandomPlansSurviveTheRoundTrip) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 300; ++i) {
    const StepPlan plan = random_step_plan(random, 40);
    const std::string bytes = encode_step_plan(plan);
    EXPECT_EQ(bytes, encode_step_plan(plan));
    const Result<StepPlan> decoded = decode_step_plan(as_bytes(bytes));
    ASSERT_TRUE(decoded.ok()) << decoded.error().message;
    EXPECT_TRUE(*decoded == plan) << "plan " << i;
  }
}

TEST(StepPlan, EmptyAndStopPlansSurviveTheRoundTrip) {
  StepPlan plan;
  plan.step = 7;
  EXPECT_TRUE(*decode_step_plan(as_bytes(encode_step_plan(plan))) == plan);
  plan.stop = true;
  plan.released_slots = {4, 2};
  EXPECT_TRUE(*decode_step_plan(as_bytes(encode_step_plan(plan))) == plan);
}

TEST(StepPlan, ADecodingSequenceCostsAFewBytes) {
  StepPlan plan;
  plan.step = 1'000'000;
  plan.previous_hash = std::numeric_limits<uint64_t>::max();
  const size_t empty = encode_step_plan(plan).size();
  for (uint32_t slot = 0; slot < 256; ++slot) {
    SequencePlan sequence;
    sequence.slot = slot;
    sequence.first_position = 4000;
    sequence.samples = true;
    plan.sequences.push_back(sequence);
  }
  EXPECT_LE(encode_step_plan(plan).size() - empty, 256U * 8U);
}

TEST(StepPlan, HashSeesEveryBitAndTheLength) {
  std::mt19937_64 random(2);
  std::string bytes = encode_step_plan(random_step_plan(random, 5));
  std::set<uint64_t> hashes = {step_plan_hash(as_bytes(bytes))};
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::string changed = bytes;
    changed[bit / 8] = static_cast<char>(changed[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_TRUE(hashes.insert(step_plan_hash(as_bytes(changed))).second) << "bit " << bit;
  }
  for (int zeros = 0; zeros < 20; ++zeros) {
    bytes.push_back('\0');
    EXPECT_TRUE(hashes.insert(step_plan_hash(as_bytes(bytes))).second) << zeros;
  }
  // Half of the bits flip for a flipped bit, so truncated comparisons stay sound.
  int flipped = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint64_t word = random();
    const std::span<const std::byte> a = std::as_bytes(std::span(&word, 1));
    const uint64_t other = word ^ (1ULL << (random() % 64));
    const std::span<const std::byte> b = std::as_bytes(std::span(&other, 1));
    flipped += __builtin_popcountll(step_plan_hash(a) ^ step_plan_hash(b));
  }
  EXPECT_NEAR(flipped / 1000.0, 32.0, 0.6);
}

StepPlan valid_plan() {
  StepPlan plan;
  plan.step = 3;
  plan.released_slots = {1, 2};
  plan.sequences.resize(2);
  plan.sequences[0].slot = 5;
  plan.sequences[0].first_position = 40;
  plan.sequences[0].samples = true;
  plan.sequences[1].slot = 6;
  plan.sequences[1].starts = true;
  plan.sequences[1].start.sampling.presence_penalty = 1.0F;
  plan.sequences[1].start.history = {1, 2, 3};
  plan.sequences[1].start.num_prompt_tokens = 2;
  plan.sequences[1].token_ids = {1, 2, 3};
  plan.sequences[1].appended_block_ids = {9};
  return plan;
}

struct BadValue {
  const char* field;
  std::function<void(StepPlan&)> change;
};

TEST(StepPlan, DecodeNamesTheFieldThatIsOutOfRange) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<BadValue> cases = {
      {"micro_batch", [](StepPlan& p) { p.micro_batch = 1U << 16; }},
      {"released_slots", [](StepPlan& p) { p.released_slots = {1U << 20}; }},
      {"released_slots",
       [](StepPlan& p) {
         p.released_slots = {3, 4, 3};
       }},
      {"sequences", [](StepPlan& p) { p.sequences[0].slot = 6; }},
      {"sequences", [](StepPlan& p) { p.stop = true; }},
      {"sequences[0].slot", [](StepPlan& p) { p.sequences[0].slot = 1U << 20; }},
      {"sequences[0].first_position", [](StepPlan& p) { p.sequences[0].first_position = -1; }},
      {"sequences[0].first_position",
       [](StepPlan& p) { p.sequences[0].first_position = int64_t{1} << 31; }},
      {"sequences[1].first_position",
       [](StepPlan& p) { p.sequences[1].first_position = (int64_t{1} << 31) - 2; }},
      {"sequences[1].token_ids", [](StepPlan& p) { p.sequences[1].token_ids[1] = -1; }},
      {"sequences[1].token_ids", [](StepPlan& p) { p.sequences[1].token_ids.clear(); }},
      {"sequences[1].appended_block_ids",
       [](StepPlan& p) { p.sequences[1].appended_block_ids[0] = -7; }},
      {"sequences[1].appended_block_ids",
       [](StepPlan& p) { p.sequences[1].appended_block_ids.clear(); }},
      {"start.history", [](StepPlan& p) { p.sequences[1].start.history[2] = -1; }},
      {"start.history", [](StepPlan& p) { p.sequences[1].start.sampling.presence_penalty = 0.0F; }},
      {"start.num_prompt_tokens", [](StepPlan& p) { p.sequences[1].start.num_prompt_tokens = 4; }},
      {"start.num_prompt_tokens", [](StepPlan& p) { p.sequences[1].start.num_prompt_tokens = -1; }},
      {"temperature", [](StepPlan& p) { p.sequences[1].start.sampling.temperature = -0.1F; }},
      {"temperature", [](StepPlan& p) { p.sequences[1].start.sampling.temperature = kNan; }},
      {"top_k", [](StepPlan& p) { p.sequences[1].start.sampling.top_k = -1; }},
      {"top_k", [](StepPlan& p) { p.sequences[1].start.sampling.top_k = (1 << 20) + 1; }},
      {"top_p", [](StepPlan& p) { p.sequences[1].start.sampling.top_p = 0.0F; }},
      {"top_p", [](StepPlan& p) { p.sequences[1].start.sampling.top_p = 1.01F; }},
      {"min_p", [](StepPlan& p) { p.sequences[1].start.sampling.min_p = kNan; }},
      {"repetition_penalty",
       [](StepPlan& p) { p.sequences[1].start.sampling.repetition_penalty = 0.0F; }},
      {"presence_penalty",
       [](StepPlan& p) { p.sequences[1].start.sampling.presence_penalty = 2.5F; }},
      {"frequency_penalty",
       [](StepPlan& p) { p.sequences[1].start.sampling.frequency_penalty = -2.5F; }},
      {"num_top_logprobs",
       [](StepPlan& p) { p.sequences[1].start.sampling.num_top_logprobs = 21; }},
      {"num_top_logprobs",
       [](StepPlan& p) { p.sequences[1].start.sampling.num_top_logprobs = -2; }},
  };
  ASSERT_TRUE(decode_step_plan(as_bytes(encode_step_plan(valid_plan()))).ok());
  for (const BadValue& bad : cases) {
    StepPlan plan = valid_plan();
    bad.change(plan);
    const Result<StepPlan> decoded = decode_step_plan(as_bytes(encode_step_plan(plan)));
    ASSERT_FALSE(decoded.ok()) << bad.field;
    EXPECT_EQ(decoded.error().code, ErrorCode::kDataLoss);
    EXPECT_NE(decoded.error().message.find(bad.field), std::string::npos)
        << bad.field << ": " << decoded.error().message;
  }
}

TEST(StepPlan, RefusesTruncationGarbageAndUnknownFields) {
  const std::string bytes = encode_step_plan(valid_plan());
  // A cut between two top-level fields is a shorter plan; the hash chain notices that one.
  int refused = 0;
  for (size_t size = 1; size < bytes.size(); ++size)
    refused += decode_step_plan(as_bytes(bytes.substr(0, size))).ok() ? 0 : 1;
  EXPECT_GT(refused, static_cast<int>(bytes.size()) - 8);
  EXPECT_FALSE(decode_step_plan(as_bytes(std::string(1, '\xff'))).ok());
  EXPECT_FALSE(decode_step_plan(as_bytes(bytes + std::string("\x78\x01", 2))).ok());  // field 15
  EXPECT_FALSE(decode_step_plan(as_bytes(bytes + std::string("\x7b\x7c", 2))).ok());  // a group
}

TEST(StepPlan, BoundsTheNumberOfSequencesBeforeAllocating) {
  std::string bytes;
  for (int i = 0; i < 70'000; ++i) bytes += std::string("\x2a\x00", 2);  // an empty sequence
  const Result<StepPlan> decoded = decode_step_plan(as_bytes(bytes));
  ASSERT_FALSE(decoded.ok());
  EXPECT_NE(decoded.error().message.find("65536"), std::string::npos) << decoded.error().message;
  EXPECT_FALSE(decode_step_plan(as_bytes(std::string((size_t{64} << 20) + 1, '\0'))).ok());
}

}  // namespace
}  // namespace phalanx
