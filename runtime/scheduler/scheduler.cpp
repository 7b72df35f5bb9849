// The state machine behind Scheduler: requests in, plans out, results in. Each decision is a step
// algorithm in a file of its own; here is what happens to sequences, slots and blocks.
#include "runtime/scheduler/scheduler.h"

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "runtime/base/check.h"
#include "runtime/scheduler/admission.h"
#include "runtime/scheduler/choose_victim.h"
#include "runtime/scheduler/kv_pool.h"
#include "runtime/scheduler/prefill_room.h"
#include "runtime/scheduler/sequence.h"
#include "runtime/scheduler/waiting_queue.h"

namespace phalanx {
namespace {

// A token that a planned step draws.
struct PendingSample {
  RequestId id;  // the request may be gone when the token comes
  uint32_t slot = 0;
};

struct StepInFlight {
  uint64_t step = 0;
  std::vector<PendingSample> samples;  // in the plan's order
};

// The plan being made.
struct Draft {
  StepPlan plan;
  int64_t budget = 0;                // rows left
  PrefillRoom prefill_room;          // of them for prompts
  int64_t num_start_ids = 0;         // in the starts so far
  std::vector<Sequence*> sequences;  // of plan.sequences
};

void check_config(const SchedulerConfig& config) {
  constexpr int64_t kMaxAgeing = int64_t{1} << 30;  // priorities times this fit into 64 bits
  PHALANX_CHECK_GT(config.num_blocks, 0, "num_blocks");
  PHALANX_CHECK_GT(config.block_tokens, 0, "block_tokens");
  PHALANX_CHECK_GT(config.max_step_tokens, 0, "max_step_tokens");
  PHALANX_CHECK_GT(config.max_chunk_tokens, 0, "max_chunk_tokens");
  PHALANX_CHECK_GT(config.max_sequences, 0, "max_sequences");
  PHALANX_CHECK_GT(config.max_waiting, 0, "max_waiting");
  PHALANX_CHECK_GT(config.max_context_tokens, 1, "max_context_tokens");
  PHALANX_CHECK_GT(config.vocab_size, 0, "vocab_size");
  PHALANX_CHECK_GT(config.pp_size, 0, "pp_size");
  PHALANX_CHECK_GT(config.ageing_steps, 0, "ageing_steps");
  PHALANX_CHECK_LE(config.ageing_steps, kMaxAgeing, "ageing_steps");
  PHALANX_CHECK_GE(config.max_start_ids, 0, "max_start_ids");
}

/// Ids in a start besides the first chunk's tokens, which the step's budget bounds.
int64_t num_start_ids(const SamplingParams& sampling, int64_t num_tokens, int64_t block_tokens) {
  return blocks_for_tokens(num_tokens, block_tokens) + (sampling.has_penalties() ? num_tokens : 0);
}

}  // namespace

size_t max_plan_bytes(const SchedulerConfig& config) {
  // Protobuf's varints: seven bits a byte. Tags, lengths and single values of a plan, and of each
  // sequence with its sampling, stay below the constants.
  constexpr int64_t kIdBytes = 5;
  constexpr int64_t kPlanBytes = 64;
  constexpr int64_t kSequenceBytes = 192;
  SamplingParams penalized;
  penalized.presence_penalty = 1;
  const int64_t one_start =
      num_start_ids(penalized, config.max_context_tokens, config.block_tokens);
  const int64_t num_ids = config.max_step_tokens + std::max(config.max_start_ids, one_start);
  // Of each slot a decode and its new block, and a release.
  return static_cast<size_t>(kPlanBytes + config.max_sequences * (kSequenceBytes + 2 * kIdBytes) +
                             num_ids * kIdBytes);
}

struct Scheduler::State {
  explicit State(const SchedulerConfig& c)
      : config(c),
        pool(c.num_blocks, c.block_tokens, c.prefix_cache),
        queue(c.ageing_steps),
        decide_admission{c.policy},
        running(static_cast<size_t>(c.pp_size)) {
    for (int64_t slot = c.max_sequences - 1; slot >= 0; --slot)
      free_slots.push_back(static_cast<uint32_t>(slot));
  }

  // --- Requests in and out ---------------------------------------------------------------------

  Status check(const Request& request) const {
    PHALANX_RETURN_IF_ERROR(check_request(request, config));
    if (queue.num_waiting() >= config.max_waiting)
      return resource_exhausted("the queue holds " + std::to_string(queue.num_waiting()) +
                                " requests; allowed: " + std::to_string(config.max_waiting));
    return {};
  }

