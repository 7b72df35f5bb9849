// What a request must be, whatever else is going on. Called by Scheduler::add and by front ends.
#include <string>

#include "runtime/scheduler/scheduler.h"

namespace phalanx {
namespace {

Error refused(const std::string& field, int64_t value, const std::string& allowed) {
  return invalid_argument(field + " is " + std::to_string(value) + "; allowed: " + allowed);
}

}  // namespace

Status check_request(const Request& request, const SchedulerConfig& config) {
  const auto num_prompt = static_cast<int64_t>(request.prompt_token_ids.size());
  if (num_prompt == 0) return invalid_argument("prompt_token_ids is empty; allowed: at least one");
  if (num_prompt >= config.max_context_tokens)
    return refused("length of prompt_token_ids", num_prompt,
                   "at most " + std::to_string(config.max_context_tokens - 1) +
                       ", which leaves a token of the context to generate");
  if (num_prompt > config.num_blocks * config.block_tokens)
    return refused("length of prompt_token_ids", num_prompt,
                   "at most " + std::to_string(config.num_blocks * config.block_tokens) +
                       ", the size of the KV cache");
  for (size_t i = 0; i < request.prompt_token_ids.size(); ++i) {
    const int32_t token = request.prompt_token_ids[i];
    if (token < 0 || token >= config.vocab_size)
      return refused("prompt_token_ids[" + std::to_string(i) + "]", token,
                     "[0, " + std::to_string(config.vocab_size - 1) + "]");
  }
  if (request.max_tokens < 1) return refused("max_tokens", request.max_tokens, "at least 1");
  return {};
}

}  // namespace phalanx
