// sampler.cpp: its uniform numbers, draws and filters against a naive sampler, penalties,
// logprobs, distribution of draws, and rows with NaN and infinity.
#include "runtime/executor/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <thread>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(CounterUniform, IsTheTop24BitsOfTheFirstWord) {
  EXPECT_EQ(counter_uniform(0, 0), static_cast<float>(0x6627e8) / 16777216.0F);
  EXPECT_NE(counter_uniform(1, 0), counter_uniform(0, 1));
  EXPECT_NE(counter_uniform(1ULL << 32, 0), counter_uniform(0, 0));
  EXPECT_NE(counter_uniform(0, 1ULL << 32), counter_uniform(0, 0));
  double sum = 0.0;
  for (uint64_t position = 0; position < 100'000; ++position) {
    const float u = counter_uniform(42, position);
    ASSERT_GE(u, 0.0F);
    ASSERT_LT(u, 1.0F);
    sum += static_cast<double>(u);
  }
  EXPECT_NEAR(sum / 100'000.0, 0.5, 0.004);
}

// The naive sampler: sorts everything, in double, with the library's exp.
struct NaiveDraw {
  std::vector<int32_t> kept;       // in order
  std::vector<double> cumulative;  // of probability, up to 1
};

std::vector<float> naive_penalties(const SequenceStart& start, std::vector<float> logits) {
  std::map<int32_t, int> generated;
  for (size_t i = 0; i < start.history.size(); ++i)
    generated[start.history[i]] += i >= static_cast<size_t>(start.num_prompt_tokens) ? 1 : 0;
  for (const auto& [token, count] : generated) {
    float& x = logits[static_cast<size_t>(token)];
    x = x > 0.0F ? x / start.sampling.repetition_penalty : x * start.sampling.repetition_penalty;
    if (count > 0) {
      x -= start.sampling.presence_penalty;
      x -= start.sampling.frequency_penalty * static_cast<float>(count);
    }
  }
  return logits;
}

NaiveDraw naive_draw(const SamplingParams& params, const std::vector<float>& logits) {
  NaiveDraw draw;
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] > -kInfinity) draw.kept.push_back(static_cast<int32_t>(i));
  const auto logit = [&](int32_t token) {
    return static_cast<double>(logits[static_cast<size_t>(token)]);
  };
  std::stable_sort(draw.kept.begin(), draw.kept.end(),
                   [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < draw.kept.size())
    draw.kept.resize(static_cast<size_t>(params.top_k));
  std::vector<double> weights;
  double sum = 0.0;
  for (const int32_t token : draw.kept) {
    weights.push_back(
        std::exp((logit(token) - logit(draw.kept[0])) / static_cast<double>(params.temperature)));
    sum += weights.back();
  }
  double before = 0.0;
  size_t num_kept = 0;
  while (num_kept < weights.size()) {
    if (num_kept > 0 && before >= static_cast<double>(params.top_p) * sum) break;
    if (num_kept > 0 && weights[num_kept] < static_cast<double>(params.min_p)) break;
    before += weights[num_kept++];
  }
  draw.kept.resize(num_kept);
  double cumulative = 0.0;
  for (size_t i = 0; i < num_kept; ++i)
    draw.cumulative.push_back(cumulative += weights[i] / before);
  return draw;
}

// The naive index that `uniform` falls on, and the distance to the nearest boundary.
std::pair<size_t, double> naive_index(const NaiveDraw& draw, double uniform) {
  const auto found = std::upper_bound(draw.cumulative.begin(), draw.cumulative.end() - 1, uniform);
  const auto index = static_cast<size_t>(found - draw.cumulative.begin());
  double distance = std::abs(uniform - draw.cumulative[index]);
  if (index > 0) distance = std::min(distance, std::abs(uniform - draw.cumulative[index - 1]));
  return {index, distance};
}

std::vector<float> random_logits(std::mt19937& random, size_t size, float spread) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> logits(size);
  for (float& x : logits) x = normal(random);
  return logits;
}

