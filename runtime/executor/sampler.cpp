// Penalties, filters and the draw itself, for one row at a time. The order of operations is the
// contract in sampler.h; nothing here depends on other rows or on the machine.
#include "runtime/executor/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <unordered_map>

#include "runtime/base/check.h"
#include "runtime/executor/exp_weights.h"
#include "runtime/executor/philox.h"
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
  std::vector<double> cumulative;
};

Scratch& scratch() {
  thread_local Scratch buffers;
  return buffers;
}

// Ranks the row; +infinity counts as the largest finite value, so that differences stay defined.
void rank_row(std::span<float> logits, TokenRanking* ranking) {
  ranking->reset(logits);
  if (ranking->max() < kInfinity) return;
  for (float& logit : logits)
    if (logit == kInfinity) logit = std::numeric_limits<float>::max();
  ranking->reset(logits);
}

bool has_finite(std::span<const float> logits) {
  return std::any_of(logits.begin(), logits.end(), [](float x) { return std::isfinite(x); });
}

// Repetition as in Keskar et al. 2019 (CTRL) with the sign rule of transformers; presence and
// frequency as OpenAI's API reference defines them.
void apply_penalties(Slot* slot, std::span<float> logits) {
  const SamplingParams& params = slot->params;
  for (SeenToken& seen : slot->seen) {
    float& logit = logits[static_cast<size_t>(seen.token_id)];
    seen.raw_logit = logit;
    logit = logit > 0.0F ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (seen.num_generated == 0) continue;
    logit -= params.presence_penalty;
    logit -= params.frequency_penalty * static_cast<float>(seen.num_generated);
  }
}

// Draws from the row as it is (after penalties); the ranking belongs to it.
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

  int32_t draw(double uniform) {
    const bool filters = top_k_ > 0 || params_.top_p < 1.0F || params_.min_p > 0.0F;
    return filters ? draw_filtered(uniform) : draw_unfiltered(uniform);
  }

 private:
  // Tokens are looked at in growing portions: most draws end within the first.
  static constexpr size_t kFirstPortion = 32;
  static constexpr size_t kGrowth = 4;

  double weight(size_t rank) const {
    const float logit = logits_[static_cast<size_t>(ranking_.token(rank))];
    return static_cast<double>(exp_weight((logit - ranking_.max()) / params_.temperature));
  }

  double row_sum() const { return exp_weight_sum(logits_, ranking_.max(), params_.temperature); }

  // Walks the ranking without looking further than needed: visit(rank, weight) until it returns
  // false or no token with a weight is left.
  template <typename Visit>
  void walk(Visit visit) {
    size_t rank = 0;
    for (size_t portion = kFirstPortion;; portion *= kGrowth) {
      const size_t known = ranking_.extend(portion);
      for (; rank < known; ++rank) {
        const double w = weight(rank);
        if (w == 0.0 || !visit(rank, w)) return;
      }
      if (ranking_.complete()) return;
    }
  }

  int32_t draw_unfiltered(double uniform) {
    const double target = uniform * row_sum();
    double cumulative = 0.0;
    size_t chosen = 0;  // ends as the last token with a weight, should rounding leave a rest
    walk([&](size_t rank, double w) {
      chosen = rank;
      cumulative += w;
      return cumulative <= target;
    });
    return ranking_.token(chosen);
  }

  // The mass among which top_p takes its share.
  double top_k_sum() {
    if (top_k_ == 0) return row_sum();
    const size_t kept = std::min(top_k_, ranking_.extend(top_k_));
    double sum = 0.0;
    for (size_t rank = 0; rank < kept; ++rank) sum += weight(rank);
    return sum;
  }

  int32_t draw_filtered(double uniform) {
    const double nucleus =
        params_.top_p < 1.0F ? static_cast<double>(params_.top_p) * top_k_sum() : 0.0;
    cumulative_.clear();
    double sum = 0.0;
    walk([&](size_t rank, double w) {
      // The best token's weight is 1, so a weight is the ratio that min_p bounds.
      if (rank > 0 && w < static_cast<double>(params_.min_p)) return false;
      sum += w;
      cumulative_.push_back(sum);
      if (top_k_ > 0 && rank + 1 == top_k_) return false;
      return params_.top_p >= 1.0F || sum < nucleus;
    });
    const auto chosen = std::upper_bound(cumulative_.begin(), cumulative_.end() - 1, uniform * sum);
    return ranking_.token(static_cast<size_t>(chosen - cumulative_.begin()));
  }

  const SamplingParams& params_;
  std::span<const float> logits_;
  TokenRanking& ranking_;
  std::vector<double>& cumulative_;
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
  const double raw_max = static_cast<double>(ranking.max());
  double raw_log_sum = 0.0;
  const auto logprob = [&](float raw) {
    return static_cast<float>((static_cast<double>(raw) - raw_max) - raw_log_sum);
  };
  if (wants_logprobs) {
    raw_log_sum = std::log(exp_weight_sum(logits, ranking.max(), 1.0F));
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

  draw.token_id = params.temperature == 0.0F
                      ? ranking.best()
                      : TokenDraw(params, logits, &buffers)
                            .draw(static_cast<double>(
                                counter_uniform(params.seed, static_cast<uint64_t>(position))));
  if (wants_logprobs) draw.logprob = logprob(slot.raw_logit(draw.token_id, logits));
  if (params.has_penalties()) slot.add(draw.token_id, true);
  return draw;
}

float counter_uniform(uint64_t seed, uint64_t position) {
  const std::array<uint32_t, 4> bits =
      philox4x32_10({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<float>(bits[0] >> 8) * 0x1p-24F;
}

}  // namespace phalanx