  void add(Request request) {
    const auto [place, is_unique] = sequences.try_emplace(request.id);
    PHALANX_CHECK(is_unique, "request " + std::to_string(request.id.value) + " was added before");
    Sequence& sequence = place->second;
    sequence.id = request.id;
    sequence.sampling = request.sampling;
    sequence.priority = request.priority;
    sequence.salt = request.cache_salt;
    sequence.stop_token_ids = std::move(request.stop_token_ids);
    sequence.tokens = std::move(request.prompt_token_ids);
    sequence.num_prompt_tokens = sequence.num_known();
    const int64_t room = config.max_context_tokens - sequence.num_prompt_tokens;
    sequence.max_total_tokens = sequence.num_prompt_tokens + std::min(request.max_tokens, room);
    sequence.arrival_step = next_step;
    sequence.rank = {request.priority * config.ageing_steps + static_cast<int64_t>(next_step),
                     request.id};
    sequence.client = queue.enter(request.client);
    queue.add(&sequence, next_step);
  }

  // Forgets a sequence in any phase. Tokens still to come for it will find no owner.
  void erase(Sequence* sequence) {
    switch (sequence->phase) {
      case SequencePhase::kWaiting:
      case SequencePhase::kPreempted:
        queue.remove(sequence);
        break;
      case SequencePhase::kRunning:
        stop_running(sequence);
        break;
      case SequencePhase::kDraining:
        break;
    }
    queue.leave(sequence->client);
    const RequestId id = sequence->id;
    sequences.erase(id);
  }

  void fail(Sequence* sequence, std::string error) {
    RequestUpdate update;
    update.id = sequence->id;
    update.finished = true;
    update.reason = FinishReason::kError;
    update.error = std::move(error);
    failures.push_back(std::move(update));
    ++counters.num_finished;
    erase(sequence);
  }

  // --- Slots and blocks ------------------------------------------------------------------------

  void start_running(Sequence* sequence, uint32_t micro_batch, const PrefixMatch& prefix) {
    queue.admit(sequence, next_step);
    sequence->phase = SequencePhase::kRunning;
    sequence->slot = free_slots.back();
    free_slots.pop_back();
    sequence->slot_started = sequence->slot_sampled = false;
    sequence->micro_batch = micro_batch;
    pool.adopt(prefix, &sequence->table);
    const auto num_matched = static_cast<int64_t>(prefix.blocks.size());
    pool.extend(pool.blocks_for(sequence->num_known()) - num_matched, &sequence->table);
    sequence->num_computed = num_matched * config.block_tokens;
    sequence->reserved_blocks = DecideAdmission::blocks_at_most(pool, *sequence);
    reserved_blocks += sequence->reserved_blocks;
    std::vector<Sequence*>& line = running[micro_batch];
    line.insert(std::upper_bound(line.begin(), line.end(), sequence, EarlierRank()), sequence);
    ++num_running;
    if (sequence->was_admitted) return;
    sequence->was_admitted = true;
    sequence->num_cached_tokens = sequence->num_computed;
    counters.num_prompt_tokens += static_cast<uint64_t>(sequence->num_prompt_tokens);
    counters.num_cached_tokens += static_cast<uint64_t>(sequence->num_cached_tokens);
    queue.charge_prompt(sequence->client, sequence->num_prompt_tokens - sequence->num_computed);
  }

  // Gives slot and blocks back; see kv_pool.h on why steps in flight do not mind. The slot is
  // announced as released in the plan that is being made, or else in the next, and may be taken
  // again at once: workers read releases before sequences.
  void stop_running(Sequence* sequence) {
    std::vector<Sequence*>& line = running[sequence->micro_batch];
    line.erase(std::lower_bound(line.begin(), line.end(), sequence, EarlierRank()));
    pool.release(sequence->salt, sequence->tokens, &sequence->table);
    released_slots.push_back(sequence->slot);
    free_slots.push_back(sequence->slot);
    if (sequence->slot_sampled) --num_decoding;
    reserved_blocks -= sequence->reserved_blocks;
    --num_running;
    sequence->phase = SequencePhase::kDraining;
  }

  // Preemption by recompute: the sequence keeps its tokens and computes them again later, as far as
  // its blocks are not in the cache then. Tokens in flight come first, so that none is drawn twice.
  void preempt(Sequence* sequence) {
    stop_running(sequence);
    ++counters.num_preemptions;
    sequence->wanted_blocks = 0;
    if (sequence->num_pending == 0) requeue(sequence);
  }

  void requeue(Sequence* sequence) {
    sequence->phase = SequencePhase::kPreempted;
    queue.add(sequence, next_step);
  }

