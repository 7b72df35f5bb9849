// A worker without a model: obeys step plans as rank_worker does, keeps a KV cache of token-prefix
// hashes, and fails the test when a plan breaks a rule. Its "model" draws a token from the hash of
// the whole prefix, so one wrong KV entry changes the output.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/scheduler/hash64.h"
#include "runtime/scheduler/request.h"
#include "runtime/scheduler/scheduler.h"

namespace phalanx {

/// The token after the prefix with that hash.
inline int32_t fake_next_token(uint64_t prefix_hash, uint64_t seed, int64_t vocab_size) {
  return static_cast<int32_t>(hash64_combine(prefix_hash, seed) %
                              static_cast<uint64_t>(vocab_size));
}

inline uint64_t fake_extend_prefix(uint64_t prefix_hash, int32_t token) {
  return hash64_combine(prefix_hash, static_cast<uint64_t>(token));
}

struct FakeOutput {
  std::vector<int32_t> tokens;
  FinishReason reason = FinishReason::kLength;
};

/// What a request generates when it runs alone.
inline FakeOutput fake_output(const Request& request, const SchedulerConfig& config) {
  uint64_t hash = 0;
  for (const int32_t token : request.prompt_token_ids) hash = fake_extend_prefix(hash, token);
  const auto num_prompt = static_cast<int64_t>(request.prompt_token_ids.size());
  const int64_t max_tokens = std::min(request.max_tokens, config.max_context_tokens - num_prompt);
  FakeOutput output;
  while (static_cast<int64_t>(output.tokens.size()) < max_tokens) {
    const int32_t token = fake_next_token(hash, request.sampling.seed, config.vocab_size);
    for (const int32_t stop : request.stop_token_ids) {
      if (stop != token) continue;
      output.reason = FinishReason::kStop;
      return output;
    }
    output.tokens.push_back(token);
    hash = fake_extend_prefix(hash, token);
  }
  return output;
}

class FakeExecutor {
 public:
  explicit FakeExecutor(const SchedulerConfig& config)
      : config_(config),
        entries_(static_cast<size_t>(config.num_blocks * config.block_tokens)),
        holders_(static_cast<size_t>(config.num_blocks)) {}

  /// Salts by seed, for tests in which no two requests share a seed: a rank does not know salts, so
  /// this is how the executor notices a block shared across them.
  void expect_salt(uint64_t seed, uint64_t salt) { salts_[seed] = salt; }

  /// Obeys one plan, as it comes over the wire.
  StepResult execute(const std::string& encoded) {
    const std::span<const std::byte> bytes =
        std::as_bytes(std::span(encoded.data(), encoded.size()));
    const Result<StepPlan> decoded = decode_step_plan(bytes);
    EXPECT_TRUE(decoded.ok()) << decoded.error().message;
    const StepPlan& plan = *decoded;
    EXPECT_EQ(plan.step, next_step_);
    EXPECT_EQ(plan.previous_hash, previous_hash_);
    EXPECT_EQ(plan.micro_batch, plan.step % static_cast<uint64_t>(config_.pp_size));
    EXPECT_LE(plan.num_rows(), config_.max_step_tokens);
    previous_hash_ = step_plan_hash(bytes);
    ++next_step_;
    for (const uint32_t slot : plan.released_slots) release(slot);
    EXPECT_TRUE(!plan.stop || slots_.empty()) << "slots left at the stop plan";
    for (const SequencePlan& sequence : plan.sequences) extend_table(plan, sequence);
    // Reads before writes: a step must not rely on what another sequence writes in it.
    std::vector<uint64_t> prefixes;
    for (const SequencePlan& sequence : plan.sequences) prefixes.push_back(attend(sequence));
    StepResult result;
    result.step = plan.step;
    for (size_t i = 0; i < plan.sequences.size(); ++i)
      compute(plan.sequences[i], prefixes[i], plan.step, &result);
    return result;
  }

  /// Blocks in the tables of slots that no plan has released yet.
  int64_t num_held_blocks() const {
    int64_t count = 0;
    for (const int32_t holders : holders_) count += holders > 0 ? 1 : 0;
    return count;
  }
  size_t num_slots() const { return slots_.size(); }
  uint64_t num_rows() const { return num_rows_; }

 private:
  struct Entry {
    uint64_t prefix_hash = 0;  // of the tokens up to and with this position
    uint64_t previous = 0;     // up to the position before
    uint64_t salt = 0;
    int64_t position = -1;
  };

  struct Slot {
    SamplingParams sampling;
    uint32_t micro_batch = 0;
    std::vector<int32_t> table;
    int64_t next_position = 0;
    std::optional<int32_t> sampled;  // the token for next_position, once drawn
    uint64_t sampled_step = 0;
  };

