// Law 1: the bits of a request's logits do not depend on topology, company, chunking, prefix-cache
// hits or preemption. Run under mpirun with every rank count of the matrix; each run compares its
// topologies with a reference of one rank, one request at a time, computed in the same process.
#include <cstdlib>
#include <filesystem>
#include <map>
#include <random>

#include <gtest/gtest.h>

#include "runtime/builder/engine_builder.h"
#include "runtime/executor/stage_plan.h"
#include "tests/support/job_harness.h"
#include "tests/support/mpi_test_main.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx {
namespace {

using parallel::test_session;
using testing::JobShape;
using testing::JobTrace;
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

/// Mixed sampling, lengths across block and attention-partition boundaries, a shared prefix.
std::vector<Request> make_requests(int count, int64_t vocab_size) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(vocab_size) - 1);
  const int64_t lengths[] = {1, 5, 31, 32, 33, 64, 70, 127, 128, 129, 150, 2, 96, 17, 40, 63, 100};
  std::vector<int32_t> shared(80);
  for (auto& id : shared) id = token(random);
  std::vector<Request> requests;
  for (int i = 0; i < count; ++i) {
    Request request;
    request.prompt_token_ids.resize(static_cast<size_t>(lengths[i % 17]));
    for (size_t k = 0; k < request.prompt_token_ids.size(); ++k) {
      request.prompt_token_ids[k] = i % 3 == 2 && k < shared.size() ? shared[k] : token(random);
    }
    request.max_tokens = 4 + i % 5;
    request.sampling.temperature = i % 2 == 0 ? 0.0F : 0.9F;
    request.sampling.top_p = i % 4 == 1 ? 0.9F : 1.0F;
    request.sampling.seed = static_cast<uint64_t>(1000 + i);
    if (i % 5 == 3) request.sampling.repetition_penalty = 1.2F;
    requests.push_back(std::move(request));
  }
  return requests;
}

/// Short prompts that grow over two block boundaries while they decode: what makes a small pool run
/// out, whenever they arrive.
std::vector<Request> make_growing_requests(int64_t vocab_size) {
  std::mt19937 random(8);
  std::vector<Request> requests(10);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt_token_ids.resize(20 + i);
    for (auto& id : requests[i].prompt_token_ids) id = static_cast<int32_t>(random() % vocab_size);
    requests[i].max_tokens = 48;
    requests[i].sampling.temperature = i % 2 == 0 ? 0.0F : 1.0F;
    requests[i].sampling.seed = i;
  }
  return requests;
}

std::vector<TimedRequest> at_once(const std::vector<Request>& requests) {
  std::vector<TimedRequest> workload;
  for (const Request& request : requests) workload.push_back({request, 0});
  return workload;
}

std::vector<TimedRequest> one_by_one(const std::vector<Request>& requests) {
  std::vector<TimedRequest> workload;
  for (const Request& request : requests) workload.push_back({request, int64_t{1} << 40});
  return workload;
}

void expect_same(const std::vector<RequestTrace>& expected, const std::vector<RequestTrace>& actual,
                 const std::string& where) {
  ASSERT_EQ(expected.size(), actual.size()) << where;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_EQ(actual[i].error, "") << where << ", request " << i;
    ASSERT_EQ(expected[i].tokens.size(), actual[i].tokens.size()) << where << ", request " << i;
    for (size_t k = 0; k < expected[i].tokens.size(); ++k) {
      ASSERT_TRUE(expected[i].tokens[k] == actual[i].tokens[k])
          << where << ", request " << i << ", token " << k << ": expected token "
          << expected[i].tokens[k].token_id << " digest " << expected[i].tokens[k].logits_digest
          << ", got " << actual[i].tokens[k].token_id << " digest "
          << actual[i].tokens[k].logits_digest;
    }
  }
}

struct EngineCase {
  std::string name;
  engine::WeightFormat weights = engine::F32;
  int64_t group_size = 64;
  testing::TinyModel model{};  ///< written as a checkpoint, unless
  std::string checkpoint{};    ///< this names one
  std::vector<std::string> disabled_passes{};
};

/// Awkward on purpose: a vocabulary that tp does not divide, head_dim 24, group sizes that differ
/// between tensors.
testing::TinyModel awkward_model() {
  testing::TinyModel model;
  model.architecture = "llama";
  model.hidden_size = 96;
  model.num_layers = 3;
  model.num_heads = 8;
  model.num_kv_heads = 2;
  model.head_dim = 24;
  model.intermediate_size = 192;
  model.vocab_size = 251;
  model.tied = true;
  model.seed = 11;
  return model;
}

testing::TinyModel qwen_model() {
  testing::TinyModel model = awkward_model();
  model.architecture = "qwen3";
  model.num_kv_heads = 8;
  model.head_dim = 16;
  model.hidden_size = 64;
  model.intermediate_size = 128;
  model.tied = false;
  model.seed = 12;
  return model;
}

class Exactness : public ::testing::Test {
 protected:
  /// Builds on rank 0, opens on every rank.
  std::shared_ptr<const model::EngineFile> make_engine(const EngineCase& engine_case) {
    std::string path;
    if (test_session().rank() == 0) {
      path = directory_.path() + "/" + engine_case.name;
      builder::BuildOptions options;
      options.checkpoint = engine_case.checkpoint;
      if (engine_case.checkpoint.empty()) {
        options.checkpoint = path + "-checkpoint";
        const Status written =
            testing::write_tiny_checkpoint(options.checkpoint, engine_case.model);
        EXPECT_TRUE(written.ok()) << (written.ok() ? "" : written.error().message);
      }
      options.engine = path;
      options.passes.disabled = engine_case.disabled_passes;
      options.quantization.weights = engine_case.weights;
      options.quantization.group_size = engine_case.group_size;
      const auto built = builder::build_engine(options);
      EXPECT_TRUE(built.ok()) << (built.ok() ? "" : built.error().message);
    }
    path = test_session().broadcast(path, 0);
    auto opened = model::EngineFile::open(path);
    PHALANX_CHECK(opened.ok(), opened.ok() ? "" : opened.error().message);
    return *opened;
  }

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
    const auto engine = make_engine(engine_case);
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
  run_matrix({.name = "demo-" + engine::WeightFormat_Name(GetParam()),
              .weights = GetParam(),
              .checkpoint = std::string(PHALANX_SOURCE_DIR) + "/models/demo"},
             {kernels::KvFormat::kF32, kernels::KvFormat::kBf16, kernels::KvFormat::kInt8});
}

/// Passes rewrite the graph without changing a bit, wherever a stage boundary cuts it.
TEST_P(ExactnessMatrix, PassesChangeNoBit) {
  EngineCase engine_case{.name = "fused", .weights = GetParam(), .model = awkward_model()};
  const auto fused = make_engine(engine_case);
  const std::vector<Request> requests = make_requests(6, engine_case.model.vocab_size);
  const auto expected = reference(fused, requests, kernels::KvFormat::kF32);
  for (const char* pass : {"fuse_qkv", "fuse_gate_up", "fuse_add_norm"}) {
    engine_case.name = pass;
    engine_case.disabled_passes = {pass};
    const auto engine = make_engine(engine_case);
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

INSTANTIATE_TEST_SUITE_P(Weights, ExactnessMatrix,
                         ::testing::Values(engine::F32, engine::BF16, engine::W8, engine::W4),
                         [](const auto& instance) {
                           return engine::WeightFormat_Name(instance.param);
                         });

}  // namespace
}  // namespace phalanx