  // Sees to a block for the next position; false when the sequence is not part of this step.
  bool make_room(Sequence* sequence) {
    const auto has_room = [&] {
      return sequence->num_computed <
             static_cast<int64_t>(sequence->table.blocks.size()) * config.block_tokens;
    };
    if (has_room()) return true;
    while (pool.num_free() == 0) {
      const PressureRelief relief = choose_victim(running, *sequence);
      switch (relief.action) {
        case Pressure::kPreempt:
          preempt(relief.victim);
          break;
        case Pressure::kYield:
          preempt(sequence);
          return false;
        case Pressure::kAlone:
          if (sequence->num_pending > 0) return false;  // one of these tokens may end it
          fail(sequence, "the KV cache of " + std::to_string(pool.num_blocks()) + " blocks of " +
                             std::to_string(config.block_tokens) +
                             " tokens is too small for this request alone, after " +
                             std::to_string(sequence->num_known()) + " tokens");
          return false;
      }
    }
    pool.extend(1, &sequence->table);
    return true;
  }

  // --- Making a plan ---------------------------------------------------------------------------

  SequencePlan& append(Draft* draft, Sequence* sequence, int64_t num_rows) {
    SequencePlan& row = draft->plan.sequences.emplace_back();
    row.slot = sequence->slot;
    row.first_position = sequence->num_computed;
    sequence->num_computed += num_rows;
    draft->sequences.push_back(sequence);
    draft->budget -= num_rows;
    counters.num_computed_tokens += static_cast<uint64_t>(num_rows);
    return row;
  }

  void append_decode(Draft* draft, Sequence* sequence, bool has_new_block) {
    SequencePlan& row = append(draft, sequence, 1);
    if (has_new_block) row.appended_block_ids = {sequence->table.blocks.back().value};
    row.samples = true;
    ++sequence->num_pending;
  }

  void append_chunk(Draft* draft, Sequence* sequence, bool others_wait) {
    const int64_t begin = sequence->num_computed;
    const int64_t remaining = sequence->num_known() - begin;
    const int64_t rows = draft->prefill_room.take(begin, remaining, draft->budget, others_wait);
    SequencePlan& row = append(draft, sequence, rows);
    row.token_ids.assign(sequence->tokens.begin() + begin, sequence->tokens.begin() + begin + rows);
    if (!sequence->slot_started) {
      sequence->slot_started = row.starts = true;
      row.start.sampling = sequence->sampling;
      if (sequence->sampling.has_penalties()) {
        row.start.history = sequence->tokens;
        row.start.num_prompt_tokens = static_cast<int32_t>(sequence->num_prompt_tokens);
      }
      row.appended_block_ids.reserve(sequence->table.blocks.size());
      for (const BlockId block : sequence->table.blocks)
        row.appended_block_ids.push_back(block.value);
    }
    if (rows < remaining) return;
    row.samples = true;
    ++sequence->num_pending;
  }

  // By rank. Whoever is preempted on the way comes later in the line, or is its end. The budget is
  // enough for all: a sequence took at least a row of it in the step in which it began to decode.
  void plan_decodes(Draft* draft, size_t micro_batch) {
    const std::vector<Sequence*>& line = running[micro_batch];
    for (size_t i = 0; i < line.size(); ++i) {
      Sequence* sequence = line[i];
      if (!sequence->slot_sampled) continue;
      PHALANX_CHECK_GT(draft->budget, 0, "more decodes than the budget has rows");
      const size_t num_blocks = sequence->table.blocks.size();
      if (!make_room(sequence)) continue;
      append_decode(draft, sequence, sequence->table.blocks.size() > num_blocks);
    }
  }

  void plan_prefills(Draft* draft, size_t micro_batch) {
    const std::vector<Sequence*>& line = running[micro_batch];
    auto num_prompts = std::count_if(
        line.begin(), line.end(), [](const Sequence* sequence) { return !sequence->slot_sampled; });
    for (Sequence* sequence : line) {
      if (draft->budget == 0 || !draft->prefill_room.has_room()) break;
      if (sequence->slot_sampled) continue;
      --num_prompts;
      append_chunk(draft, sequence, num_prompts > 0 || anyone_waits());
    }
  }

  bool anyone_waits() const { return queue.num_waiting() + queue.num_preempted() > 0; }

  // An equal share of all sequences for each micro-batch, rounded up. Who finds one full is
  // admitted to another: a full one has sequences that run, so the rotation goes on.
  bool micro_batch_is_full(size_t micro_batch) const {
    const int64_t all = num_running + queue.num_waiting() + queue.num_preempted();
    const int64_t share = (all + config.pp_size - 1) / config.pp_size;
    return static_cast<int64_t>(running[micro_batch].size()) >= share;
  }

