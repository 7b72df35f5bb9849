// Law 1: the bits of a request's logits do not depend on topology, company, chunking, prefix-cache
// hits or preemption. Run under mpirun with every rank count of the matrix; each run compares its
// topologies with a reference of one rank, one request at a time, computed in the same process.
#include <algorithm>

#include <gtest/gtest.h>

#include "runtime/executor/stage_plan.h"
#include "tests/support/exactness_cases.h"
#include "tests/support/job_harness.h"
#include "tests/support/mpi_test_main.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx {
namespace {

using parallel::test_session;
using testing::at_once;
using testing::awkward_model;
using testing::EngineCase;
using testing::expect_same;
using testing::JobShape;
using testing::JobTrace;
using testing::make_engine;
using testing::make_growing_requests;
using testing::make_requests;
using testing::one_by_one;
using testing::qwen_model;
using testing::RequestTrace;
using testing::run_job;
using testing::TimedRequest;

/// Topologies of this run's rank count: every tp in {1, 2, 4, 8} with pp in {1, 2, 3}.
std::vector<std::pair<int, int>> topologies() {
  std::vector<std::pair<int, int>> found;
  for (const int tp : {1, 2, 4, 8}) {
    for (const int pp : {1, 2, 3}) {
      if (tp * pp == test_session().world_size()) found.emplace_back(tp, pp);
    }
  }
  return found;
}

class Exactness : public ::testing::Test {
 protected:
  /// One rank, one request at a time, no cache: what every other run must equal.
  std::vector<RequestTrace> reference(const std::shared_ptr<const model::EngineFile>& engine,
                                      const std::vector<Request>& requests,
                                      kernels::KvFormat kv_format) {
    if (test_session().rank() != 0) return {};
    JobShape shape;
    shape.kv_format = kv_format;
    shape.prefix_cache = false;
    return run_job(nullptr, engine, shape, one_by_one(requests)).requests;
  }

