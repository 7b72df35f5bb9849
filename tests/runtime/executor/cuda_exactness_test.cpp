// Law 1 on the CUDA device, emulated or not: a request's logits have the same bits alone, in a
// batch, in chunks, after preemption, in recorded steps, and over ranks; and, where products and
// attention are sums of integers, the CPU's bits.
#include <algorithm>

#include <gtest/gtest.h>

#include "kernels/cuda_backend.h"
#include "tests/support/exactness_cases.h"
#include "tests/support/job_harness.h"
#include "tests/support/mpi_test_main.h"
#include "tests/support/temporary_directory.h"

namespace phalanx {
namespace {

using kernels::KvFormat;
using parallel::test_session;
using testing::at_once;
using testing::EngineCase;
using testing::expect_same;
using testing::JobShape;
using testing::JobTrace;
using testing::make_engine;
using testing::one_by_one;
using testing::RequestTrace;
using testing::run_job;
using testing::TimedRequest;

JobShape on_device(const JobShape& shape) {
  JobShape device = shape;
  device.make_operators = [] {
    kernels::CudaBackendOptions options;
    // Ranks share a device when there are too few.
    options.device_index =
        test_session().rank() % static_cast<int>(kernels::find_cuda_devices().size());
    return kernels::make_cuda_operators(options);
  };
  device.recorded_sizes = {1, 2, 3, 8};
  return device;
}

/// One rank, one request at a time, no cache, nothing recorded; on rank 0.
std::vector<RequestTrace> alone(const std::shared_ptr<const model::EngineFile>& engine,
                                const std::vector<Request>& requests, JobShape shape) {
  if (test_session().rank() != 0) return {};
  shape.prefix_cache = false;
  shape.recorded_sizes.clear();
  return run_job(nullptr, engine, shape, one_by_one(requests)).requests;
}

void expect_same_on_rank_0(const std::vector<RequestTrace>& expected, const JobTrace& trace,
                           const std::string& where) {
  if (test_session().rank() == 0) expect_same(expected, trace.requests, where);
}

/// Every way of serving `requests` over all ranks gives `expected`.
void expect_in_all_scenarios(const std::shared_ptr<const model::EngineFile>& engine,
                             const std::vector<Request>& requests,
                             const std::vector<RequestTrace>& expected, const JobShape& base,
                             const std::string& name) {
  const auto run = [&](const JobShape& shape, const std::vector<TimedRequest>& workload,
                       const std::string& scenario) {
    const JobTrace trace = run_job(&test_session(), engine, shape, workload);
    expect_same_on_rank_0(expected, trace, name + ", " + scenario);
    return trace;
  };
  const JobTrace batch = run(base, at_once(requests), "in a batch");
  if (test_session().rank() == 0) {
    EXPECT_GE(*std::max_element(batch.sequences_per_step.begin(), batch.sequences_per_step.end()),
              static_cast<int64_t>(requests.size()) / (2 * base.pp_size))
        << name << ": requests did not share steps";
  }
  JobShape eager = base;
  eager.recorded_sizes.clear();
  eager.max_step_tokens = eager.max_chunk_tokens = 7;
  eager.max_sequences = 7;
  run(eager, at_once(requests), "in chunks of 7, nothing recorded");
  JobShape cramped = base;
  cramped.num_blocks = 16;
  run(cramped, at_once(requests), "cramped");
}

struct DeviceCase {
  EngineCase engine;
  KvFormat kv_format;
  bool is_the_cpus;  ///< products and attention are sums of integers
};

class CudaExactness : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (kernels::find_cuda_devices(&why).empty()) GTEST_SKIP() << why;
  }
  void check(const DeviceCase& device_case) {
    const auto engine = make_engine(device_case.engine, directory_.path());
    const std::vector<Request> requests =
        testing::make_requests(6, engine->manifest().model().vocab_size());
    JobShape on_cpu;
    on_cpu.kv_format = device_case.kv_format;
    const JobShape device = on_device(on_cpu);
    const std::vector<RequestTrace> expected = alone(engine, requests, device);
    if (device_case.is_the_cpus && test_session().rank() == 0)
      expect_same(alone(engine, requests, on_cpu), expected, device_case.engine.name + ", the CPU");
    for (const int tp_size : {1, 2, 4}) {
      if (test_session().world_size() % tp_size != 0) continue;
      JobShape shape = device;
      shape.tp_size = tp_size;
      shape.pp_size = test_session().world_size() / tp_size;
      if (shape.pp_size > device_case.engine.model.num_layers) continue;
      expect_in_all_scenarios(engine, requests, expected, shape,
                              device_case.engine.name + ", tp " + std::to_string(tp_size) +
                                  ", pp " + std::to_string(shape.pp_size));
    }
  }

  testing::TemporaryDirectory directory_;
};

EngineCase named(const std::string& name, engine::WeightFormat weights, int64_t group_size,
                 const testing::TinyModel& model) {
  EngineCase engine_case;
  engine_case.name = name;
  engine_case.weights = weights;
  engine_case.group_size = group_size;
  engine_case.model = model;
  return engine_case;
}

TEST_F(CudaExactness, W8WithInt8KvHasTheCpusBits) {
  check({named("w8", engine::W8, 64, testing::awkward_model()), KvFormat::kInt8, true});
}

TEST_F(CudaExactness, W4WithHeadNormsAndInt8KvHasTheCpusBits) {
  check({named("w4-qwen3", engine::W4, 32, testing::qwen_model()), KvFormat::kInt8, true});
}

TEST_F(CudaExactness, Bf16IsTheSameInEveryCompany) {
  check({named("bf16", engine::BF16, 64, testing::awkward_model()), KvFormat::kBf16, false});
}

TEST_F(CudaExactness, Fp8IsTheSameInEveryCompany) {
  check({named("fp8", engine::FP8, 64, testing::awkward_model()), KvFormat::kBf16, false});
}

TEST_F(CudaExactness, W4WithBf16KvIsTheSameInEveryCompany) {
  check({named("w4-bf16kv", engine::W4, 32, testing::qwen_model()), KvFormat::kBf16, false});
}

/// Steps whose tokens the device draws, two in flight, against those that the host draws.
TEST_F(CudaExactness, TheDeviceDrawsTheHostsTokens) {
  if (test_session().world_size() > 1) GTEST_SKIP() << "ranks draw on the host";
  const auto engine =
      make_engine(named("w8-draws", engine::W8, 64, testing::awkward_model()), directory_.path());
  const std::vector<Request> requests =
      testing::make_requests(10, engine->manifest().model().vocab_size());
  JobShape shape;
  shape.kv_format = KvFormat::kInt8;
  shape.digest_logits = false;
  const auto expected = run_job(nullptr, engine, shape, at_once(requests));  // on the CPU
  const auto drawn = run_job(nullptr, engine, on_device(shape), at_once(requests));
  expect_same(expected.requests, drawn.requests, "drawn on the device");
  JobShape cramped = on_device(shape);
  cramped.num_blocks = 16;
  cramped.max_chunk_tokens = 16;
  expect_same(expected.requests, run_job(nullptr, engine, cramped, at_once(requests)).requests,
              "drawn on the device, cramped");
}

}  // namespace
}  // namespace phalanx