  // Counts the sequence's ids when they fit.
  bool start_fits(Draft* draft, const Sequence& sequence) const {
    const int64_t ids = num_start_ids(sequence.sampling, sequence.num_known(), config.block_tokens);
    if (draft->num_start_ids > 0 && draft->num_start_ids + ids > config.max_start_ids) return false;
    draft->num_start_ids += ids;
    return true;
  }

  void plan_admissions(Draft* draft, size_t micro_batch) {
    while (draft->budget > 0 && draft->prefill_room.has_room() && !free_slots.empty() &&
           !micro_batch_is_full(micro_batch)) {
      Sequence* sequence = queue.best(next_step);
      if (sequence == nullptr) return;
      switch (decide_admission(pool, num_running, reserved_blocks, next_step, sequence, &match)) {
        case Admission::kNow:
          if (!start_fits(draft, *sequence)) return;
          start_running(sequence, static_cast<uint32_t>(micro_batch), match);
          append_chunk(draft, sequence, anyone_waits());
          break;
        case Admission::kLater:
          return;
        case Admission::kNever:
          fail(sequence, "this request's " + std::to_string(sequence->num_known()) +
                             " tokens, and up to " + std::to_string(sequence->max_total_tokens) +
                             " at its end, do not fit into the KV cache of " +
                             std::to_string(pool.num_blocks()) + " blocks of " +
                             std::to_string(config.block_tokens) + " tokens");
          break;
      }
    }
  }

  // Then their turn must come, if need be by way of an empty plan.
  bool others_run(size_t micro_batch) const {
    return num_running > static_cast<int64_t>(running[micro_batch].size());
  }

  std::optional<StepPlan> plan() {
    PHALANX_CHECK(!is_stopped, "a plan after the stop plan");
    const size_t micro_batch = next_step % static_cast<uint64_t>(config.pp_size);
    Draft draft;
    draft.budget = config.max_step_tokens;
    draft.prefill_room = PrefillRoom(config.max_chunk_tokens, config.block_tokens,
                                     num_decoding > 0 || config.pp_size > 1);
    draft.sequences.swap(draft_sequences);
    draft.sequences.clear();
    draft.plan.sequences.reserve(running[micro_batch].size() + 1);
    plan_decodes(&draft, micro_batch);
    plan_prefills(&draft, micro_batch);
    plan_admissions(&draft, micro_batch);
    std::optional<StepPlan> result;
    if (!draft.plan.sequences.empty() || others_run(micro_batch)) {
      finish_plan(&draft);
      result = std::move(draft.plan);
    }
    draft_sequences.swap(draft.sequences);
    return result;
  }

  void finish_plan(Draft* draft) {
    number_and_hash(&draft->plan);
    StepInFlight& step = in_flight.emplace_back();
    step.step = draft->plan.step;
    for (size_t i = 0; i < draft->sequences.size(); ++i) {
      Sequence* sequence = draft->sequences[i];
      pool.record(sequence->salt, sequence->tokens, sequence->num_computed, &sequence->table);
      if (!draft->plan.sequences[i].samples) continue;
      step.samples.push_back({sequence->id, sequence->slot});
      if (!sequence->slot_sampled) ++num_decoding;
      sequence->slot_sampled = true;
      // Its last token is on its way: nothing is left to compute.
      if (sequence->is_fully_planned()) stop_running(sequence);
    }
  }

  void number_and_hash(StepPlan* plan) {
    plan->step = next_step;
    plan->previous_hash = previous_hash;
    plan->micro_batch = static_cast<uint32_t>(next_step % static_cast<uint64_t>(config.pp_size));
    plan->released_slots.swap(released_slots);
    encoded = encode_step_plan(*plan);
    previous_hash = step_plan_hash(std::as_bytes(std::span(encoded.data(), encoded.size())));
    ++next_step;
  }

  // --- Taking results --------------------------------------------------------------------------

  std::vector<RequestUpdate> commit(const StepResult& result) {
    PHALANX_CHECK(!in_flight.empty(), "a result without a step in flight");
    const StepInFlight step = std::move(in_flight.front());
    in_flight.pop_front();
    PHALANX_CHECK_EQ(result.step, step.step, "results come in the order of their steps");
    PHALANX_CHECK_EQ(result.tokens.size(), step.samples.size(),
                     "one token for each sample planned");
    std::vector<RequestUpdate> updates;
    updates.reserve(step.samples.size());
    for (size_t i = 0; i < step.samples.size(); ++i) {
      PHALANX_CHECK_EQ(result.tokens[i].slot, step.samples[i].slot, "tokens in the plan's order");
      const auto found = sequences.find(step.samples[i].id);
      if (found != sequences.end()) updates.push_back(take_token(&found->second, result.tokens[i]));
    }
    return updates;
  }

