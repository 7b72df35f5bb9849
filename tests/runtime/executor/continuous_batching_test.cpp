// In-flight batching end to end: 64 requests of mixed lengths that arrive while others run, with
// ample and with scarce KV memory, against one-at-a-time runs. Run under mpirun -np 1, 2 and 4.
#include <algorithm>
#include <numeric>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/job_harness.h"
#include "tests/support/mpi_test_main.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx {
namespace {

using parallel::test_session;
using testing::JobShape;
using testing::JobTrace;
using testing::run_job;
using testing::TimedRequest;

class ContinuousBatching : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::TinyModel model;
    model.num_heads = 8;
    model.vocab_size = 200;
    std::string path;
    if (test_session().rank() == 0)
      path = testing::build_tiny_engine(directory_.path(), model, "w8");
    path = test_session().broadcast(path, 0);
    auto opened = model::EngineFile::open(path);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    engine_ = *opened;
  }

  /// Prompts of 1 to 120 tokens, 1 to 40 new ones, each arriving at a random moment.
  static std::vector<TimedRequest> random_workload(uint32_t seed) {
    std::mt19937 random(seed);
    std::vector<TimedRequest> workload(64);
    int64_t arrival = 0;
    for (auto& [request, after] : workload) {
      request.prompt_token_ids.resize(1 + random() % 120);
      for (auto& token : request.prompt_token_ids) token = static_cast<int32_t>(random() % 200);
      request.max_tokens = 1 + random() % 40;
      request.sampling.temperature = 0.8F;
      request.sampling.seed = random();
      request.stop_token_ids = {static_cast<int32_t>(random() % 200)};
      arrival += random() % 20;
      after = arrival;
    }
    return workload;
  }

  JobShape shape() const {
    JobShape shape;
    shape.tp_size = test_session().world_size() >= 2 ? 2 : 1;
    shape.pp_size = test_session().world_size() / shape.tp_size;
    shape.num_blocks = 400;
    shape.max_step_tokens = 128;
    shape.max_chunk_tokens = 32;
    shape.max_context_tokens = 256;
    return shape;
  }

  std::vector<testing::RequestTrace> one_by_one(std::vector<TimedRequest> workload) {
    if (test_session().rank() != 0) return {};
    for (auto& timed : workload) timed.after_tokens = int64_t{1} << 40;  // when the others are done
    JobShape alone = shape();
    alone.tp_size = 1;
    alone.pp_size = 1;
    alone.prefix_cache = false;
    return run_job(nullptr, engine_, alone, workload).requests;
  }

  static void expect_same(const std::vector<testing::RequestTrace>& expected,
                          const JobTrace& trace) {
    ASSERT_EQ(trace.requests.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(trace.requests[i].error, "") << "request " << i;
      EXPECT_TRUE(trace.requests[i].tokens == expected[i].tokens) << "request " << i;
      EXPECT_EQ(trace.requests[i].reason, expected[i].reason) << "request " << i;
    }
  }

  testing::TemporaryDirectory directory_;
  std::shared_ptr<const model::EngineFile> engine_;
};

TEST_F(ContinuousBatching, RequestsShareStepsAndKeepTheirTokens) {
  const auto workload = random_workload(5);
  const auto expected = one_by_one(workload);
  const JobTrace trace = run_job(&test_session(), engine_, shape(), workload);
  if (test_session().rank() != 0) return;
  expect_same(expected, trace);
  const auto& sizes = trace.sequences_per_step;
  const auto shared = std::count_if(sizes.begin(), sizes.end(), [](int64_t n) { return n >= 2; });
  EXPECT_GT(2 * shared, static_cast<int64_t>(sizes.size())) << "most steps are shared";
  EXPECT_GE(*std::max_element(sizes.begin(), sizes.end()), 5);
  EXPECT_EQ(trace.stats.num_free_blocks, shape().num_blocks) << "blocks leaked";
  EXPECT_EQ(trace.stats.num_running + trace.stats.num_waiting, 0);
}

TEST_F(ContinuousBatching, AQuarterOfTheMemoryStillServesEveryone) {
  auto workload = random_workload(6);
  for (auto& timed : workload) timed.after_tokens /= 4;  // more at once
  const auto expected = one_by_one(workload);
  JobShape ample = shape();
  JobShape scarce = shape();
  scarce.num_blocks = 24;
  const JobTrace with_ample = run_job(&test_session(), engine_, ample, workload);
  const JobTrace with_scarce = run_job(&test_session(), engine_, scarce, workload);
  if (test_session().rank() != 0) return;
  expect_same(expected, with_ample);
  expect_same(expected, with_scarce);
  EXPECT_GT(with_scarce.stats.num_preemptions, 0U) << "memory was not scarce";
  EXPECT_EQ(with_scarce.stats.num_free_blocks, scarce.num_blocks) << "blocks leaked";
}

// What a step sends and what it returns are far more than the transports hold by themselves.
TEST_F(ContinuousBatching, TightTransportsDoNotLockUpThePipeline) {
  const int world_size = test_session().world_size();
  std::vector<TimedRequest> workload(150);
  for (size_t i = 0; i < workload.size(); ++i) {
    Request& request = workload[i].request;
    request.prompt_token_ids.assign(1 + i % 30, static_cast<int32_t>(i));
    request.max_tokens = 10;
    request.sampling.num_top_logprobs = 20;
  }
  JobTrace first;
  for (const auto& [message_bytes, force_mpi] :
       std::vector<std::pair<size_t, bool>>{{1 << 20, false}, {1000, false}, {1 << 20, true}}) {
    JobShape tight = shape();
    tight.pp_size = std::min(world_size, 2);
    tight.tp_size = world_size / tight.pp_size;
    tight.max_sequences = 128;
    tight.num_blocks = 600;
    tight.max_message_bytes = message_bytes;
    tight.force_mpi = force_mpi;
    JobTrace trace = run_job(&test_session(), engine_, tight, workload);
    if (test_session().rank() != 0) continue;
    if (first.requests.empty()) first = trace;
    expect_same(first.requests, trace);
    EXPECT_EQ(trace.requests[0].tokens.size(), 10U);
  }
}

}  // namespace
}  // namespace phalanx
