// Random workloads on the scheduler with a fake executor that checks every plan: every request ends
// once with the tokens of a run alone, whatever the pool, the pipeline, the policy and the company.
#include <algorithm>
#include <deque>
#include <random>
#include <sstream>

#include <gtest/gtest.h>

#include "runtime/scheduler/scheduler.h"
#include "tests/runtime/scheduler/fake_executor.h"

namespace phalanx {
namespace {

struct Workload {
  SchedulerConfig config;
  int num_requests = 0;
  int64_t max_in_flight = 1;
  int64_t max_prompt = 0;
  int64_t max_output = 0;
  int num_salts = 1;
  int num_clients = 1;
  int num_priorities = 1;
  int cancel_percent = 0;  // of requests
  bool has_penalties = false;
};

class Simulation {
 public:
  Simulation(const Workload& workload, uint64_t seed)
      : workload_(workload),
        config_(workload.config),
        random_(seed),
        scheduler_(workload.config),
        executor_(workload.config) {
    // Few prefixes, so that prompts meet in the cache.
    for (int i = 0; i < 4; ++i) prefixes_.push_back(random_tokens(workload.max_prompt));
  }

  void run() {
    int added = 0;
    int quiet_rounds = 0;
    for (int round = 0; added < workload_.num_requests || scheduler_.has_work(); ++round) {
      ASSERT_LT(round, 400'000) << "no end in sight";
      if (added < workload_.num_requests && chance(30)) {
        const uint64_t burst = 1 + random_() % 6;
        for (uint64_t i = 0; i < burst && added < workload_.num_requests; ++i, ++added)
          add_request();
      }
      if (chance(10)) cancel_something();
      bool planned = false;
      if (scheduler_.num_in_flight() < workload_.max_in_flight && chance(70)) planned = plan();
      bool committed = false;
      if (!results_.empty() && chance(55)) committed = commit();
      if (testing::Test::HasFailure()) return;
      const bool is_idle =
          !planned && !committed && added == workload_.num_requests && results_.empty();
      quiet_rounds = is_idle ? quiet_rounds + 1 : 0;
      ASSERT_LT(quiet_rounds, 200) << "the scheduler stalls: " << open_.size() << " open requests";
    }
    finish();
  }

  const std::vector<std::string>& plans() const { return plans_; }
  SchedulerStats stats() const { return scheduler_.stats(); }

 private:
  struct Open {
    Request request;
    FakeOutput expected;
    std::vector<int32_t> tokens;
  };

  bool chance(uint64_t percent) { return random_() % 100 < percent; }

  std::vector<int32_t> random_tokens(int64_t size) {
    std::vector<int32_t> tokens(static_cast<size_t>(size));
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(random_() % static_cast<uint64_t>(config_.vocab_size));
    return tokens;
  }

  void add_request() {
    Request request;
    request.id.value = next_id_++;
    const auto size = static_cast<int64_t>(1 + random_() % workload_.max_prompt);
    const std::vector<int32_t>& prefix = prefixes_[random_() % prefixes_.size()];
    const auto num_shared = static_cast<int64_t>(random_() % (size + 1));
    request.prompt_token_ids = random_tokens(size);
    if (chance(70)) std::copy_n(prefix.begin(), num_shared, request.prompt_token_ids.begin());
    request.sampling.seed = request.id.value;
    if (workload_.has_penalties && chance(30)) request.sampling.presence_penalty = 0.5F;
    request.max_tokens = static_cast<int64_t>(1 + random_() % workload_.max_output);
    if (chance(50)) request.stop_token_ids = {static_cast<int32_t>(random_() % 4), 7};
    request.priority = static_cast<int32_t>(random_() % workload_.num_priorities);
    request.client = std::string(1, static_cast<char>('a' + random_() % workload_.num_clients));
    request.cache_salt = random_() % static_cast<uint64_t>(workload_.num_salts);
    executor_.expect_salt(request.sampling.seed, request.cache_salt);
    const RequestId id = request.id;
    Open open{request, fake_output(request, config_), {}};
    const Status status = scheduler_.add(std::move(request));
    if (status.ok()) {
      open_.emplace(id.value, std::move(open));
      return;
    }
    const int64_t pool_tokens = config_.num_blocks * config_.block_tokens;
    EXPECT_TRUE(status.error().code == ErrorCode::kResourceExhausted || size > pool_tokens ||
                size >= config_.max_context_tokens)
        << status.error().message;
  }

  void cancel_something() {
    if (open_.empty() || !chance(static_cast<uint64_t>(workload_.cancel_percent))) return;
    auto it = open_.begin();
    std::advance(it, static_cast<int64_t>(random_() % open_.size()));
    scheduler_.cancel(it->second.request.id);
    scheduler_.cancel(it->second.request.id);  // unknown by now: ignored
    open_.erase(it);
  }

  bool plan() {
    const std::optional<StepPlan> plan = scheduler_.plan();
    for (const RequestUpdate& update : scheduler_.take_failures()) take_failure(update);
    if (!plan) return false;
    EXPECT_EQ(encode_step_plan(*plan), scheduler_.encoded_plan());
    EXPECT_LE(scheduler_.encoded_plan().size(), max_plan_bytes(config_));
    plans_.push_back(scheduler_.encoded_plan());
    EXPECT_TRUE(config_.pp_size > 1 || !plan->sequences.empty());
    results_.push_back(executor_.execute(scheduler_.encoded_plan()));
    const SchedulerStats stats = scheduler_.stats();
    // What the scheduler counts as used is in some rank's table: no block is lost.
    EXPECT_LE(config_.num_blocks - stats.num_free_blocks, executor_.num_held_blocks());
    EXPECT_LE(stats.num_cached_blocks, stats.num_free_blocks);
    EXPECT_EQ(stats.num_computed_tokens, executor_.num_rows());
    return true;
  }

  bool commit() {
    for (const RequestUpdate& update : scheduler_.commit(results_.front())) take_update(update);
    results_.pop_front();
    return true;
  }

  void take_update(const RequestUpdate& update) {
    const auto found = open_.find(update.id.value);
    ASSERT_NE(found, open_.end()) << "an update for request " << update.id.value << " that ended";
    Open& open = found->second;
    EXPECT_TRUE(update.has_token || update.finished);
    const auto num_prompt = static_cast<int64_t>(open.request.prompt_token_ids.size());
    EXPECT_LT(update.num_cached_tokens, open.tokens.empty() ? num_prompt : 1);
    if (update.has_token) open.tokens.push_back(update.token.token_id);
    ASSERT_LE(open.tokens.size(), open.expected.tokens.size());
    if (!update.finished) return;
    EXPECT_EQ(open.tokens, open.expected.tokens) << "request " << update.id.value;
    EXPECT_EQ(update.reason, open.expected.reason);
    open_.erase(found);
  }

  void take_failure(const RequestUpdate& update) {
    const auto found = open_.find(update.id.value);
    ASSERT_NE(found, open_.end());
    EXPECT_TRUE(update.finished && !update.has_token);
    EXPECT_EQ(update.reason, FinishReason::kError);
    EXPECT_FALSE(update.error.empty());
    // Only what can never fit may fail.
    const Open& open = found->second;
    const int64_t total = std::min(
        static_cast<int64_t>(open.request.prompt_token_ids.size()) + open.request.max_tokens,
        config_.max_context_tokens);
    EXPECT_GT(total - 1, config_.num_blocks * config_.block_tokens) << update.error;
    EXPECT_TRUE(std::equal(open.tokens.begin(), open.tokens.end(), open.expected.tokens.begin()));
    open_.erase(found);
  }

  void finish() {
    EXPECT_TRUE(open_.empty()) << open_.size() << " requests never ended";
    const SchedulerStats stats = scheduler_.stats();
    EXPECT_EQ(stats.num_free_blocks, config_.num_blocks) << "blocks leaked";
    EXPECT_EQ(stats.num_waiting, 0);
    EXPECT_EQ(stats.num_running, 0);
    EXPECT_EQ(scheduler_.num_in_flight(), 0);
    EXPECT_EQ(scheduler_.plan(), std::nullopt);
    EXPECT_TRUE(scheduler_.make_stop_plan().stop);
    executor_.execute(scheduler_.encoded_plan());
    EXPECT_EQ(executor_.num_slots(), 0U);
    EXPECT_THROW(scheduler_.plan(), InternalError);
  }

  Workload workload_;
  SchedulerConfig config_;
  std::mt19937_64 random_;
  Scheduler scheduler_;
  FakeExecutor executor_;
  std::vector<std::vector<int32_t>> prefixes_;
  std::map<uint64_t, Open> open_;
  std::deque<StepResult> results_;
  std::vector<std::string> plans_;
  uint64_t next_id_ = 1;
};

Workload random_workload(uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto pick = [&](std::initializer_list<int64_t> values) {
    return *(values.begin() + static_cast<int64_t>(random() % values.size()));
  };
  Workload workload;
  SchedulerConfig& config = workload.config;
  config.block_tokens = pick({1, 2, 4, 8});
  config.pp_size = static_cast<int32_t>(pick({1, 1, 2, 3, 4}));
  config.max_step_tokens = pick({1, 8, 16, 40, 200});
  config.max_chunk_tokens = pick({1, 5, 16, 64});
  config.max_sequences = pick({1, 5, 16, 16, 40});
  config.max_waiting = pick({1000, 1000, 5});
  config.max_context_tokens = pick({20, 80, 1000});
  config.vocab_size = pick({10, 50});
  config.prefix_cache = random() % 4 != 0;
  config.policy =
      random() % 3 == 0 ? SchedulingPolicy::kGuaranteedNoEvict : SchedulingPolicy::kMaxUtilization;
  config.ageing_steps = pick({1, 10, 256});
  workload.num_requests = static_cast<int>(pick({20, 60, 150}));
  workload.max_in_flight = config.pp_size + static_cast<int64_t>(random() % 2);
  workload.max_prompt = pick({1, 10, 30, 80});
  workload.max_output = pick({1, 20, 40, 80});
  workload.num_salts = static_cast<int>(pick({1, 1, 2}));
  workload.num_clients = static_cast<int>(pick({1, 3}));
  workload.num_priorities = static_cast<int>(pick({1, 3}));
  workload.cancel_percent = static_cast<int>(pick({0, 0, 30, 100}));
  workload.has_penalties = random() % 2 == 0;
  if (seed % 3 == 0) {  // many sequences that outgrow a small pool together
    config.policy = SchedulingPolicy::kMaxUtilization;
    config.max_step_tokens = pick({16, 40, 200});
    config.max_sequences = pick({8, 16});
    config.max_context_tokens = 1000;
    workload.num_requests = 60;
    workload.max_prompt = pick({10, 30});
    workload.max_output = pick({40, 80});
  }
  // From "one request barely fits" to plenty.
  const int64_t longest =
      std::min(workload.max_prompt + workload.max_output, config.max_context_tokens);
  const int64_t blocks = (longest + config.block_tokens - 1) / config.block_tokens;
  config.num_blocks = std::max<int64_t>(1, blocks * pick({1, 1, 2, 3, 10}) + pick({-3, 0, 1}));
  return workload;
}

class SchedulerProperty : public testing::TestWithParam<int> {};

TEST_P(SchedulerProperty, EveryRequestEndsOnceWithItsOwnTokens) {
  constexpr int kRunsEach = 100;
  uint64_t num_preemptions = 0;
  uint64_t num_cached_tokens = 0;
  for (int i = 0; i < kRunsEach; ++i) {
    const auto seed = static_cast<uint64_t>(GetParam() * kRunsEach + i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Workload workload = random_workload(seed);
    Simulation simulation(workload, seed);
    simulation.run();
    if (HasFailure()) return;
    const SchedulerStats stats = simulation.stats();
    num_preemptions += stats.num_preemptions;
    num_cached_tokens += stats.num_cached_tokens;
    if (workload.config.policy == SchedulingPolicy::kGuaranteedNoEvict) {
      EXPECT_EQ(stats.num_preemptions, 0U);
    }
  }
  // The workloads are worth running: they use what may go wrong.
  EXPECT_GT(num_preemptions, 400U);
  EXPECT_GT(num_cached_tokens, 1000U);
}

INSTANTIATE_TEST_SUITE_P(Seeds, SchedulerProperty, testing::Range(0, 12));

TEST(SchedulerDeterminism, SameInputsGiveTheSamePlans) {
  for (uint64_t seed = 5000; seed < 5040; ++seed) {
    Simulation a(random_workload(seed), seed);
    Simulation b(random_workload(seed), seed);
    a.run();
    b.run();
    EXPECT_EQ(a.plans(), b.plans()) << "seed " << seed;
  }
}

}  // namespace
}  // namespace phalanx