  RequestUpdate take_token(Sequence* sequence, const SampledToken& token) {
    PHALANX_CHECK(token.token_id >= 0 && token.token_id < config.vocab_size,
                  "a drawn token outside of the vocabulary");
    --sequence->num_pending;
    RequestUpdate update;
    update.id = sequence->id;
    if (!sequence->has_first_token) update.num_cached_tokens = sequence->num_cached_tokens;
    sequence->has_first_token = true;
    if (std::ranges::find(sequence->stop_token_ids, token.token_id) !=
        sequence->stop_token_ids.end()) {
      update.finished = true;
      update.reason = FinishReason::kStop;
    } else {
      update.has_token = true;
      update.token = token;
      sequence->tokens.push_back(token.token_id);
      ++counters.num_generated_tokens;
      queue.charge_output(sequence->client, 1);
      if (sequence->num_known() >= sequence->max_total_tokens) {
        update.finished = true;
        update.reason = FinishReason::kLength;
      }
    }
    if (update.finished) {
      if (sequence->phase == SequencePhase::kRunning)
        pool.record(sequence->salt, sequence->tokens, sequence->num_computed, &sequence->table);
      ++counters.num_finished;
      erase(sequence);
    } else if (sequence->phase == SequencePhase::kRunning) {
      pool.record(sequence->salt, sequence->tokens, sequence->num_computed, &sequence->table);
    } else if (sequence->num_pending == 0) {
      requeue(sequence);
    }
    return update;
  }

  SchedulerConfig config;
  KvPool pool;
  WaitingQueue queue;
  ChooseVictim choose_victim;
  DecideAdmission decide_admission;
  std::unordered_map<RequestId, Sequence> sequences;  // every request that has not ended
  std::vector<std::vector<Sequence*>> running;        // per micro-batch, ascending by rank
  int64_t num_running = 0;
  int64_t num_decoding = 0;     // running sequences that have drawn a token in their slot
  int64_t reserved_blocks = 0;  // over running sequences, at their longest
  std::vector<uint32_t> free_slots;
  std::vector<uint32_t> released_slots;  // to be announced
  std::deque<StepInFlight> in_flight;
  std::vector<RequestUpdate> failures;
  uint64_t next_step = 0;
  uint64_t previous_hash = 0;
  std::string encoded;
  bool is_stopped = false;
  SchedulerStats counters;  // the counting members only

  // Buffers kept between plans.
  std::vector<Sequence*> draft_sequences;
  PrefixMatch match;
};

Scheduler::Scheduler(const SchedulerConfig& config) {
  check_config(config);
  state_ = std::make_unique<State>(config);
}

Scheduler::~Scheduler() = default;

Status Scheduler::add(Request request) {
  if (Status status = state_->check(request); !status.ok()) return status;
  state_->add(std::move(request));
  return {};
}

void Scheduler::cancel(RequestId id) {
  const auto found = state_->sequences.find(id);
  if (found != state_->sequences.end()) state_->erase(&found->second);
}

std::optional<StepPlan> Scheduler::plan() { return state_->plan(); }

const std::string& Scheduler::encoded_plan() const { return state_->encoded; }

std::vector<RequestUpdate> Scheduler::commit(const StepResult& result) {
  return state_->commit(result);
}

std::vector<RequestUpdate> Scheduler::take_failures() {
  return std::exchange(state_->failures, {});
}

int64_t Scheduler::num_in_flight() const { return static_cast<int64_t>(state_->in_flight.size()); }

bool Scheduler::has_work() const {
  return !state_->sequences.empty() || !state_->in_flight.empty();
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = state_->counters;
  const int64_t num_requests = static_cast<int64_t>(state_->sequences.size());
  stats.num_waiting = state_->queue.num_waiting() + state_->queue.num_preempted();
  stats.num_running = num_requests - stats.num_waiting;  // with those that wait for commits
  stats.num_free_blocks = state_->pool.num_free();
  stats.num_cached_blocks = state_->pool.num_cached();
  stats.num_steps = state_->next_step;
  return stats;
}

StepPlan Scheduler::make_stop_plan() {
  PHALANX_CHECK(!state_->is_stopped, "a second stop plan");
  StepPlan plan;
  plan.stop = true;
  state_->number_and_hash(&plan);
  state_->is_stopped = true;
  return plan;
}

}  // namespace phalanx
