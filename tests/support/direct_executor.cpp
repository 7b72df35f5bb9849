// A GraphExecutor with nothing around it.
#include "tests/support/direct_executor.h"

#include <algorithm>
#include <numeric>

namespace phalanx::testing {

namespace {

std::unique_ptr<kernels::Operators> cpu_operators(kernels::IsaTier isa_tier) {
  kernels::CpuBackendOptions cpu;
  cpu.isa_tier = isa_tier;
  return kernels::make_cpu_operators(cpu);
}

}  // namespace

DirectExecutor::DirectExecutor(std::shared_ptr<const model::EngineFile> engine, int64_t max_tokens,
                               kernels::KvFormat kv_format, kernels::IsaTier isa_tier)
    : DirectExecutor(std::move(engine), max_tokens, kv_format, cpu_operators(isa_tier)) {}

DirectExecutor::DirectExecutor(std::shared_ptr<const model::EngineFile> engine, int64_t max_tokens,
                               kernels::KvFormat kv_format,
                               std::unique_ptr<kernels::Operators> operators,
                               std::vector<int64_t> recorded_sizes)
    : max_tokens_(max_tokens),
      operators_(std::move(operators)),
      group_(parallel::make_single_communicator()) {
  block_table_.resize(static_cast<size_t>(max_tokens / kernels::kBlockTokens + 1));
  std::iota(block_table_.begin(), block_table_.end(), 0);
  ExecutorOptions options;
  options.limits = {max_tokens, max_tokens, max_tokens};
  options.kv_format = kv_format;
  options.num_kv_blocks = static_cast<int64_t>(block_table_.size());
  options.recorded_sizes = std::move(recorded_sizes);
  executor_ = std::make_unique<GraphExecutor>(std::move(engine), parallel::RankTopology{}, options,
                                              ExecutorGroups{group_.get(), nullptr}, *operators_,
                                              progress_);
}

std::vector<std::vector<float>> DirectExecutor::run(std::span<const int32_t> token_ids,
                                                    int64_t first_position) {
  const auto num_rows = static_cast<int64_t>(token_ids.size());
  std::vector<int32_t> positions(token_ids.size());
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first_position));
  std::vector<int32_t> rows(token_ids.size());
  std::iota(rows.begin(), rows.end(), 0);
  const kernels::SequenceRows sequence{0, num_rows, first_position, block_table_.data()};
  const kernels::Rows logits = executor_->run({token_ids, positions, {&sequence, 1}, rows});
  std::vector<std::vector<float>> result;
  for (int64_t row = 0; row < num_rows; ++row) {
    const float* begin = logits.data + row * logits.stride;
    result.emplace_back(begin, begin + executor_->vocab_size());
  }
  return result;
}

std::vector<int32_t> DirectExecutor::generate(std::vector<int32_t> prompt, int64_t num_tokens) {
  std::vector<int32_t> generated;
  int64_t position = 0;
  std::vector<int32_t> next = std::move(prompt);
  while (static_cast<int64_t>(generated.size()) < num_tokens) {
    const std::vector<float> logits = run(next, position).back();
    position += static_cast<int64_t>(next.size());
    next = {static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin())};
    generated.push_back(next[0]);
  }
  return generated;
}

}  // namespace phalanx::testing
