// Penalties, filters and the draw itself, for one row at a time. The order of operations is the
// contract in sampler.h; nothing here depends on other rows or on the machine. The arithmetic is
// that of kernels/sampling_math.h, which the GPU's sampler shares.
#include "runtime/executor/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <unordered_map>

#include "kernels/philox.h"
#include "kernels/sampling_math.h"
#include "runtime/base/check.h"
#include "runtime/executor/exp_weights.h"
#include "runtime/executor/token_ranking.h"

namespace phalanx {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A token that the sequence has in its prompt or output.
struct SeenToken {
  int32_t token_id = 0;
  int32_t num_generated = 0;
  float raw_logit = 0.0F;  // this row's, before penalties
};

struct Slot {
  bool active = false;
  SamplingParams params;
  std::vector<SeenToken> seen;  // kept only for penalties, in order of first appearance
  std::unordered_map<int32_t, size_t> seen_index;

  void add(int32_t token_id, bool generated) {
    const auto [found, is_first] = seen_index.try_emplace(token_id, seen.size());
    if (is_first) seen.push_back({.token_id = token_id});
    if (generated) ++seen[found->second].num_generated;
  }

  float raw_logit(int32_t token_id, std::span<const float> logits) const {
    const auto found = seen_index.find(token_id);
    return found == seen_index.end() ? logits[static_cast<size_t>(token_id)]
                                     : seen[found->second].raw_logit;
  }
};

// Buffers of the row at hand. Rows may be spread over threads, and each needs its own.
struct Scratch {
  TokenRanking ranking;
  std::vector<uint64_t> cumulative;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

// Ranks the row; +infinity counts as the largest finite value, so that differences stay defined.
void rank_row(std::span<float> logits, TokenRanking* ranking) {
  ranking->reset(logits);
  if (ranking->max() < kInfinity) return;
  for (float& logit : logits) logit = kernels::finite_above(logit);
  ranking->reset(logits);
}

bool has_finite(std::span<const float> logits) {
  return std::any_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
}

void apply_penalties(Slot* slot, std::span<float> logits) {
  const SamplingParams& params = slot->params;
  for (SeenToken& seen : slot->seen) {
    float& logit = logits[static_cast<size_t>(seen.token_id)];
    seen.raw_logit = logit;
    logit = kernels::penalized_logit(logit, seen.num_generated, params.repetition_penalty,
                                     params.presence_penalty, params.frequency_penalty);
  }
}

// Draws from the row as it is (after penalties); the ranking belongs to it. Sums are integers, in
// units of kernels::kWeightUnit, so none of them depends on how it was added up.
class TokenDraw {
 public:
  TokenDraw(const SamplingParams& params, std::span<const float> logits, Scratch* buffers)
      : params_(params),
        logits_(logits),
        ranking_(buffers->ranking),
        cumulative_(buffers->cumulative),
        top_k_(params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size()
                   ? static_cast<size_t>(params.top_k)
                   : 0) {}

  /// uniform: 24 bits.
  int32_t draw(uint32_t uniform) {
    const bool filters = top_k_ > 0 || params_.top_p < 1.0F || params_.min_p > 0.0F;
    return filters ? draw_filtered(uniform) : draw_unfiltered(uniform);
  }

 private:
  // Tokens are looked at in growing portions: most draws end within the first.
  static constexpr size_t kFirstPortion = 32;
  static constexpr size_t kGrowth = 4;

  float scaled(size_t rank) const {
    return kernels::scaled_logit(logits_[static_cast<size_t>(ranking_.token(rank))], ranking_.max(),
                                 params_.temperature);
  }

  uint64_t row_sum() const { return exp_weight_sum(logits_, ranking_.max(), params_.temperature); }

  // Walks the ranking without looking further than needed: visit(rank, scaled, weight) until it
  // returns false or no token with a weight is left.
  template <typename Visit>
  void walk(Visit visit) {
    size_t rank = 0;
    for (size_t portion = kFirstPortion;; portion *= kGrowth) {
      const size_t known = ranking_.extend(portion);
      for (; rank < known; ++rank) {
        const float x = scaled(rank);
        const uint64_t weight = kernels::unit_weight(x);
        if (weight == 0 || !visit(rank, x, weight)) return;
      }
      if (ranking_.complete()) return;
    }
  }

  int32_t draw_unfiltered(uint32_t uniform) {
    const uint64_t target = kernels::draw_units(row_sum(), uniform);
    uint64_t cumulative = 0;
    size_t chosen = 0;
    walk([&](size_t rank, float /*x*/, uint64_t weight) {
      chosen = rank;
      cumulative += weight;
      return cumulative <= target;
    });
    return ranking_.token(chosen);
  }

  // The mass among which top_p takes its share.
  uint64_t top_k_sum() {
    if (top_k_ == 0) return row_sum();
    const size_t kept = std::min(top_k_, ranking_.extend(top_k_));
    uint64_t sum = 0;
    for (size_t rank = 0; rank < kept; ++rank) sum += kernels::unit_weight(scaled(rank));
    return sum;
  }