TEST(Sampler, DrawsWhatANaiveSamplerDraws) {
  std::mt19937 random(5);
  std::uniform_real_distribution<float> unit(0.0F, 1.0F);
  int near_boundary = 0;
  for (int i = 0; i < 3000; ++i) {
    const size_t vocab = 1 + random() % (i % 20 == 0 ? 30'000 : 700);
    SequenceStart start;
    SamplingParams& params = start.sampling;
    params.temperature = 0.05F + 2.0F * unit(random);
    if (random() % 2 == 0) params.top_k = static_cast<int32_t>(random() % 80);
    if (random() % 2 == 0) params.top_p = 0.01F + 0.99F * unit(random);
    if (random() % 3 == 0) params.min_p = 0.3F * unit(random) * unit(random);
    params.seed = random();
    if (random() % 3 == 0) {
      params.repetition_penalty = 0.5F + unit(random);
      params.presence_penalty = 4.0F * unit(random) - 2.0F;
      params.frequency_penalty = 4.0F * unit(random) - 2.0F;
      for (uint32_t t = random() % 60; t > 0; --t)
        start.history.push_back(static_cast<int32_t>(random() % vocab));
      start.num_prompt_tokens = static_cast<int32_t>(random() % (start.history.size() + 1));
    }
    if (random() % 4 == 0) params.num_top_logprobs = static_cast<int32_t>(random() % 21);
    std::vector<float> logits = random_logits(random, vocab, 0.2F + 4.0F * unit(random));
    if (random() % 3 == 0)
      for (float& x : logits) x = std::round(2.0F * x) / 2.0F;
    const auto position = static_cast<int64_t>(random() % 100'000);
    const NaiveDraw expected = naive_draw(params, naive_penalties(start, logits));

    Sampler sampler(static_cast<int64_t>(vocab), 2);
    sampler.start(1, start);
    std::vector<float> row = logits;
    const Draw draw = sampler.sample(1, row, position);
    const double uniform =
        static_cast<double>(counter_uniform(params.seed, static_cast<uint64_t>(position)));
    const auto [index, distance] = naive_index(expected, uniform);
    if (distance < 1e-5) {
      ++near_boundary;
      continue;
    }
    ASSERT_EQ(draw.token_id, expected.kept[index])
        << "case " << i << " vocab " << vocab << " u " << uniform << " distance " << distance;
  }
  EXPECT_LT(near_boundary, 60);
}

TEST(Sampler, FiltersKeepTheDefinedSets) {
  // Probabilities 0.4, 0.3, 0.2, 0.1 at ids 2, 0, 3, 1.
  const std::vector<float> logits = {std::log(0.3F), std::log(0.1F), std::log(0.4F),
                                     std::log(0.2F)};
  struct Case {
    int32_t top_k;
    float top_p;
    float min_p;
    std::vector<int32_t> kept;
  };
  const std::vector<Case> cases = {
      {0, 1.0F, 0.0F, {0, 1, 2, 3}},
      {1, 1.0F, 0.0F, {2}},
      {2, 1.0F, 0.0F, {0, 2}},
      {4, 1.0F, 0.0F, {0, 1, 2, 3}},
      {9, 1.0F, 0.0F, {0, 1, 2, 3}},
      {0, 0.01F, 0.0F, {2}},
      {0, 0.39F, 0.0F, {2}},
      {0, 0.41F, 0.0F, {0, 2}},
      {0, 0.75F, 0.0F, {0, 2, 3}},
      {0, 0.91F, 0.0F, {0, 1, 2, 3}},
      {0, 1.0F, 0.6F, {0, 2}},
      {0, 1.0F, 0.3F, {0, 2, 3}},
      {0, 1.0F, 1.0F, {2}},
      {3, 0.5F, 0.0F, {0, 2}},  // among the first three, 0.4 is
                                // 0.44
      {2, 0.6F, 0.0F, {0, 2}},
      {2, 0.5F, 0.0F, {2}},
      {3, 0.99F, 0.6F, {0, 2}},
  };
  for (const Case& c : cases) {
    SequenceStart start;
    start.sampling.top_k = c.top_k;
    start.sampling.top_p = c.top_p;
    start.sampling.min_p = c.min_p;
    Sampler sampler(4, 1);
    sampler.start(0, start);
    std::map<int32_t, int> counts;
    for (int64_t position = 0; position < 400; ++position) {
      std::vector<float> row = logits;
      ++counts[sampler.sample(0, row, position).token_id];
    }
    std::vector<int32_t> kept;
    for (const auto& [token, count] : counts) kept.push_back(token);
    EXPECT_EQ(kept, c.kept) << "top_k " << c.top_k << " top_p " << c.top_p << " min_p " << c.min_p;
  }
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  // Pearson's chi-square over 20 tokens; 43.8 is the 99.9th percentile for 19 degrees of freedom.
  constexpr int kTokens = 20;
  constexpr int kDraws = 200'000;
  std::mt19937 random(6);
  const std::vector<float> logits = random_logits(random, kTokens, 1.0F);
  SequenceStart start;
  start.sampling.temperature = 0.8F;
  double sum = 0.0;
  std::vector<double> expected;
  for (const float x : logits) {
    expected.push_back(std::exp(static_cast<double>(x) / 0.8));
    sum += expected.back();
  }
  for (const uint64_t seed : {1ULL, 2ULL, 1ULL << 40}) {
    start.sampling.seed = seed;
    Sampler sampler(kTokens, 1);
    sampler.start(0, start);
    std::vector<int> counts(kTokens);
    for (int64_t position = 0; position < kDraws; ++position) {
      std::vector<float> row = logits;
      ++counts[static_cast<size_t>(sampler.sample(0, row, position).token_id)];
    }
    double chi_square = 0.0;
    for (size_t i = 0; i < kTokens; ++i) {
      const double mean = kDraws * expected[i] / sum;
      chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
    }
    EXPECT_LT(chi_square, 43.8) << "seed " << seed;
  }
}

TEST(Sampler, ADrawDependsOnSeedAndPositionOnly) {
  std::mt19937 random(7);
  const std::vector<float> logits = random_logits(random, 500, 0.5F);
  SequenceStart start;
  start.sampling.seed = 9;
  Sampler sampler(500, 8);
  sampler.start(0, start);
  std::vector<int32_t> forward;
  for (int64_t position = 0; position < 50; ++position) {
    std::vector<float> row = logits;
    forward.push_back(sampler.sample(0, row, position).token_id);
  }
  sampler.start(5, start);  // another slot, backwards, as after preemptions
  for (int64_t position = 49; position >= 0; --position) {
    std::vector<float> row = logits;
    EXPECT_EQ(sampler.sample(5, row, position).token_id, forward[static_cast<size_t>(position)]);
  }
  EXPECT_GT(std::set<int32_t>(forward.begin(), forward.end()).size(), 20U);
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerIdOfTies) {
  SequenceStart start;
  start.sampling.temperature = 0.0F;
  for (const size_t vocab : {5U, 64U, 65U, 1000U, 128'256U}) {
    Sampler sampler(static_cast<int64_t>(vocab), 1);
    sampler.start(0, start);
    std::mt19937 random(8);
    for (int i = 0; i < 20; ++i) {
      std::vector<float> row = random_logits(random, vocab, 1.0F);
      const size_t a = random() % vocab;
      const size_t b = random() % vocab;
      row[a] = row[b] = 50.0F;
      EXPECT_EQ(sampler.sample(0, row, i).token_id, static_cast<int32_t>(std::min(a, b)));
    }
  }
}

TEST(Sampler, PenaltiesFollowTheHistoryOfTheSlot) {
  SequenceStart start;
  start.sampling.temperature = 0.0F;
  start.sampling.presence_penalty = 0.5F;
  start.sampling.frequency_penalty = 1.0F;
  start.history = {0, 1, 1};
  start.num_prompt_tokens = 1;  // token 1 was generated twice before a preemption
  Sampler sampler(4, 1);
  sampler.start(0, start);
  const auto next = [&](std::vector<float> row) { return sampler.sample(0, row, 0).token_id; };
  // Prompt tokens are free of presence and frequency; token 1 has lost 2.5.
  EXPECT_EQ(next({3.0F, 5.4F, 1.0F, 0.0F}), 0);  // now 0 is output, too: -1.5
  EXPECT_EQ(next({3.0F, 3.9F, 1.6F, 0.0F}), 2);  // 1.5, 1.4, 1.6
  EXPECT_EQ(next({3.0F, 3.9F, 1.6F, 0.0F}), 0);  // 2 has lost 1.5
  EXPECT_EQ(next({3.0F, 3.9F, 1.6F, 0.0F}), 1);  // 0 has lost 2.5
  sampler.release(0);
  sampler.start(0, {.sampling = start.sampling, .history = {}, .num_prompt_tokens = 0});
  EXPECT_EQ(next({3.0F, 3.9F, 1.6F, 0.0F}), 1);  // a new sequence has no past
}

TEST(Sampler, RepetitionPenaltyPushesBothSignsDown) {
  SequenceStart start;
  start.sampling.temperature = 0.0F;
  start.sampling.repetition_penalty = 2.0F;
  start.history = {0, 1};
  start.num_prompt_tokens = 2;
  Sampler sampler(3, 1);
  sampler.start(0, start);
  std::vector<float> row = {4.0F, 1.0F, 2.1F};
  EXPECT_EQ(sampler.sample(0, row, 0).token_id, 2);
  row = {-1.0F, -1.5F, -4.0F};  // 2 was drawn: -2, -3, -8
  EXPECT_EQ(sampler.sample(0, row, 1).token_id, 0);
  EXPECT_EQ(row, (std::vector<float>{-2.0F, -3.0F, -8.0F}));
}

TEST(Sampler, LogprobsAreThoseOfTheRawLogits) {
  std::mt19937 random(9);
  const std::vector<float> logits = random_logits(random, 3000, 3.0F);
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  std::vector<size_t> order(logits.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
  SequenceStart start;
  start.sampling.temperature = 1.7F;
  start.sampling.top_k = 10;
  start.sampling.repetition_penalty = 1.5F;
  start.sampling.num_top_logprobs = 20;
  start.history = {static_cast<int32_t>(order[0]), static_cast<int32_t>(order[1])};
  start.num_prompt_tokens = 2;
  Sampler sampler(3000, 1);
  sampler.start(0, start);
  for (int64_t position = 0; position < 30; ++position) {
    std::vector<float> row = logits;
    const Draw draw = sampler.sample(0, row, position);
    const auto expected = [&](size_t token) {
      return static_cast<double>(logits[token]) - std::log(sum);
    };
    EXPECT_NEAR(static_cast<double>(draw.logprob), expected(static_cast<size_t>(draw.token_id)),
                2e-6);
    ASSERT_EQ(draw.top_logprobs.size(), 20U);
    for (size_t rank = 0; rank < 20; ++rank) {
      EXPECT_EQ(draw.top_logprobs[rank].first, static_cast<int32_t>(order[rank]));
      EXPECT_NEAR(static_cast<double>(draw.top_logprobs[rank].second), expected(order[rank]), 2e-6);
    }
  }
}

TEST(Sampler, LogprobsOnlyWhenAskedAndNoMoreThanExist) {
  Sampler sampler(5, 1);
  SequenceStart start;
  start.sampling.temperature = 0.0F;
  const std::vector<float> logits = {0.0F, -kInfinity, 1.0F, kNan, 0.5F};
  const auto draw_with = [&](int32_t num_top_logprobs) {
    start.sampling.num_top_logprobs = num_top_logprobs;
    sampler.start(0, start);
    std::vector<float> row = logits;
    return sampler.sample(0, row, 0);
  };
  EXPECT_EQ(draw_with(-1).logprob, 0.0F);
  EXPECT_TRUE(draw_with(0).top_logprobs.empty());
  EXPECT_NEAR(draw_with(0).logprob, -std::log(1.0F + std::exp(-0.5F) + std::exp(-1.0F)), 1e-6F);
  EXPECT_EQ(draw_with(1).top_logprobs.size(), 1U);
  EXPECT_EQ(draw_with(20).top_logprobs.size(), 3U);
  EXPECT_EQ(draw_with(20).token_id, 2);
}

TEST(Sampler, NanAndInfinityNeverConfuseADraw) {
  for (const float temperature : {0.0F, 1.0F, 1e-38F}) {
    SequenceStart start;
    start.sampling.temperature = temperature;
    start.sampling.num_top_logprobs = 3;
    Sampler sampler(4, 1);
    sampler.start(0, start);
    for (int64_t position = 0; position < 50; ++position) {
      std::vector<float> row = {kNan, 1.0F, kNan, -kInfinity};
      const Draw draw = sampler.sample(0, row, position);
      ASSERT_EQ(draw.token_id, 1);
      ASSERT_EQ(draw.logprob, 0.0F);
      row = {0.0F, kNan, kInfinity, 5.0F};
      ASSERT_EQ(sampler.sample(0, row, position).token_id, 2);
      row = {-kInfinity, kInfinity, -3e38F, 3e38F};
      const Draw extreme = sampler.sample(0, row, position);
      ASSERT_EQ(extreme.token_id, 1);
      for (const auto& [token, logprob] : extreme.top_logprobs) ASSERT_FALSE(std::isnan(logprob));
    }
    std::vector<float> nothing = {kNan, kNan, -kInfinity, kNan};
    EXPECT_THROW(sampler.sample(0, nothing, 0), InternalError);
    std::vector<float> infinite = {kInfinity, kNan, -kInfinity, kNan};
    EXPECT_THROW(sampler.sample(0, infinite, 0), InternalError);
  }
}

TEST(Sampler, MisuseIsAnInternalError) {
  Sampler sampler(4, 2);
  std::vector<float> row(4);
  EXPECT_THROW(sampler.sample(0, row, 0), InternalError);
  EXPECT_THROW(sampler.start(2, {}), InternalError);
  sampler.start(1, {});
  std::vector<float> short_row(3);
  EXPECT_THROW(sampler.sample(1, short_row, 0), InternalError);
  SequenceStart start;
  start.sampling.presence_penalty = 1.0F;
  start.history = {4};
  EXPECT_THROW(sampler.start(0, start), InternalError);
  sampler.release(1);
  EXPECT_THROW(sampler.sample(1, row, 0), InternalError);
  sampler.release(1);  // releasing twice is harmless
}

TEST(Sampler, SlotsAreIndependentAcrossThreads) {
  constexpr size_t kVocab = 4000;
  SequenceStart start;
  start.sampling.top_p = 0.9F;
  start.sampling.frequency_penalty = 0.5F;
  const auto run_slot = [&](Sampler& sampler, uint32_t slot) {
    std::mt19937 random(slot);
    std::vector<int32_t> tokens;
    for (int64_t position = 0; position < 40; ++position) {
      std::vector<float> row = random_logits(random, kVocab, 2.0F);
      tokens.push_back(sampler.sample(slot, row, position).token_id);
    }
    return tokens;
  };
  Sampler alone(kVocab, 4);
  Sampler together(kVocab, 4);
  std::vector<std::vector<int32_t>> expected(4);
  std::vector<std::vector<int32_t>> got(4);
  for (uint32_t slot = 0; slot < 4; ++slot) {
    alone.start(slot, start);
    together.start(slot, start);
    expected[slot] = run_slot(alone, slot);
  }
  std::vector<std::thread> threads;
  for (uint32_t slot = 0; slot < 4; ++slot)
    threads.emplace_back([&, slot] { got[slot] = run_slot(together, slot); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(got, expected);
}

}  // namespace
}  // namespace phalanx
