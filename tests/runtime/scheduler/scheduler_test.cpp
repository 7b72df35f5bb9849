// scheduler.cpp: tables of operations and the plans they must give, one concept a test.
#include "runtime/scheduler/scheduler.h"

#include <algorithm>
#include <deque>
#include <numeric>
#include <sstream>

#include <gtest/gtest.h>

#include "tests/runtime/scheduler/fake_executor.h"

namespace phalanx {
namespace {

// "#step" "-released slots" then for each sequence "| slot[*] first+rows [blocks] [!]": '*' where
// it starts, "+=" for the token that the slot drew last, '!' where it samples.
std::string render(const std::optional<StepPlan>& plan) {
  if (!plan) return "none";
  std::ostringstream text;
  const auto list = [&](const auto& values) {
    for (size_t i = 0; i < values.size(); ++i) text << (i > 0 ? "," : "") << values[i];
  };
  text << '#' << plan->step;
  if (!plan->released_slots.empty()) {
    text << " -";
    list(plan->released_slots);
  }
  for (const SequencePlan& sequence : plan->sequences) {
    text << " | " << sequence.slot << (sequence.starts ? "* " : " ") << sequence.first_position;
    if (sequence.token_ids.empty()) {
      text << "+=";
    } else {
      text << '+' << sequence.token_ids.size();
    }
    if (!sequence.appended_block_ids.empty()) {
      text << " [";
      list(sequence.appended_block_ids);
      text << ']';
    }
    if (sequence.samples) text << " !";
  }
  return text.str();
}

std::string render(const std::vector<RequestUpdate>& updates) {
  std::ostringstream text;
  for (const RequestUpdate& update : updates) {
    text << (text.tellp() > 0 ? " " : "") << update.id.value << ':';
    if (update.has_token) text << update.token.token_id;
    if (!update.finished) continue;
    switch (update.reason) {
      case FinishReason::kStop:
        text << " stop";
        break;
      case FinishReason::kLength:
        text << " length";
        break;
      case FinishReason::kCancelled:
        text << " cancelled";
        break;
      case FinishReason::kError:
        text << " error";
        break;
    }
  }
  return text.str();
}

SchedulerConfig small_config() {
  SchedulerConfig config;
  config.num_blocks = 16;
  config.block_tokens = 4;
  config.max_step_tokens = 16;
  config.max_chunk_tokens = 8;
  config.max_sequences = 4;
  config.max_context_tokens = 64;
  config.vocab_size = 1000;
  return config;
}

// Drives a scheduler by hand. Every step in flight draws tokens 100, 101, ...
class Table {
 public:
  explicit Table(const SchedulerConfig& config) : scheduler(config) {}

  struct Options {
    int64_t max_tokens = 8;
    int32_t priority = 0;
    const char* client = "";
    int32_t first_token = -1;  // prompts count up from here; -1: no prompt shares a prefix
    uint64_t salt = 0;
    std::vector<int32_t> stop = {};
  };