  Entry& entry(const Slot& slot, int64_t position) {
    const auto block = slot.table[static_cast<size_t>(position / config_.block_tokens)];
    return entries_[static_cast<size_t>(block * config_.block_tokens +
                                        position % config_.block_tokens)];
  }

  uint64_t salt_of(const Slot& slot) const {
    const auto found = salts_.find(slot.sampling.seed);
    return found == salts_.end() ? 0 : found->second;
  }

  void release(uint32_t slot) {
    const auto found = slots_.find(slot);
    ASSERT_NE(found, slots_.end()) << "slot " << slot << " released but not in use";
    for (const int32_t block : found->second.table) --holders_[static_cast<size_t>(block)];
    slots_.erase(found);
  }

  void extend_table(const StepPlan& plan, const SequencePlan& sequence) {
    ASSERT_LT(sequence.slot, config_.max_sequences);
    if (sequence.starts) {
      ASSERT_EQ(slots_.count(sequence.slot), 0U) << "slot " << sequence.slot << " starts twice";
      Slot& slot = slots_[sequence.slot];
      slot.sampling = sequence.start.sampling;
      slot.micro_batch = plan.micro_batch;
      slot.next_position = sequence.first_position;
      EXPECT_EQ(sequence.first_position % config_.block_tokens, 0);
      EXPECT_EQ(sequence.start.history.empty(), !slot.sampling.has_penalties());
    }
    ASSERT_EQ(slots_.count(sequence.slot), 1U) << "slot " << sequence.slot << " never started";
    Slot& slot = slots_[sequence.slot];
    EXPECT_EQ(slot.micro_batch, plan.micro_batch) << "a sequence that changed its micro-batch";
    for (const int32_t block : sequence.appended_block_ids) {
      ASSERT_LT(block, config_.num_blocks);
      slot.table.push_back(block);
      ++holders_[static_cast<size_t>(block)];
    }
    ASSERT_LE(sequence.first_position + sequence.num_rows(),
              static_cast<int64_t>(slot.table.size()) * config_.block_tokens)
        << "rows beyond the block table";
  }

  // Every position before the first row must hold the KV of one token prefix.
  uint64_t attend(const SequencePlan& sequence) {
    if (testing::Test::HasFatalFailure()) return 0;
    Slot& slot = slots_[sequence.slot];
    EXPECT_EQ(sequence.first_position, slot.next_position) << "a gap in slot " << sequence.slot;
    uint64_t hash = 0;
    for (int64_t position = 0; position < sequence.first_position; ++position) {
      const Entry& at = entry(slot, position);
      EXPECT_EQ(at.position, position) << "slot " << sequence.slot;
      EXPECT_EQ(at.previous, hash) << "slot " << sequence.slot << " position " << position;
      EXPECT_EQ(at.salt, salt_of(slot)) << "slot " << sequence.slot << " position " << position;
      hash = at.prefix_hash;
    }
    return hash;
  }

  void compute(const SequencePlan& sequence, uint64_t hash, uint64_t step, StepResult* result) {
    if (testing::Test::HasFatalFailure()) return;
    Slot& slot = slots_[sequence.slot];
    std::vector<int32_t> tokens = sequence.token_ids;
    if (tokens.empty()) {
      ASSERT_TRUE(slot.sampled.has_value()) << "slot " << sequence.slot << " has drawn nothing";
      // The token must have come back from the last stage.
      EXPECT_GE(step, slot.sampled_step + static_cast<uint64_t>(config_.pp_size));
      tokens.push_back(*slot.sampled);
    }
    EXPECT_FALSE(slot.sampled.has_value() && !sequence.token_ids.empty());
    slot.sampled.reset();
    for (const int32_t token : tokens) {
      ASSERT_TRUE(token >= 0 && token < config_.vocab_size);
      const int64_t position = slot.next_position++;
      const auto block = slot.table[static_cast<size_t>(position / config_.block_tokens)];
      EXPECT_EQ(holders_[static_cast<size_t>(block)], 1) << "writes into shared block " << block;
      const uint64_t previous = hash;
      hash = fake_extend_prefix(hash, token);
      entry(slot, position) = {hash, previous, salt_of(slot), position};
      ++num_rows_;
    }
    if (!sequence.samples) return;
    slot.sampled = fake_next_token(hash, slot.sampling.seed, config_.vocab_size);
    slot.sampled_step = step;
    SampledToken token;
    token.slot = sequence.slot;
    token.token_id = *slot.sampled;
    result->tokens.push_back(token);
  }

  SchedulerConfig config_;
  std::vector<Entry> entries_;    // the KV cache
  std::vector<int32_t> holders_;  // slots with the block in their table
  std::map<uint32_t, Slot> slots_;
  std::unordered_map<uint64_t, uint64_t> salts_;
  uint64_t next_step_ = 0;
  uint64_t previous_hash_ = 0;
  uint64_t num_rows_ = 0;
};

}  // namespace phalanx
