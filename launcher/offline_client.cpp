// One request, printed as it grows.
#include "launcher/offline_client.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <deque>
#include <mutex>

namespace phalanx::launcher {
namespace {

/// Hands updates from the leader's thread to the printing one.
class UpdateQueue : public UpdateSink {
 public:
  void on_update(const RequestUpdate& update) override {
    const std::lock_guard lock(mutex_);
    updates_.push_back(update);
    changed_.notify_one();
  }

  RequestUpdate pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !updates_.empty(); });
    RequestUpdate update = std::move(updates_.front());
    updates_.pop_front();
    return update;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<RequestUpdate> updates_;
};

Result<std::vector<int32_t>> encode(const WorkerArguments& arguments, const TextCodec& codec) {
  constexpr size_t kMaxPromptBytes = 16U << 20;
  if (arguments.prompt) return codec.encode_prompt(*arguments.prompt);
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  messages.push_back({{"role", "user"}, {"content", *arguments.chat}});
  return codec.encode_chat(messages, nullptr, kMaxPromptBytes);
}

}  // namespace

Status answer_offline(const WorkerArguments& arguments, GenerationService& service,
                      const TextCodec& codec) {
  Request request;
  PHALANX_ASSIGN_OR_RETURN(request.prompt_token_ids, encode(arguments, codec));
  const auto room =
      service.info().max_context_tokens - static_cast<int64_t>(request.prompt_token_ids.size());
  request.max_tokens = std::max<int64_t>(1, std::min(arguments.max_tokens, room));
  request.sampling.temperature = arguments.temperature;
  request.stop_token_ids = service.info().eos_token_ids;
  const auto queue = std::make_shared<UpdateQueue>();
  PHALANX_ASSIGN_OR_RETURN([[maybe_unused]] const RequestId id,
                           service.submit(std::move(request), queue));
  const std::unique_ptr<TextStream> text = codec.start_stream({});
  while (true) {
    const RequestUpdate update = queue->pop();
    if (update.has_token && arguments.digest) {
      std::printf("%d %016llx\n", update.token.token_id,
                  static_cast<unsigned long long>(update.token.logits_digest));
    } else if (update.has_token) {
      std::fputs(text->push(update.token.token_id).text.c_str(), stdout);
      std::fflush(stdout);
    }
    if (!update.finished) continue;
    if (update.reason == FinishReason::kError) return unavailable(update.error);
    if (!arguments.digest) std::printf("%s\n", text->finish().text.c_str());
    std::fflush(stdout);
    return {};
  }
}

}  // namespace phalanx::launcher