  void add(uint64_t id, int64_t prompt_tokens, const Options& options) {
    Request request;
    request.id.value = id;
    request.prompt_token_ids.resize(static_cast<size_t>(prompt_tokens));
    const int32_t first =
        options.first_token >= 0 ? options.first_token : static_cast<int32_t>(200 + 7 * id % 700);
    std::iota(request.prompt_token_ids.begin(), request.prompt_token_ids.end(), first);
    request.max_tokens = options.max_tokens;
    request.priority = options.priority;
    request.client = options.client;
    request.cache_salt = options.salt;
    request.stop_token_ids = options.stop;
    const Status status = scheduler.add(std::move(request));
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  void add(uint64_t id, int64_t prompt_tokens) { add(id, prompt_tokens, Options()); }

  std::string plan() {
    const std::optional<StepPlan> plan = scheduler.plan();
    if (plan) in_flight_.push_back(*plan);
    return render(plan);
  }

  std::string commit() {
    const StepPlan plan = in_flight_.front();
    in_flight_.pop_front();
    StepResult result;
    result.step = plan.step;
    for (const SequencePlan& sequence : plan.sequences) {
      if (!sequence.samples) continue;
      SampledToken token;
      token.slot = sequence.slot;
      token.token_id = next_token++;
      result.tokens.push_back(token);
    }
    return render(scheduler.commit(result));
  }

  std::string plan_and_commit() {
    std::string text = plan();
    if (text != "none") commit();
    return text;
  }

  Scheduler scheduler;
  int32_t next_token = 100;

 private:
  std::deque<StepPlan> in_flight_;
};

TEST(Scheduler, OneRequestFromPromptToEnd) {
  Table table(small_config());
  EXPECT_FALSE(table.scheduler.has_work());
  EXPECT_EQ(table.plan(), "none");
  table.add(1, 6, {.max_tokens = 4});
  EXPECT_EQ(table.plan(), "#0 | 0* 0+6 [0,1] !");
  EXPECT_EQ(table.commit(), "1:100");
  EXPECT_EQ(table.plan(), "#1 | 0 6+= !");
  EXPECT_EQ(table.commit(), "1:101");
  EXPECT_EQ(table.plan(), "#2 | 0 7+= !");
  EXPECT_EQ(table.commit(), "1:102");
  EXPECT_EQ(table.plan(), "#3 | 0 8+= [2] !");
  EXPECT_EQ(table.commit(), "1:103 length");
  EXPECT_EQ(table.plan(), "none");
  EXPECT_FALSE(table.scheduler.has_work());
  EXPECT_EQ(table.scheduler.stats().num_free_blocks, 16);
  const StepPlan stop = table.scheduler.make_stop_plan();
  EXPECT_EQ(stop.step, 4U);
  EXPECT_EQ(stop.released_slots, std::vector<uint32_t>{0});
}

TEST(Scheduler, PlansAreChainedByHash) {
  Table table(small_config());
  table.add(1, 3);
  uint64_t hash = 0;
  for (uint64_t step = 0; step < 4; ++step) {
    const std::optional<StepPlan> plan = table.scheduler.plan();
    ASSERT_TRUE(plan.has_value());
    EXPECT_EQ(plan->step, step);
    EXPECT_EQ(plan->previous_hash, hash);
    const std::string encoded = encode_step_plan(*plan);
    EXPECT_EQ(encoded, table.scheduler.encoded_plan());
    hash = step_plan_hash(std::as_bytes(std::span(encoded.data(), encoded.size())));
  }
  EXPECT_EQ(table.scheduler.make_stop_plan().previous_hash, hash);
}

TEST(Scheduler, PlansAheadOfCommits) {
  Table table(small_config());
  table.add(1, 3, {.max_tokens = 3});
  EXPECT_EQ(table.plan(), "#0 | 0* 0+3 [0] !");
  EXPECT_EQ(table.plan(), "#1 | 0 3+= !");
  EXPECT_EQ(table.plan(), "#2 | 0 4+= [1] !");
  EXPECT_EQ(table.plan(), "none");  // its three tokens are on their way
  EXPECT_EQ(table.scheduler.num_in_flight(), 3);
  EXPECT_EQ(table.commit(), "1:100");
  EXPECT_EQ(table.commit(), "1:101");
  EXPECT_EQ(table.plan(), "none");
  EXPECT_TRUE(table.scheduler.has_work());
  EXPECT_EQ(table.commit(), "1:102 length");
  EXPECT_FALSE(table.scheduler.has_work());
}

TEST(Scheduler, BlocksAndSlotOfAFullyPlannedSequenceServeTheNextAtOnce) {
  SchedulerConfig config = small_config();
  config.num_blocks = 2;
  config.max_sequences = 1;
  Table table(config);
  table.add(1, 7, {.max_tokens = 2});
  table.add(2, 8, {.max_tokens = 1});
  EXPECT_EQ(table.plan(), "#0 | 0* 0+7 [0,1] !");
  EXPECT_EQ(table.plan(), "#1 | 0 7+= !");
  EXPECT_EQ(table.plan(), "#2 -0 | 0* 0+8 [1,0] !");
  EXPECT_EQ(table.commit(), "1:100");
  EXPECT_EQ(table.commit(), "1:101 length");
  EXPECT_EQ(table.commit(), "2:102 length");
}

TEST(Scheduler, AStopTokenEndsItAndTokensPlannedAheadAreDropped) {
  Table table(small_config());
  table.add(1, 3, {.stop = {5, 101}});
  table.add(2, 2);
  EXPECT_EQ(table.plan(), "#0 | 0* 0+3 [0] ! | 1* 0+2 [1] !");
  EXPECT_EQ(table.plan(), "#1 | 0 3+= ! | 1 2+= !");
  EXPECT_EQ(table.commit(), "1:100 2:101");  // 101 stops request 1 only
  table.next_token = 101;
  EXPECT_EQ(table.plan(), "#2 | 0 4+= [2] ! | 1 3+= !");
  EXPECT_EQ(table.commit(), "1: stop 2:102");
  EXPECT_EQ(table.plan(), "#3 -0 | 1 4+= [2] !");  // its block is used again behind step 2
  EXPECT_EQ(table.commit(), "2:104");              // 103 was for request 1
  EXPECT_EQ(table.commit(), "2:105");
}

TEST(Scheduler, DecodesFirstThenChunksUnderTheCap) {
  Table table(small_config());
  table.add(1, 2);
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+2 [0] !");
  table.add(2, 30);
  table.add(3, 3);
  // Beside a decode, prompts take 8 rows: a long one leaves half of them to a newcomer.
  EXPECT_EQ(table.plan_and_commit(), "#1 | 0 2+= ! | 1* 0+4 [1,2,3,4,5,6,7,8] | 2* 0+3 [9] !");
  EXPECT_EQ(table.plan_and_commit(), "#2 | 0 3+= ! | 2 3+= ! | 1 4+4");
  EXPECT_EQ(table.plan_and_commit(), "#3 | 0 4+= [10] ! | 2 4+= [11] ! | 1 8+4");
}

TEST(Scheduler, AChunkAloneTakesTheWholeBudget) {
  Table table(small_config());
  table.add(1, 40, {.max_tokens = 2});
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+16 [0,1,2,3,4,5,6,7,8,9]");
  EXPECT_EQ(table.plan_and_commit(), "#1 | 0 16+16");
  EXPECT_EQ(table.plan_and_commit(), "#2 | 0 32+8 !");
}

TEST(Scheduler, NobodyIsAdmittedWhileDecodesTakeTheWholeBudget) {
  SchedulerConfig config = small_config();
  config.max_step_tokens = 2;
  Table table(config);
  table.add(1, 1);
  table.add(2, 1, {.max_tokens = 2});
  table.add(3, 1);
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+1 [0] ! | 1* 0+1 [1] !");
  EXPECT_EQ(table.plan_and_commit(), "#1 | 0 1+= ! | 1 1+= !");
  EXPECT_EQ(table.plan_and_commit(), "#2 -1 | 0 2+= ! | 1* 0+1 [1] !");
}

TEST(Scheduler, APromptIsServedFromTheCacheButForItsLastToken) {
  Table table(small_config());
  table.add(1, 8, {.max_tokens = 1, .first_token = 10});
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+8 [0,1] !");
  table.add(2, 8, {.max_tokens = 1, .first_token = 10});
  EXPECT_EQ(table.plan_and_commit(), "#1 -0 | 0* 4+4 [0,2] !");
  table.add(3, 9, {.max_tokens = 1, .first_token = 10});
  EXPECT_EQ(table.plan_and_commit(), "#2 -0 | 0* 8+1 [0,1,2] !");
  table.add(4, 9, {.max_tokens = 1, .first_token = 10, .salt = 1});
  EXPECT_EQ(table.plan_and_commit(), "#3 -0 | 0* 0+9 [2,3,4] !");
  const SchedulerStats stats = table.scheduler.stats();
  EXPECT_EQ(stats.num_prompt_tokens, 34U);
  EXPECT_EQ(stats.num_cached_tokens, 12U);
  EXPECT_EQ(stats.num_free_blocks, 16);
  EXPECT_EQ(stats.num_cached_blocks, 4);
}

TEST(Scheduler, TheCacheIsSharedWhileItsOwnerRunsButNotWithinAStep) {
  Table table(small_config());
  table.add(1, 6, {.first_token = 10});
  table.add(2, 6, {.first_token = 10});
  EXPECT_EQ(table.plan(), "#0 | 0* 0+6 [0,1] ! | 1* 0+6 [2,3] !");
  table.add(3, 6, {.first_token = 10});
  EXPECT_EQ(table.plan(), "#1 | 0 6+= ! | 1 6+= ! | 2* 4+2 [0,4] !");  // step 0 is in flight
}

TEST(Scheduler, GeneratedTokensAreCachedOnceTheyAreKnown) {
  Table table(small_config());
  table.add(1, 3, {.max_tokens = 3});
  for (int step = 0; step < 3; ++step) table.plan_and_commit();
  // Prompt 207, 208, 209 and the generated 100 fill a block; 101 and 102 followed.
  Request request;
  request.id.value = 2;
  request.prompt_token_ids = {207, 208, 209, 100, 101, 102};
  request.max_tokens = 1;
  ASSERT_TRUE(table.scheduler.add(request).ok());
  EXPECT_EQ(table.plan(), "#3 -0 | 0* 4+2 [0,1] !");
}

TEST(Scheduler, CachedTokensAreReportedWithTheFirstToken) {
  Table table(small_config());
  table.add(1, 9, {.max_tokens = 1, .first_token = 10});
  table.plan_and_commit();
  table.add(2, 9, {.max_tokens = 2, .first_token = 10});
  const std::optional<StepPlan> first = table.scheduler.plan();
  std::vector<RequestUpdate> updates =
      table.scheduler.commit({.step = 1, .tokens = {{.slot = 0, .token_id = 1}}});
  ASSERT_EQ(updates.size(), 1U);
  EXPECT_EQ(updates[0].num_cached_tokens, 8);
  table.scheduler.plan();
  updates = table.scheduler.commit({.step = 2, .tokens = {{.slot = 0, .token_id = 1}}});
  EXPECT_EQ(updates[0].num_cached_tokens, 0);
}

TEST(Scheduler, PreemptsTheLatestAndItComesBackFromItsCachedBlocks) {
  SchedulerConfig config = small_config();
  config.num_blocks = 4;
  Table table(config);
  table.add(1, 7, {.max_tokens = 6});
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+7 [0,1] !");
  table.add(2, 3, {.max_tokens = 6});
  EXPECT_EQ(table.plan_and_commit(), "#1 | 0 7+= ! | 1* 0+3 [2] !");
  EXPECT_EQ(table.plan_and_commit(), "#2 | 0 8+= [3] ! | 1 3+= !");
  // Request 2 needs a second block and is itself the latest: it gives its own back.
  EXPECT_EQ(table.plan_and_commit(), "#3 -1 | 0 9+= !");
  EXPECT_EQ(table.scheduler.stats().num_preemptions, 1U);
  EXPECT_EQ(table.scheduler.stats().num_waiting, 1);
  EXPECT_EQ(table.plan_and_commit(), "#4 | 0 10+= !");
  EXPECT_EQ(table.plan_and_commit(), "#5 | 0 11+= !");
  // Three prompt and two generated tokens; four of them are still in block 2.
  EXPECT_EQ(table.plan(), "#6 -0 | 0* 4+1 [2,3] !");
  EXPECT_EQ(table.commit(), "2:108");
}

TEST(Scheduler, AnEarlierOneTakesTheBlocksOfTheLatest) {
  SchedulerConfig config = small_config();
  config.num_blocks = 4;
  config.prefix_cache = false;
  Table table(config);
  table.add(1, 7);
  table.add(2, 4);
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+7 [0,1] ! | 1* 0+4 [2] !");
  EXPECT_EQ(table.plan_and_commit(), "#1 | 0 7+= ! | 1 4+= [3] !");
  EXPECT_EQ(table.plan_and_commit(), "#2 -1 | 0 8+= [2] !");
  EXPECT_EQ(table.scheduler.stats().num_preemptions, 1U);
}

TEST(Scheduler, AHigherPriorityIsNotTheVictim) {
  SchedulerConfig config = small_config();
  config.num_blocks = 4;
  config.prefix_cache = false;
  Table table(config);
  table.add(1, 7, {.priority = 1});
  table.add(2, 4);
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+4 [0] ! | 1* 0+7 [1,2] !");
  EXPECT_EQ(table.plan_and_commit(), "#1 | 0 4+= [3] ! | 1 7+= !");
  EXPECT_EQ(table.plan_and_commit(), "#2 -1 | 0 5+= !");  // request 1 gives way itself
}

TEST(Scheduler, APreemptedSequenceWaitsForItsTokensInFlight) {
  SchedulerConfig config = small_config();
  config.num_blocks = 3;
  config.prefix_cache = false;
  Table table(config);
  table.add(1, 3, {.max_tokens = 6});
  table.add(2, 3, {.max_tokens = 6});
  EXPECT_EQ(table.plan(), "#0 | 0* 0+3 [0] ! | 1* 0+3 [1] !");
  EXPECT_EQ(table.plan(), "#1 | 0 3+= ! | 1 3+= !");
  EXPECT_EQ(table.plan(), "#2 -1 | 0 4+= [2] !");  // request 2 gives way, two tokens in flight
  EXPECT_EQ(table.commit(), "1:100 2:101");
  EXPECT_EQ(table.scheduler.stats().num_waiting, 0);
  EXPECT_EQ(table.commit(), "1:102 2:103");  // both kept
  EXPECT_EQ(table.scheduler.stats().num_waiting, 1);
  for (int step = 3; step < 6; ++step) {
    EXPECT_EQ(table.plan(),
              "#" + std::to_string(step) + " | 0 " + std::to_string(step + 2) + "+= !");
  }
  EXPECT_EQ(table.plan(), "#6 -0 | 0* 0+5 [0,2] !");  // prompt and both tokens
}

TEST(Scheduler, APreemptedSequenceCanEndByATokenInFlight) {
  SchedulerConfig config = small_config();
  config.num_blocks = 3;
  config.prefix_cache = false;
  Table table(config);
  table.add(1, 3, {.max_tokens = 6});
  table.add(2, 3, {.max_tokens = 6, .stop = {103}});
  table.plan();
  table.plan();
  EXPECT_EQ(table.plan(), "#2 -1 | 0 4+= [2] !");
  EXPECT_EQ(table.commit(), "1:100 2:101");
  EXPECT_EQ(table.commit(), "1:102 2: stop");
  EXPECT_EQ(table.scheduler.stats().num_waiting, 0);
  EXPECT_EQ(table.scheduler.stats().num_finished, 1U);
}

TEST(Scheduler, ARequestThatOutgrowsThePoolAloneFailsWithAClearError) {
  SchedulerConfig config = small_config();
  config.num_blocks = 2;
  Table table(config);
  table.add(1, 7, {.max_tokens = 30});
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+7 [0,1] !");
  EXPECT_EQ(table.plan(), "#1 | 0 7+= !");
  EXPECT_EQ(table.plan(), "none");  // a token in flight may end it
  EXPECT_TRUE(table.scheduler.take_failures().empty());
  EXPECT_EQ(table.commit(), "1:101");
  EXPECT_EQ(table.plan(), "none");
  const std::vector<RequestUpdate> failures = table.scheduler.take_failures();
  EXPECT_EQ(render(failures), "1: error");
  EXPECT_NE(failures[0].error.find("2 blocks of 4 tokens"), std::string::npos) << failures[0].error;
  EXPECT_TRUE(table.scheduler.take_failures().empty());
  EXPECT_FALSE(table.scheduler.has_work());
  EXPECT_EQ(table.scheduler.stats().num_free_blocks, 2);
}

TEST(Scheduler, GuaranteedNoEvictAdmitsWhatSurelyFitsAndFailsWhatNeverCan) {
  SchedulerConfig config = small_config();
  config.policy = SchedulingPolicy::kGuaranteedNoEvict;
  config.num_blocks = 6;
  Table table(config);
  table.add(1, 4, {.max_tokens = 13});  // four blocks at its longest
  table.add(2, 4, {.max_tokens = 22});  // seven: never
  table.add(3, 4, {.max_tokens = 9});   // three: not beside request 1
  table.add(4, 4, {.max_tokens = 5});   // two, but it came later
  EXPECT_EQ(table.plan_and_commit(), "#0 | 0* 0+4 [0] !");
  const std::vector<RequestUpdate> failures = table.scheduler.take_failures();
  EXPECT_EQ(render(failures), "2: error");
  EXPECT_NE(failures[0].error.find("6 blocks of 4 tokens"), std::string::npos) << failures[0].error;
  for (int step = 1; step < 12; ++step) table.plan_and_commit();
  EXPECT_EQ(render(table.scheduler.take_failures()), "");
  EXPECT_EQ(table.plan(), "#12 | 0 15+= !");
  EXPECT_EQ(table.plan().substr(0, 25), "#13 -0 | 0* 0+4 [4] ! | 1");
}

TEST(Scheduler, AddNamesWhatIsWrong) {
  SchedulerConfig config = small_config();
  config.max_waiting = 2;
  config.num_blocks = 4;
  Scheduler scheduler(config);
  const auto error = [&](std::vector<int32_t> prompt, int64_t max_tokens) {
    Request request;
    request.id.value = 1;
    request.prompt_token_ids = std::move(prompt);
    request.max_tokens = max_tokens;
    const Status status = scheduler.add(std::move(request));
    EXPECT_FALSE(status.ok());
    return std::string(error_code_name(status.error().code)) + " " + status.error().message;
  };
  EXPECT_NE(error({}, 1).find("prompt_token_ids is empty"), std::string::npos);
  EXPECT_NE(error({1, 1000}, 1).find("prompt_token_ids[1] is 1000"), std::string::npos);
  EXPECT_NE(error({-1}, 1).find("[0, 999]"), std::string::npos);
  EXPECT_NE(error({1}, 0).find("max_tokens is 0"), std::string::npos);
  EXPECT_NE(error(std::vector<int32_t>(64, 1), 1).find("at most 63"), std::string::npos);
  EXPECT_NE(error(std::vector<int32_t>(17, 1), 1).find("at most 16"), std::string::npos);
  EXPECT_EQ(scheduler.stats().num_waiting, 0);
  for (uint64_t id = 1; id <= 2; ++id) {
    Request request;
    request.id.value = id;
    request.prompt_token_ids = {1};
    EXPECT_TRUE(scheduler.add(std::move(request)).ok());
  }
  EXPECT_EQ(error({1}, 1).substr(0, 18), "resource_exhausted");
}

TEST(Scheduler, MaxTokensIsCutToTheContext) {
  SchedulerConfig config = small_config();
  config.max_context_tokens = 8;
  Table table(config);
  table.add(1, 6, {.max_tokens = 1'000'000'000'000});
  EXPECT_EQ(table.plan(), "#0 | 0* 0+6 [0,1] !");
  EXPECT_EQ(table.plan(), "#1 | 0 6+= !");
  EXPECT_EQ(table.plan(), "none");
  EXPECT_EQ(table.commit(), "1:100");
  EXPECT_EQ(table.commit(), "1:101 length");
}

TEST(Scheduler, CancelFreesBeforeTheNextPlanInEveryPhase) {
  SchedulerConfig config = small_config();
  config.num_blocks = 4;
  config.max_sequences = 2;
  config.prefix_cache = false;
  Table table(config);
  table.add(1, 8);
  table.add(2, 4);
  table.add(3, 4);  // waits for a slot
  EXPECT_EQ(table.plan(), "#0 | 0* 0+8 [0,1] ! | 1* 0+4 [2] !");
  table.scheduler.cancel({1});  // running, with a token in flight
  EXPECT_EQ(table.scheduler.stats().num_free_blocks, 3);
  table.scheduler.cancel({3});   // waiting
  table.scheduler.cancel({77});  // unknown
  EXPECT_EQ(table.plan(), "#1 -0 | 1 4+= [0] !");
  EXPECT_EQ(table.commit(), "2:101");
  EXPECT_EQ(table.commit(), "2:102");
  table.scheduler.cancel({2});
  EXPECT_FALSE(table.scheduler.has_work());
  EXPECT_EQ(table.scheduler.stats().num_free_blocks, 4);
  table.add(4, 1, {.max_tokens = 1});
  EXPECT_EQ(table.plan().substr(0, 5), "#2 -1");
  table.scheduler.cancel({4});  // fully planned
  EXPECT_TRUE(table.scheduler.has_work());
  EXPECT_EQ(table.commit(), "");
  EXPECT_FALSE(table.scheduler.has_work());
}

TEST(Scheduler, MicroBatchesShareTheSequencesAndRotate) {
  SchedulerConfig config = small_config();
  config.pp_size = 2;
  config.prefix_cache = false;
  Table table(config);
  table.add(1, 2);
  EXPECT_EQ(table.plan(), "#0 | 0* 0+2 [0] !");
  EXPECT_EQ(table.plan(), "#1");  // keeps the rotation
  EXPECT_EQ(table.plan(), "#2 | 0 2+= !");
  EXPECT_EQ(table.commit(), "1:100");
  for (uint64_t id = 2; id <= 4; ++id) table.add(id, 2);
  EXPECT_EQ(table.plan(), "#3 | 1* 0+2 [1] ! | 2* 0+2 [2] !");
  EXPECT_EQ(table.plan(), "#4 | 0 3+= ! | 3* 0+2 [3] !");
  EXPECT_EQ(table.plan(), "#5 | 1 2+= ! | 2 2+= !");
  for (uint64_t id = 1; id <= 4; ++id) table.scheduler.cancel({id});
  EXPECT_EQ(table.plan(), "none");
}

TEST(Scheduler, PrefillsAreCappedWhenStagesWaitForEachOther) {
  SchedulerConfig config = small_config();
  config.pp_size = 2;
  Table table(config);
  table.add(1, 20);
  EXPECT_EQ(table.plan(), "#0 | 0* 0+8 [0,1,2,3,4]");
  EXPECT_EQ(table.plan(), "#1");
  EXPECT_EQ(table.plan(), "#2 | 0 8+4");
}

TEST(Scheduler, HistoryIsSentOnlyForPenalties) {
  Scheduler scheduler(small_config());
  for (uint64_t id = 1; id <= 2; ++id) {
    Request request;
    request.id.value = id;
    request.prompt_token_ids = {1, 2, 3};
    request.sampling.seed = 40 + id;
    request.sampling.frequency_penalty = id == 2 ? 0.5F : 0.0F;
    ASSERT_TRUE(scheduler.add(std::move(request)).ok());
  }
  const std::optional<StepPlan> plan = scheduler.plan();
  ASSERT_EQ(plan->sequences.size(), 2U);
  EXPECT_TRUE(plan->sequences[0].start.history.empty());
  EXPECT_EQ(plan->sequences[0].start.sampling.seed, 41U);
  EXPECT_EQ(plan->sequences[1].start.history, (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(plan->sequences[1].start.num_prompt_tokens, 3);
}

TEST(Scheduler, ClientsWhoBothWaitAreServedAlike) {
  SchedulerConfig config = small_config();
  config.num_blocks = 1000;
  config.max_sequences = 2;
  config.prefix_cache = false;
  Table table(config);
  constexpr int64_t kPrompt = 10;
  constexpr int64_t kOutput = 6;
  // One client floods the queue before the other comes, and asks for longer answers.
  uint64_t id = 1;
  for (; id <= 60; ++id) table.add(id, kPrompt, {.max_tokens = 2 * kOutput, .client = "flood"});
  for (int step = 0; step < 40; ++step) table.plan_and_commit();
  const uint64_t first_of_other = id;
  for (; id <= 100; ++id) table.add(id, kPrompt, {.max_tokens = kOutput, .client = "other"});

  std::map<uint64_t, int64_t> tokens;
  int64_t served[2] = {0, 0};
  int64_t finished_of_other = 0;
  while (finished_of_other < 30) {
    const std::optional<StepPlan> plan = table.scheduler.plan();
    ASSERT_TRUE(plan.has_value());
    StepResult result;
    result.step = plan->step;
    for (const SequencePlan& sequence : plan->sequences)
      if (sequence.samples) result.tokens.push_back({.slot = sequence.slot, .token_id = 1});
    for (const RequestUpdate& update : table.scheduler.commit(result)) {
      const size_t who = update.id.value >= first_of_other ? 1 : 0;
      served[who] += tokens[update.id.value]++ == 0 ? kPrompt + 2 : 2;
      finished_of_other += who == 1 && update.finished ? 1 : 0;
    }
    // Two requests each at their longest, and what was running when the other came.
    ASSERT_LE(std::abs(served[0] - served[1]), 3 * (kPrompt + 2 * 2 * kOutput));
  }
}

TEST(Scheduler, ALowPriorityIsServedInTheEnd) {
  SchedulerConfig config = small_config();
  config.max_sequences = 1;
  config.ageing_steps = 8;
  Table table(config);
  table.add(1, 1, {.max_tokens = 1, .priority = 3, .client = "patient"});
  int64_t steps = 0;
  for (uint64_t id = 2; table.scheduler.stats().num_running == 0 || id == 2; ++id) {
    table.add(id, 1, {.max_tokens = 1, .client = "urgent"});
    table.add(1000 + id, 1, {.max_tokens = 1, .client = "urgent"});
    const std::optional<StepPlan> plan = table.scheduler.plan();
    ASSERT_TRUE(plan.has_value());
    const auto updates = table.scheduler.commit(
        {.step = plan->step, .tokens = {{.slot = plan->sequences[0].slot, .token_id = 1}}});
    if (updates[0].id.value == 1) break;
    ASSERT_LT(++steps, 3 * 8 + 2);
  }
  EXPECT_GE(steps, 3 * 8 - 1);  // three levels
}

TEST(Scheduler, SenselessConfigsAndResultsAreInternalErrors) {
  for (int64_t SchedulerConfig::*field :
       {&SchedulerConfig::num_blocks, &SchedulerConfig::block_tokens,
        &SchedulerConfig::max_step_tokens, &SchedulerConfig::max_chunk_tokens,
        &SchedulerConfig::max_sequences, &SchedulerConfig::max_waiting,
        &SchedulerConfig::max_context_tokens, &SchedulerConfig::vocab_size,
        &SchedulerConfig::ageing_steps}) {
    SchedulerConfig config = small_config();
    config.*field = 0;
    EXPECT_THROW(Scheduler{config}, InternalError);
  }
  Scheduler scheduler(small_config());
  EXPECT_THROW(scheduler.commit({}), InternalError);
  Request request;
  request.id.value = 1;
  request.prompt_token_ids = {1};
  ASSERT_TRUE(scheduler.add(request).ok());
  EXPECT_THROW(static_cast<void>(scheduler.add(request)), InternalError);
  for (const StepResult& wrong :
       {StepResult{.step = 1, .tokens = {{.slot = 0, .token_id = 1}}},
        StepResult{.step = 0, .tokens = {}},
        StepResult{.step = 0, .tokens = {{.slot = 1, .token_id = 1}}},
        StepResult{.step = 0, .tokens = {{.slot = 0, .token_id = 1000}}}}) {
    Scheduler fresh(small_config());
    ASSERT_TRUE(fresh.add(request).ok());
    fresh.plan();
    EXPECT_THROW(fresh.commit(wrong), InternalError);
  }
}

// --- The size of a plan ------------------------------------------------------------------------

// Sixty long prompts that the cache knows, with penalties: each starts with one row, and brings its
// block table and its history along.
TEST(SchedulerPlanSize, ManyLongStartsSpreadOverPlans) {
  SchedulerConfig config;
  config.num_blocks = 4096;
  config.block_tokens = 32;
  config.max_sequences = 64;
  config.max_context_tokens = 20'000;
  config.max_step_tokens = 16'384;
  config.max_chunk_tokens = 16'384;
  config.vocab_size = 1 << 20;
  config.max_start_ids = 50'000;
  Scheduler scheduler(config);
  FakeExecutor executor(config);
  Request request;
  request.prompt_token_ids.assign(16'000, (1 << 20) - 1);
  request.sampling.presence_penalty = 1;
  request.max_tokens = 2;
  const auto add = [&](uint64_t id) {
    request.id.value = id;
    ASSERT_TRUE(scheduler.add(request).ok());
  };
  const auto run_plan = [&] {
    const auto plan = scheduler.plan();
    EXPECT_TRUE(plan);
    EXPECT_LE(scheduler.encoded_plan().size(), max_plan_bytes(config));
    scheduler.commit(executor.execute(scheduler.encoded_plan()));
    int num_starts = 0;
    for (const SequencePlan& sequence : plan->sequences) num_starts += sequence.starts ? 1 : 0;
    return num_starts;
  };
  add(1);
  while (scheduler.has_work()) run_plan();
  for (uint64_t id = 2; id < 62; ++id) add(id);
  int num_starts = 0;
  while (scheduler.has_work()) {
    const int now = run_plan();
    EXPECT_LE(now, 3);  // 16,500 ids each
    num_starts += now;
  }
  EXPECT_EQ(num_starts, 60);
  EXPECT_GE(scheduler.stats().num_cached_tokens, 60U * 15'000U);
}

TEST(SchedulerPlanSize, OneStartAboveTheLimitGoesAlone) {
  SchedulerConfig config = small_config();
  config.max_start_ids = 2;
  Scheduler scheduler(config);
  FakeExecutor executor(config);
  for (uint64_t id = 1; id <= 3; ++id) {
    Request request;
    request.id.value = id;
    request.prompt_token_ids.assign(5, static_cast<int32_t>(id));  // two blocks, and the history
    request.sampling.presence_penalty = 1;
    request.max_tokens = 1;
    ASSERT_TRUE(scheduler.add(request).ok());
  }
  for (int step = 0; step < 3; ++step) {
    const auto plan = scheduler.plan();
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->sequences.size(), 1U);
    scheduler.commit(executor.execute(scheduler.encoded_plan()));
  }
  EXPECT_FALSE(scheduler.has_work());
}

}  // namespace
}  // namespace phalanx
