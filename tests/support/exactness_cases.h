// Requests and models of the tests that compare runs bit by bit, and the comparison.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/model/engine.pb.h"
#include "runtime/model/engine_file.h"
#include "runtime/scheduler/request.h"
#include "tests/support/job_harness.h"
#include "tests/support/tiny_checkpoint.h"

namespace phalanx::testing {

/// Mixed sampling, lengths across block and attention-partition boundaries, a shared prefix.
std::vector<Request> make_requests(int count, int64_t vocab_size);

/// Short prompts that grow over two block boundaries while they decode: what makes a small pool run
/// out, whenever they arrive.
std::vector<Request> make_growing_requests(int64_t vocab_size);

std::vector<TimedRequest> at_once(const std::vector<Request>& requests);
std::vector<TimedRequest> one_by_one(const std::vector<Request>& requests);

/// Fails the test where tokens or digests differ.
void expect_same(const std::vector<RequestTrace>& expected, const std::vector<RequestTrace>& actual,
                 const std::string& where);

/// Awkward on purpose: a vocabulary that tp does not divide, head_dim 24, group sizes that differ
/// between tensors.
TinyModel awkward_model();
/// Head norms, head_dim 16, no tied embeddings.
TinyModel qwen_model();

/// What an engine is made of.
struct EngineCase {
  std::string name;
  engine::WeightFormat weights = engine::F32;
  int64_t group_size = 64;
  TinyModel model{};         ///< written as a checkpoint, unless
  std::string checkpoint{};  ///< this names one
  std::vector<std::string> disabled_passes{};
};

/// Builds it in `directory` on rank 0 and opens it on every rank of the test's session. Collective.
std::shared_ptr<const model::EngineFile> make_engine(const EngineCase& engine_case,
                                                     const std::string& directory);

}  // namespace phalanx::testing
