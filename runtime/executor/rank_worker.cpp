// The worker half of the two loops; the other is leader::run.
#include "runtime/executor/rank_worker.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <exception>
#include <thread>

#include "runtime/base/check.h"
#include "runtime/scheduler/step_plan.h"

namespace phalanx {
namespace {

using parallel::Progress;
using std::chrono::milliseconds;

/// Results travel against the stream of activations. If both ends could block in send, the pipeline
/// would lock up: so results are posted. In parts that fit MPI's eager messages (4 KiB where they
/// are smallest), since a longer one moves on only when the sampler rank is between two ops.
constexpr size_t kResultPartBytes = 2U << 10;

/// A step's result between ranks: fixed-width, host byte order (ranks share an architecture).
struct WireToken {
  uint32_t slot;
  int32_t token_id;
  float logprob;
  uint32_t num_top;
  uint64_t logits_digest;
};

std::vector<std::byte> encode_result(const StepResult& result) {
  std::vector<std::byte> bytes;
  const auto append = [&bytes](const void* data, size_t size) {
    const auto* first = static_cast<const std::byte*>(data);
    bytes.insert(bytes.end(), first, first + size);
  };
  for (const SampledToken& token : result.tokens) {
    const WireToken wire{token.slot, token.token_id, token.logprob,
                         static_cast<uint32_t>(token.top_logprobs.size()), token.logits_digest};
    append(&wire, sizeof(wire));
    for (const TopLogprob& top : token.top_logprobs) {
      append(&top.token_id, sizeof(top.token_id));
      append(&top.logprob, sizeof(top.logprob));
    }
  }
  return bytes;
}

StepResult decode_result(uint64_t step, std::span<const std::byte> bytes) {
  StepResult result;
  result.step = step;
  size_t offset = 0;
  const auto take = [&](void* data, size_t size) {
    PHALANX_CHECK_LE(offset + size, bytes.size(), "a result message is cut short");
    std::memcpy(data, bytes.data() + offset, size);
    offset += size;
  };
  while (offset < bytes.size()) {
    WireToken wire{};
    take(&wire, sizeof(wire));
    SampledToken token{wire.slot, wire.token_id, wire.logprob, {}, wire.logits_digest};
    for (uint32_t i = 0; i < wire.num_top; ++i) {
      TopLogprob top;
      take(&top.token_id, sizeof(top.token_id));
      take(&top.logprob, sizeof(top.logprob));
      token.top_logprobs.push_back(top);
    }
    result.tokens.push_back(std::move(token));
  }
  return result;
}

/// FNV-1a over 32-bit words, finished by a mix: equal exactly when (but for collisions) bits are.
uint64_t digest(std::span<const float> logits) {
  uint64_t hash = 0xcbf29ce484222325U;
  for (const float value : logits) {
    hash = (hash ^ std::bit_cast<uint32_t>(value)) * 0x100000001b3U;
    hash ^= hash >> 29;
  }
  return hash ^ (hash >> 32);
}

kernels::DrawParams draw_params(const SamplingParams& sampling) {
  kernels::DrawParams params;
  params.temperature = sampling.temperature;
  params.top_k = sampling.top_k;
  params.top_p = sampling.top_p;
  params.min_p = sampling.min_p;
  params.seed = sampling.seed;
  params.repetition_penalty = sampling.repetition_penalty;
  params.presence_penalty = sampling.presence_penalty;
  params.frequency_penalty = sampling.frequency_penalty;
  params.num_top_logprobs = sampling.num_top_logprobs;
  return params;
}

/// Errors as Sampler::sample.
SampledToken sampled_token(const kernels::DrawnToken& draw, const SamplingRow& row) {
  kernels::require_drawn(draw, row.slot, row.position);
  SampledToken token;
  token.slot = row.slot;
  token.token_id = draw.token_id;
  token.logprob = draw.logprob;
  for (int32_t i = 0; i < draw.num_top; ++i)
    token.top_logprobs.push_back({draw.top_tokens[i], draw.top_logprobs[i]});
  return token;
}

}  // namespace

RankWorker::RankWorker(const RankWorkerParts& parts, const StepLimits& limits,
                       int64_t num_kv_blocks)
    : parts_(parts),
      inputs_(limits, num_kv_blocks),
      token_sampler_(parts.executor != nullptr ? parts.executor->token_sampler() : nullptr) {}

/// Says so once: a rank that looks again and again in vain makes no progress by it.
void RankWorker::announce_wait() {
  static constexpr char kForDevice[] = "compute a step";
  static constexpr char kForPlan[] = "wait for a plan";
  static constexpr char kForResults[] = "wait for results";
  static constexpr char kForRoom[] = "send sampled tokens";
  const char* operation = !started_.empty()  ? kForDevice
                          : awaits_results() ? kForResults
                          : has_unsent_      ? kForRoom
                                             : kForPlan;
  if (parts_.progress->operation() == operation) return;
  parts_.progress->set_operation(operation);
  parts_.progress->set_state(operation == kForPlan     ? Progress::State::kIdle
                             : operation == kForDevice ? Progress::State::kBusy
                                                       : Progress::State::kWaiting);
}

void RankWorker::run() {
  while (true) {
    has_unsent_ = parts_.groups.pipeline != nullptr && !parts_.groups.pipeline->push_posted();
    announce_wait();
    // With results under way, look for both: a plan to start, a result to deliver or to send on.
    const bool looks = awaits_results() || has_unsent_;
    const auto message = parts_.plans->next(!started_.empty() ? milliseconds(0)
                                            : looks           ? milliseconds(1)
                                                              : milliseconds(500));
    if (!message && !started_.empty()) {
      if (token_sampler_->has_draws()) {
        finish_on_device();
      } else {
        std::this_thread::yield();
      }
      continue;
    }
    if (!message) {
      while (awaits_results() && parts_.groups.pipeline->can_recv(parts_.topology.pp_size - 1)) {
        receive_result();
      }
      continue;
    }
    parts_.progress->set_state(Progress::State::kBusy);
    Result<StepPlan> plan = decode_step_plan(*message);
    PHALANX_CHECK(plan.ok(), plan.ok() ? "" : plan.error().message);
    PHALANX_CHECK_EQ(plan->step, next_step_, "step number of a plan");
    PHALANX_CHECK_EQ(plan->previous_hash, previous_hash_, "hash of the plan before");
    previous_hash_ = step_plan_hash(*message);
    ++next_step_;
    execute(*plan);
    if (plan->stop) break;
  }
  while (!started_.empty()) finish_on_device();
  while (awaits_results()) receive_result();
  if (parts_.groups.pipeline != nullptr) {
    parts_.progress->set_operation("send the last tokens");
    parts_.progress->set_state(Progress::State::kWaiting);
    parts_.groups.pipeline->finish_posted();
  }
}

void RankWorker::execute(const StepPlan& plan) {
  parts_.progress->set_step(static_cast<int64_t>(plan.step));
  parts_.progress->set_operation("read the plan");
  inputs_.apply(plan);
  if (token_sampler_ != nullptr) {
    start_on_device(plan);
    return;
  }
  if (parts_.sampler != nullptr) {
    for (const uint32_t slot : plan.released_slots) parts_.sampler->release(slot);
    for (const SequencePlan& sequence : plan.sequences) {
      if (sequence.starts) parts_.sampler->start(sequence.slot, sequence.start);
    }
  }
  if (plan.sequences.empty()) {
    if (parts_.topology.is_sampler()) hand_on({plan.step, {}});
    if (parts_.topology.is_leader() && !parts_.topology.is_sampler()) {
      awaited_steps_.push_back(plan.step);
    }
    return;
  }
  if (parts_.topology.is_first_stage()) feed_back_tokens();
  const kernels::Rows logits = parts_.executor->run(
      {inputs_.token_ids(), inputs_.positions(), inputs_.sequences(), inputs_.sampled_rows()});
  if (parts_.topology.is_sampler()) {
    hand_on(sample(plan.step, logits));
  } else if (parts_.topology.is_leader()) {
    awaited_steps_.push_back(plan.step);
  }
}

void RankWorker::start_on_device(const StepPlan& plan) {
  for (const uint32_t slot : plan.released_slots) token_sampler_->release(slot);
  for (const SequencePlan& sequence : plan.sequences) {
    if (!sequence.starts) continue;
    token_sampler_->start(sequence.slot, draw_params(sequence.start.sampling),
                          sequence.start.history, sequence.start.num_prompt_tokens);
  }
  if (plan.sequences.empty()) {
    while (!started_.empty()) finish_on_device();
    hand_on({plan.step, {}});
    return;
  }
  const std::span<const SamplingRow> rows = inputs_.sampling();
  parts_.executor->start(inputs_.rows_with_draws());
  started_.push_back({plan.step, {rows.begin(), rows.end()}});
  while (started_.size() >= kernels::kMostStepsInFlight) finish_on_device();
}

/// Takes the tokens of the oldest started step.
void RankWorker::finish_on_device() {
  const StartedStep started = std::move(started_.front());
  started_.pop_front();
  const std::span<const kernels::DrawnToken> draws = token_sampler_->take_draws();
  PHALANX_CHECK_EQ(draws.size(), started.sampling.size(), "tokens that the device drew");
  StepResult result;
  result.step = started.step;
  for (size_t i = 0; i < draws.size(); ++i)
    result.tokens.push_back(sampled_token(draws[i], started.sampling[i]));
  hand_on(std::move(result));
}

void RankWorker::feed_back_tokens() {
  if (inputs_.fed_back().empty()) return;
  parts_.progress->set_operation("feed back sampled tokens");
  if (parts_.topology.is_leader()) {
    while (newest_received_step_ < inputs_.newest_needed_step()) receive_result();
    inputs_.collect_fed_back(fed_back_);
  } else {
    fed_back_.resize(inputs_.fed_back().size());
  }
  if (parts_.topology.tp_size > 1) {
    parts_.progress->set_state(Progress::State::kWaiting);
    parts_.groups.tensor->broadcast(std::as_writable_bytes(std::span<int32_t>(fed_back_)), 0);
    parts_.progress->set_state(Progress::State::kBusy);
  }
  inputs_.fill_fed_back(fed_back_);
}

StepResult RankWorker::sample(uint64_t step, kernels::Rows logits) {
  parts_.progress->set_operation("sample");
  const std::span<const SamplingRow> rows = inputs_.sampling();
  const auto vocab_size = static_cast<size_t>(parts_.executor->vocab_size());
  StepResult result;
  result.step = step;
  result.tokens.resize(rows.size());
  std::vector<std::exception_ptr> failures(rows.size());
  parts_.operators->for_each_on_host(static_cast<int64_t>(rows.size()), [&](int64_t i) {
    const SamplingRow& row = rows[static_cast<size_t>(i)];
    const std::span<float> row_logits{logits.data + i * logits.stride, vocab_size};
    try {
      result.tokens[static_cast<size_t>(i)] = sample_row(row, row_logits);
    } catch (...) {
      failures[static_cast<size_t>(i)] = std::current_exception();
    }
  });
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return result;
}

SampledToken RankWorker::sample_row(const SamplingRow& row, std::span<float> logits) const {
  SampledToken token;
  token.slot = row.slot;
  if (parts_.digest_logits) token.logits_digest = digest(logits);
  const Draw draw = parts_.sampler->sample(row.slot, logits, row.position);
  token.token_id = draw.token_id;
  token.logprob = draw.logprob;
  for (const auto& [token_id, logprob] : draw.top_logprobs) {
    token.top_logprobs.push_back({token_id, logprob});
  }
  return token;
}

void RankWorker::hand_on(StepResult result) {
  if (parts_.topology.is_leader()) {
    accept(std::move(result));
    return;
  }
  parts_.progress->set_operation("send sampled tokens");
  const std::vector<std::byte> payload = encode_result(result);
  const uint64_t header[2] = {result.step, payload.size()};
  parts_.groups.pipeline->post(std::as_bytes(std::span(header)), 0);
  for (std::span<const std::byte> rest = payload; !rest.empty();) {
    const auto part = rest.first(std::min(rest.size(), kResultPartBytes));
    parts_.groups.pipeline->post(part, 0);
    rest = rest.subspan(part.size());
  }
}

void RankWorker::receive_result() {
  parts_.progress->set_operation("receive sampled tokens");
  parts_.progress->set_state(Progress::State::kWaiting);
  const int sampler = parts_.topology.pp_size - 1;
  uint64_t header[2] = {0, 0};
  parts_.groups.pipeline->recv(std::as_writable_bytes(std::span(header)), sampler);
  constexpr uint64_t kMaxPayloadBytes = 64U << 20;
  PHALANX_CHECK_LE(header[1], kMaxPayloadBytes, "bytes of a result message");
  std::vector<std::byte> payload(header[1]);
  for (std::span<std::byte> rest = payload; !rest.empty();) {
    const auto part = rest.first(std::min(rest.size(), kResultPartBytes));
    parts_.groups.pipeline->recv(part, sampler);
    rest = rest.subspan(part.size());
  }
  parts_.progress->set_state(Progress::State::kBusy);
  PHALANX_CHECK(awaits_results(), "a result that no step awaits");
  PHALANX_CHECK_EQ(header[0], awaited_steps_.front(), "step of a result");
  awaited_steps_.pop_front();
  accept(decode_result(header[0], payload));
}

void RankWorker::accept(StepResult result) {
  newest_received_step_ = static_cast<int64_t>(result.step);
  for (const SampledToken& token : result.tokens) {
    inputs_.set_sampled(token.slot, result.step, token.token_id);
  }
  parts_.deliver(std::move(result));
}

}  // namespace phalanx
