// Random but valid step plans for the round-trip and the mutation tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "runtime/scheduler/step_plan.h"

namespace phalanx {

inline std::vector<int32_t> random_ids(std::mt19937_64& random, size_t size) {
  std::vector<int32_t> ids(size);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() >> (33 + random() % 31));
  return ids;
}

inline SequenceStart random_start(std::mt19937_64& random) {
  std::uniform_real_distribution<float> unit(0.0F, 1.0F);
  SequenceStart start;
  start.sampling.temperature = unit(random) * 2.0F;
  start.sampling.top_k = static_cast<int32_t>(random() % 100);
  start.sampling.top_p = 1.0F - unit(random) * 0.9F;
  start.sampling.min_p = unit(random);
  start.sampling.seed = random();
  start.sampling.num_top_logprobs = static_cast<int32_t>(random() % 22) - 1;
  if (random() % 2 == 0) {
    start.sampling.repetition_penalty = 0.5F + unit(random);
    start.sampling.presence_penalty = unit(random) * 4.0F - 2.0F;
    start.sampling.frequency_penalty = unit(random) * 4.0F - 2.0F;
    start.history = random_ids(random, 1 + random() % 50);
    start.num_prompt_tokens = static_cast<int32_t>(random() % (start.history.size() + 1));
  }
  return start;
}

inline StepPlan random_step_plan(std::mt19937_64& random, size_t max_sequences) {
  StepPlan plan;
  plan.step = random() >> (random() % 64);
  plan.previous_hash = random();
  plan.micro_batch = static_cast<uint32_t>(random() % 8);
  std::vector<uint32_t> slots(2 * max_sequences);
  std::iota(slots.begin(), slots.end(), static_cast<uint32_t>(random() % 1000));
  std::shuffle(slots.begin(), slots.end(), random);
  plan.released_slots.assign(slots.begin(), slots.begin() + static_cast<int64_t>(random() % 5));
  std::shuffle(slots.begin(), slots.end(), random);
  const size_t num_sequences = random() % (max_sequences + 1);
  for (size_t i = 0; i < num_sequences; ++i) {
    SequencePlan sequence;
    sequence.slot = slots[i];
    sequence.starts = random() % 3 == 0;
    if (sequence.starts) sequence.start = random_start(random);
    if (sequence.starts || random() % 2 == 0)
      sequence.token_ids = random_ids(random, 1 + random() % 40);
    sequence.first_position = static_cast<int64_t>(random() % 100'000);
    if (sequence.starts || random() % 8 == 0)
      sequence.appended_block_ids = random_ids(random, 1 + random() % 6);
    sequence.samples = random() % 4 != 0;
    plan.sequences.push_back(sequence);
  }
  return plan;
}

}  // namespace phalanx
