// Requests and models that are awkward on purpose.
#include "tests/support/exactness_cases.h"

#include <random>

#include <gtest/gtest.h>

#include "runtime/base/check.h"
#include "runtime/builder/engine_builder.h"
#include "tests/support/mpi_test_main.h"

namespace phalanx::testing {

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

TinyModel awkward_model() {
  TinyModel model;
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

TinyModel qwen_model() {
  TinyModel model = awkward_model();
  model.architecture = "qwen3";
  model.num_kv_heads = 8;
  model.head_dim = 16;
  model.hidden_size = 64;
  model.intermediate_size = 128;
  model.tied = false;
  model.seed = 12;
  return model;
}

std::shared_ptr<const model::EngineFile> make_engine(const EngineCase& engine_case,
                                                     const std::string& directory) {
  std::string path;
  if (parallel::test_session().rank() == 0) {
    path = directory + "/" + engine_case.name;
    builder::BuildOptions options;
    options.checkpoint = engine_case.checkpoint;
    if (engine_case.checkpoint.empty()) {
      options.checkpoint = path + "-checkpoint";
      const Status written = write_tiny_checkpoint(options.checkpoint, engine_case.model);
      EXPECT_TRUE(written.ok()) << (written.ok() ? "" : written.error().message);
    }
    options.engine = path;
    options.passes.disabled = engine_case.disabled_passes;
    options.quantization.weights = engine_case.weights;
    options.quantization.group_size = engine_case.group_size;
    const auto built = builder::build_engine(options);
    EXPECT_TRUE(built.ok()) << (built.ok() ? "" : built.error().message);
  }
  path = parallel::test_session().broadcast(path, 0);
  auto opened = model::EngineFile::open(path);
  PHALANX_CHECK(opened.ok(), opened.ok() ? "" : opened.error().message);
  return *opened;
}

}  // namespace phalanx::testing
