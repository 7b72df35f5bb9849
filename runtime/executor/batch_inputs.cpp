// Turns plans into rows, trusting nothing that it can check.
#include "runtime/executor/batch_inputs.h"

#include <algorithm>

#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx {

BatchInputs::BatchInputs(const StepLimits& limits, int64_t num_blocks)
    : limits_(limits), num_blocks_(num_blocks), slots_(static_cast<size_t>(limits.max_sequences)) {
  const auto blocks_per_sequence =
      static_cast<size_t>(ceil_div(limits.max_positions, kernels::kBlockTokens));
  for (Slot& slot : slots_) slot.block_table.reserve(blocks_per_sequence);
  const auto max_rows = static_cast<size_t>(limits.max_rows);
  const auto max_sequences = static_cast<size_t>(limits.max_sequences);
  token_ids_.reserve(max_rows);
  positions_.reserve(max_rows);
  sequences_.reserve(max_sequences);
  sampled_rows_.reserve(max_sequences);
  sampling_.reserve(max_sequences);
  fed_back_.reserve(max_sequences);
  token_slots_.reserve(max_rows);
  draws_.reserve(max_sequences);
}

void BatchInputs::apply(const StepPlan& plan) {
  token_ids_.clear();
  positions_.clear();
  sequences_.clear();
  sampled_rows_.clear();
  sampling_.clear();
  fed_back_.clear();
  newest_needed_step_ = -1;
  for (const uint32_t slot : plan.released_slots) {
    PHALANX_CHECK_LT(slot, slots_.size(), "released slot");
    PHALANX_CHECK(slots_[slot].active, "a slot is released twice");
    slots_[slot].active = false;
  }
  PHALANX_CHECK_LE(plan.num_rows(), limits_.max_rows, "rows of a plan");
  for (const SequencePlan& sequence : plan.sequences) apply_sequence(sequence, plan.step);
}

void BatchInputs::apply_sequence(const SequencePlan& sequence, uint64_t step) {
  PHALANX_CHECK_LT(sequence.slot, slots_.size(), "slot of a plan");
  Slot& slot = slots_[sequence.slot];
  if (sequence.starts) {
    PHALANX_CHECK(!slot.active, "a slot starts while it is in use");
    slot.active = true;
    slot.block_table.clear();
    slot.num_tokens = sequence.first_position;  // the tokens before it are in cached blocks
    slot.start_step = static_cast<int64_t>(step);
    slot.last_sampling_step = -1;
    slot.known_sampling_step = -1;
  }
  PHALANX_CHECK(slot.active, "a plan names a slot that holds no sequence");
  PHALANX_CHECK_EQ(sequence.first_position, slot.num_tokens, "first position of a plan");
  const int64_t num_rows = sequence.num_rows();
  PHALANX_CHECK_LE(slot.num_tokens + num_rows, limits_.max_positions, "positions of a sequence");
  for (const int32_t block : sequence.appended_block_ids) {
    PHALANX_CHECK(block >= 0 && block < num_blocks_, "block id " + std::to_string(block));
    PHALANX_CHECK_LT(slot.block_table.size(), slot.block_table.capacity(), "block table");
    slot.block_table.push_back(block);
  }
  const int64_t covered = static_cast<int64_t>(slot.block_table.size()) * kernels::kBlockTokens;
  PHALANX_CHECK_GE(covered, slot.num_tokens + num_rows, "tokens covered by a block table");

  const auto first_row = static_cast<int64_t>(positions_.size());
  sequences_.push_back({first_row, num_rows, slot.num_tokens, slot.block_table.data()});
  for (int64_t i = 0; i < num_rows; ++i) {
    positions_.push_back(static_cast<int32_t>(slot.num_tokens + i));
  }
  if (sequence.token_ids.empty()) {
    PHALANX_CHECK_GE(slot.last_sampling_step, 0, "a slot feeds back before it sampled");
    fed_back_.push_back({sequence.slot, static_cast<int32_t>(first_row), slot.last_sampling_step});
    token_ids_.push_back(-1);
    newest_needed_step_ = std::max(newest_needed_step_, slot.last_sampling_step);
  } else {
    token_ids_.insert(token_ids_.end(), sequence.token_ids.begin(), sequence.token_ids.end());
  }
  slot.num_tokens += num_rows;
  if (sequence.samples) {
    const auto row = static_cast<int32_t>(first_row + num_rows - 1);
    sampled_rows_.push_back(row);
    sampling_.push_back({sequence.slot, row, slot.num_tokens});
    slot.last_sampling_step = static_cast<int64_t>(step);
  }
}

void BatchInputs::set_sampled(uint32_t slot_index, uint64_t step, int32_t token_id) {
  PHALANX_CHECK_LT(slot_index, slots_.size(), "slot of a result");
  Slot& slot = slots_[slot_index];
  if (!slot.active || static_cast<int64_t>(step) < slot.start_step) return;
  slot.known_sampling_step = static_cast<int64_t>(step);
  slot.last_token = token_id;
}

void BatchInputs::collect_fed_back(std::vector<int32_t>& token_ids) const {
  token_ids.clear();
  for (const FedBackRow& row : fed_back_) {
    PHALANX_CHECK_EQ(slots_[row.slot].known_sampling_step, row.step, "step of a fed-back token");
    token_ids.push_back(slots_[row.slot].last_token);
  }
}

void BatchInputs::fill_fed_back(std::span<const int32_t> token_ids) {
  PHALANX_CHECK_EQ(token_ids.size(), fed_back_.size(), "fed-back tokens");
  for (size_t i = 0; i < token_ids.size(); ++i) {
    token_ids_[static_cast<size_t>(fed_back_[i].row)] = token_ids[i];
  }
}

kernels::StepRows BatchInputs::rows_with_draws() {
  token_slots_.assign(token_ids_.size(), kernels::kNoSlot);
  for (const FedBackRow& row : fed_back_) {
    token_slots_[static_cast<size_t>(row.row)] = row.slot;
    token_ids_[static_cast<size_t>(row.row)] = 0;  // until the device knows
  }
  draws_.clear();
  for (const SamplingRow& row : sampling_) draws_.push_back({row.slot, row.position});
  return {token_ids_, positions_, sequences_, sampled_rows_, token_slots_, draws_};
}

}  // namespace phalanx