  testing::TemporaryDirectory directory_;
};

/// Requests and what one rank makes of them alone.
struct Workload {
  std::vector<Request> requests;
  std::vector<RequestTrace> expected;  ///< on rank 0
};

void compare_all_scenarios(const std::shared_ptr<const model::EngineFile>& engine,
                           const Workload& mixed, const Workload& growing, const JobShape& base,
                           const std::string& name) {
  const std::vector<Request>& requests = mixed.requests;
  const auto run = [&](const std::string& scenario, const JobShape& shape,
                       const std::vector<TimedRequest>& workload,
                       const std::vector<RequestTrace>& expected) {
    JobTrace trace = run_job(&test_session(), engine, shape, workload);
    if (test_session().rank() == 0) {
      std::vector<RequestTrace> wanted;  // the workload is a beginning of the requests, or repeats
      for (size_t i = 0; i < workload.size(); ++i) wanted.push_back(expected[i % expected.size()]);
      expect_same(wanted, trace.requests, name + ", " + scenario);
    }
    return trace;
  };

  const std::vector<Request> few(requests.begin(), requests.begin() + 6);
  run("alone", base, one_by_one(few), mixed.expected);

  const JobTrace batch = run("in a batch of 17", base, at_once(requests), mixed.expected);
  if (test_session().rank() == 0) {
    EXPECT_GE(*std::max_element(batch.sequences_per_step.begin(), batch.sequences_per_step.end()),
              std::min<int64_t>(17, 12) / base.pp_size)
        << name << ": requests did not share steps";
  }

  for (const int64_t chunk : {1, 7, 64, 4096}) {
    JobShape chunked = base;
    chunked.max_step_tokens = chunk;  // the whole step: prompts alone are not capped otherwise
    chunked.max_chunk_tokens = chunk;
    chunked.max_sequences = std::min<int64_t>(chunk, 32);
    chunked.prefix_cache = false;
    if (chunk != 64) chunked.unshared_bytes = 0;  // ranks sum rows of their own, not all
    run("chunks of " + std::to_string(chunk), chunked, at_once(chunk < 8 ? few : requests),
        mixed.expected);
  }

  // Every request twice, one after another: the second finds its prompt in the cache.
  std::vector<TimedRequest> twice = one_by_one(requests);
  const std::vector<TimedRequest> again = one_by_one(requests);
  twice.insert(twice.end(), again.begin(), again.end());
  const JobTrace cached = run("prefix-cache hits", base, twice, mixed.expected);
  if (test_session().rank() == 0) {
    int64_t num_hits = 0;
    for (size_t i = requests.size(); i < cached.requests.size(); ++i) {
      num_hits += cached.requests[i].num_cached_tokens > 0 ? 1 : 0;
    }
    EXPECT_GE(num_hits, 8) << name << ": the prefix cache was not used";
  }

  JobShape cramped = base;
  cramped.unshared_bytes = 0;
  cramped.num_blocks = 16;  // one context of 512 tokens; the requests grow to 30 blocks together
  const JobTrace preempted =
      run("preemption and recompute", cramped, at_once(growing.requests), growing.expected);
  if (test_session().rank() == 0) {
    EXPECT_GT(preempted.stats.num_preemptions, 0U) << name << ": nothing was preempted";
    EXPECT_EQ(preempted.stats.num_free_blocks, cramped.num_blocks) << name << ": blocks leaked";
  }
}

class ExactnessMatrix : public Exactness,
                        public ::testing::WithParamInterface<engine::WeightFormat> {
 protected:
  void run_matrix(const EngineCase& engine_case, const std::vector<kernels::KvFormat>& kv_formats) {
    const auto engine = make_engine(engine_case, directory_.path());
    const int64_t vocab_size = engine->manifest().model().vocab_size();
    Workload mixed{make_requests(17, vocab_size), {}};
    Workload growing{make_growing_requests(vocab_size), {}};
    for (const kernels::KvFormat kv_format : kv_formats) {
      mixed.expected = reference(engine, mixed.requests, kv_format);
      growing.expected = reference(engine, growing.requests, kv_format);
      for (const auto& [tp, pp] : topologies()) {
        JobShape shape;
        shape.tp_size = tp;
        shape.pp_size = pp;
        shape.kv_format = kv_format;
        compare_all_scenarios(engine, mixed, growing, shape,
                              engine_case.name + " tp " + std::to_string(tp) + " pp " +
                                  std::to_string(pp) + " kv " + kernels::kv_format_name(kv_format));
      }
    }
  }
};

TEST_P(ExactnessMatrix, AwkwardModel) {
  run_matrix({.name = "awkward-" + engine::WeightFormat_Name(GetParam()),
              .weights = GetParam(),
              .model = awkward_model()},
             {kernels::KvFormat::kF32, kernels::KvFormat::kBf16, kernels::KvFormat::kInt8});
}

TEST_P(ExactnessMatrix, Qwen3HeadNormsUntied) {
  run_matrix({.name = "qwen3-" + engine::WeightFormat_Name(GetParam()),
              .weights = GetParam(),
              .group_size = 32,
              .model = qwen_model()},
             {kernels::KvFormat::kBf16});
}

TEST_P(ExactnessMatrix, DemoModel) {
  EngineCase demo{.name = "demo-" + engine::WeightFormat_Name(GetParam()), .weights = GetParam()};
  demo.checkpoint = std::string(PHALANX_SOURCE_DIR) + "/models/demo";
  run_matrix(demo, {kernels::KvFormat::kF32, kernels::KvFormat::kBf16, kernels::KvFormat::kInt8});
}

/// Passes rewrite the graph without changing a bit, wherever a stage boundary cuts it.
TEST_P(ExactnessMatrix, PassesChangeNoBit) {
  EngineCase engine_case{.name = "fused", .weights = GetParam(), .model = awkward_model()};
  const auto fused = make_engine(engine_case, directory_.path());
  const std::vector<Request> requests = make_requests(6, engine_case.model.vocab_size);
  const auto expected = reference(fused, requests, kernels::KvFormat::kF32);
  for (const char* pass : {"fuse_qkv", "fuse_gate_up", "fuse_add_norm"}) {
    engine_case.name = pass;
    engine_case.disabled_passes = {pass};
    const auto engine = make_engine(engine_case, directory_.path());
    for (const auto& [tp, pp] : topologies()) {
      JobShape shape;
      shape.tp_size = tp;
      shape.pp_size = pp;
      for (const int64_t unshared_bytes : {int64_t{0}, kMaxUnsharedBytes}) {
        shape.unshared_bytes = unshared_bytes;
        const JobTrace trace = run_job(&test_session(), engine, shape, at_once(requests));
        if (test_session().rank() == 0) {
          expect_same(expected, trace.requests, std::string("without ") + pass);
        }
      }
    }
  }
}

/// Codes and scales as fp8 checkpoints have them: slices of ranks begin inside rows and columns of
/// blocks of scales.
TEST_F(Exactness, Fp8CheckpointsAsTheyAre) {
  for (const testing::TinyFp8 layout :
       {testing::TinyFp8::kTensor, testing::TinyFp8::kRow, testing::TinyFp8::kBlock}) {
    EngineCase engine_case{.name = "fp8-" + std::to_string(static_cast<int>(layout)),
                           .weights = engine::FP8,
                           .model = awkward_model()};
    engine_case.model.fp8 = layout;
    engine_case.model.fp8_block = 32;
    // Then rows are converted to two forms, and not all projections are fused.
    if (layout == testing::TinyFp8::kRow) engine_case.model.fp8_left_out = "k_proj";
    const auto engine = make_engine(engine_case, directory_.path());
    ASSERT_EQ(engine->weight("layers.0.down").format(), engine::FP8);
    const std::vector<Request> requests = make_requests(6, engine_case.model.vocab_size);
    const auto expected = reference(engine, requests, kernels::KvFormat::kF32);
    for (const auto& [tp, pp] : topologies()) {
      JobShape shape;
      shape.tp_size = tp;
      shape.pp_size = pp;
      for (const int64_t unshared_bytes : {int64_t{0}, kMaxUnsharedBytes}) {
        shape.unshared_bytes = unshared_bytes;
        const JobTrace trace = run_job(&test_session(), engine, shape, at_once(requests));
        if (test_session().rank() == 0) {
          expect_same(expected, trace.requests,
                      engine_case.name + " tp " + std::to_string(tp) + " pp " + std::to_string(pp));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Weights, ExactnessMatrix,
                         ::testing::Values(engine::F32, engine::BF16, engine::W8, engine::W4,
                                           engine::FP8),
                         [](const auto& instance) {
                           return engine::WeightFormat_Name(instance.param);
                         });

}  // namespace
}  // namespace phalanx
