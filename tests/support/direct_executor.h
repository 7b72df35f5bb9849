// Runs token sequences straight through a GraphExecutor of one rank, for tests that look at logits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu_backend.h"
#include "runtime/executor/graph_executor.h"
#include "runtime/model/engine_file.h"

namespace phalanx::testing {

/// One sequence at a time, in blocks 0, 1, 2, ...
class DirectExecutor {
 public:
  DirectExecutor(std::shared_ptr<const model::EngineFile> engine, int64_t max_tokens,
                 kernels::KvFormat kv_format = kernels::KvFormat::kF32,
                 kernels::IsaTier isa_tier = kernels::best_isa_tier());
  DirectExecutor(std::shared_ptr<const model::EngineFile> engine, int64_t max_tokens,
                 kernels::KvFormat kv_format, std::unique_ptr<kernels::Operators> operators,
                 std::vector<int64_t> recorded_sizes = {});

  /// Computes `token_ids` at positions first_position... and returns the logits of every row,
  /// [token_ids.size()][vocab_size].
  std::vector<std::vector<float>> run(std::span<const int32_t> token_ids, int64_t first_position);

  /// Greedy continuation of a prompt.
  std::vector<int32_t> generate(std::vector<int32_t> prompt, int64_t num_tokens);

 private:
  int64_t max_tokens_;
  std::unique_ptr<kernels::Operators> operators_;
  std::unique_ptr<parallel::Communicator> group_;
  parallel::Progress progress_;
  std::unique_ptr<GraphExecutor> executor_;
  std::vector<int32_t> block_table_;
};

}  // namespace phalanx::testing