  int32_t draw_filtered(uint32_t uniform) {
    const float floor = kernels::min_p_floor(params_.min_p);
    const bool has_nucleus = params_.top_p < 1.0F;
    const uint64_t nucleus =
        has_nucleus ? kernels::nucleus_units(params_.top_p, top_k_sum()) : uint64_t{0};
    cumulative_.clear();
    uint64_t sum = 0;
    walk([&](size_t rank, float x, uint64_t weight) {
      if (rank > 0 && x < floor) return false;
      sum += weight;
      cumulative_.push_back(sum);
      if (top_k_ > 0 && rank + 1 == top_k_) return false;
      return !has_nucleus || sum < nucleus;
    });
    const auto chosen = std::upper_bound(cumulative_.begin(), cumulative_.end() - 1,
                                         kernels::draw_units(sum, uniform));
    return ranking_.token(static_cast<size_t>(chosen - cumulative_.begin()));
  }

  const SamplingParams& params_;
  std::span<const float> logits_;
  TokenRanking& ranking_;
  std::vector<uint64_t>& cumulative_;
  size_t top_k_;  // 0: off
};

}  // namespace

struct Sampler::State {
  int64_t vocab_size = 0;
  std::vector<Slot> slots;

  Slot& slot(uint32_t index) {
    PHALANX_CHECK_LT(index, slots.size(), "a slot that this sampler does not have");
    return slots[index];
  }
};

Sampler::Sampler(int64_t vocab_size, int64_t max_slots) : state_(std::make_unique<State>()) {
  PHALANX_CHECK_GT(vocab_size, 0, "vocab_size");
  PHALANX_CHECK_LE(vocab_size, kernels::kMaxSampledVocab, "vocab_size");
  PHALANX_CHECK_GT(max_slots, 0, "max_slots");
  state_->vocab_size = vocab_size;
  state_->slots.resize(static_cast<size_t>(max_slots));
}

Sampler::~Sampler() = default;

void Sampler::start(uint32_t slot_index, const SequenceStart& start) {
  Slot& slot = state_->slot(slot_index);
  slot = Slot();
  slot.active = true;
  slot.params = start.sampling;
  if (!slot.params.has_penalties()) return;
  PHALANX_CHECK_GE(start.num_prompt_tokens, 0, "num_prompt_tokens");
  for (size_t i = 0; i < start.history.size(); ++i) {
    PHALANX_CHECK(start.history[i] >= 0 && start.history[i] < state_->vocab_size,
                  "a token outside of the vocabulary: " + std::to_string(start.history[i]));
    slot.add(start.history[i], i >= static_cast<size_t>(start.num_prompt_tokens));
  }
}

void Sampler::release(uint32_t slot) { state_->slot(slot) = Slot(); }

Draw Sampler::sample(uint32_t slot_index, std::span<float> logits, int64_t position) {
  Slot& slot = state_->slot(slot_index);
  const SamplingParams& params = slot.params;
  PHALANX_CHECK(slot.active, "slot " + std::to_string(slot_index) + " samples before it starts");
  PHALANX_CHECK_EQ(static_cast<int64_t>(logits.size()), state_->vocab_size, "length of the logits");
  Scratch& buffers = scratch();
  TokenRanking& ranking = buffers.ranking;
  ranking.reset(logits);
  if (!(ranking.max() < kInfinity && ranking.max() > kNone))
    PHALANX_CHECK(has_finite(logits), "no finite logit in slot " + std::to_string(slot_index) +
                                          " at position " + std::to_string(position));
  if (ranking.max() == kInfinity) rank_row(logits, &ranking);

  Draw draw;
  const bool wants_logprobs = params.num_top_logprobs >= 0;
  const float raw_max = ranking.max();
  double raw_log_sum = 0.0;
  const auto logprob = [&](float raw) { return kernels::logprob_of(raw, raw_max, raw_log_sum); };
  if (wants_logprobs) {
    raw_log_sum = kernels::log_of_units(exp_weight_sum(logits, raw_max, 1.0F));
    const size_t wanted = static_cast<size_t>(params.num_top_logprobs);
    const size_t num_top = std::min(wanted, wanted == 0 ? 0 : ranking.extend(wanted));
    for (size_t rank = 0; rank < num_top; ++rank) {
      const int32_t token = ranking.token(rank);
      draw.top_logprobs.emplace_back(token, logprob(logits[static_cast<size_t>(token)]));
    }
  }
  if (params.has_penalties()) {
    apply_penalties(&slot, logits);
    rank_row(logits, &ranking);
    PHALANX_CHECK(ranking.max() > kNone, "penalties left no finite logit in slot " +
                                             std::to_string(slot_index) + " at position " +
                                             std::to_string(position));
  }

  draw.token_id =
      params.temperature == 0.0F
          ? ranking.best()
          : TokenDraw(params, logits, &buffers)
                .draw(kernels::counter_bits(params.seed, static_cast<uint64_t>(position)));
  if (wants_logprobs) draw.logprob = logprob(slot.raw_logit(draw.token_id, logits));
  if (params.has_penalties()) slot.add(draw.token_id, true);
  return draw;
}

float counter_uniform(uint64_t seed, uint64_t position) {
  return static_cast<float>(kernels::counter_bits(seed, position)) * 0x1p-24F;
}

}  // namespace phalanx
