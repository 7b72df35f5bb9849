// One thread that hands each running request its next byte, round by round.
#include "tests/support/fake_generation_service.h"

#include <algorithm>

#include "runtime/server/token_stream.h"
#include "runtime/server/utf8.h"

namespace phalanx::testing {
namespace {

std::vector<int32_t> bytes_of(std::string_view text) {
  std::vector<int32_t> ids;
  ids.reserve(text.size());
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

class ByteTextStream final : public TextStream {
 public:
  explicit ByteTextStream(std::vector<std::string> stop)
      : matcher_(std::move(StopMatcher::create(std::move(stop))).value()) {}

  Piece push(int32_t token_id) override {
    std::string text;
    if (token_id >= 0 && token_id < 256) {
      const char byte = static_cast<char>(token_id);
      assembler_.push({&byte, 1}, text);
    }
    Piece piece;
    piece.stopped = matcher_.push(text, piece.text);
    return piece;
  }
  Piece finish() override {
    std::string text;
    assembler_.finish(text);
    Piece piece;
    piece.stopped = matcher_.push(text, piece.text);
    if (!piece.stopped) matcher_.finish(piece.text);
    return piece;
  }

 private:
  Utf8Assembler assembler_{Utf8Assembler::OnError::kOnePerSubpart};
  StopMatcher matcher_;
};

}  // namespace

Result<std::vector<int32_t>> ByteTextCodec::encode_prompt(std::string_view text) const {
  return bytes_of(text);
}

Result<std::vector<int32_t>> ByteTextCodec::encode_chat(const RequestJson& messages,
                                                        const RequestJson& tools,
                                                        size_t max_bytes) const {
  std::string text;
  if (!tools.is_null()) text += "tools: " + tools.dump() + "\n";
  for (const auto& message : messages) {
    if (message["content"] == "REFUSE") return invalid_argument("the template refuses this");
    text += message["role"].get<std::string>() + ": ";
    if (message["content"].is_string()) text += message["content"].get<std::string>();
    if (message.contains("tool_calls")) text += message["tool_calls"].dump();
    text += "\n";
  }
  text += "assistant:";
  if (text.size() > max_bytes) return invalid_argument("the chat is too long");
  return bytes_of(text);
}

std::string ByteTextCodec::decode(std::span<const int32_t> token_ids) const {
  std::string text;
  Utf8Assembler assembler(Utf8Assembler::OnError::kOnePerSubpart);
  for (const int32_t id : token_ids) assembler.push(token_bytes(id), text);
  assembler.finish(text);
  return text;
}

std::string ByteTextCodec::token_bytes(int32_t token_id) const {
  return token_id >= 0 && token_id < 256 ? std::string(1, static_cast<char>(token_id))
                                         : std::string();
}

std::unique_ptr<TextStream> ByteTextCodec::start_stream(std::vector<std::string> stop) const {
  return std::make_unique<ByteTextStream>(std::move(stop));
}

FakeGenerationService::FakeGenerationService(FakeScript script) : script_(std::move(script)) {
  info_.model_name = "fake/model";
  info_.vocab_size = kFakeVocabSize;
  info_.max_context_tokens = 4096;
  info_.kv_capacity_tokens = 8192;
  info_.eos_token_ids = {kEosToken};
  thread_ = std::thread([this] { run(); });
}

FakeGenerationService::~FakeGenerationService() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<RequestId> FakeGenerationService::submit(Request request, std::shared_ptr<UpdateSink> sink) {
  const std::lock_guard lock(mutex_);
  if (state_ != ServiceState::kReady) return unavailable("the fake is not ready");
  if (running_.size() >= max_running_) return resource_exhausted("the fake's queue is full");
  request.id = RequestId{next_id_++};
  requests_.push_back(request);
  running_.emplace(request.id, Running{request, std::move(sink), script_});
  changed_.notify_all();
  return request.id;
}

void FakeGenerationService::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  running_.erase(id);
  cancels_.emplace_back(id, std::chrono::steady_clock::now());
  changed_.notify_all();
}

void FakeGenerationService::set_script(FakeScript script) {
  const std::lock_guard lock(mutex_);
  script_ = std::move(script);
}

void FakeGenerationService::set_max_running(size_t count) {
  const std::lock_guard lock(mutex_);
  max_running_ = count;
}

void FakeGenerationService::hold(bool held) {
  const std::lock_guard lock(mutex_);
  held_ = held;
  changed_.notify_all();
}

std::vector<Request> FakeGenerationService::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

std::vector<std::pair<RequestId, std::chrono::steady_clock::time_point>>
FakeGenerationService::cancels() const {
  const std::lock_guard lock(mutex_);
  return cancels_;
}

size_t FakeGenerationService::num_running() const {
  const std::lock_guard lock(mutex_);
  return running_.size();
}

int64_t FakeGenerationService::num_tokens() const {
  const std::lock_guard lock(mutex_);
  return num_tokens_;
}

bool FakeGenerationService::wait_until_idle(std::chrono::milliseconds limit) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return running_.empty(); });
}

bool FakeGenerationService::wait_for_cancels(size_t count, std::chrono::milliseconds limit) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return cancels_.size() >= count; });
}

bool FakeGenerationService::wait_for_requests(size_t count, std::chrono::milliseconds limit) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, limit, [&] { return requests_.size() >= count; });
}

RequestUpdate FakeGenerationService::next_update(Running& running) const {
  RequestUpdate update;
  update.id = running.request.id;
  const FakeScript& script = running.script;
  if (script.fail_after && running.num_tokens >= *script.fail_after) {
    update.finished = true;
    update.reason = FinishReason::kError;
    update.error = "the fake fails as told";
    return update;
  }
  const auto size = static_cast<int64_t>(script.answer.size());
  const auto& stops = running.request.stop_token_ids;
  const bool may_stop = std::find(stops.begin(), stops.end(), kEosToken) != stops.end();
  if (!script.repeat && may_stop && running.num_tokens >= size) {
    update.finished = true;
    update.reason = FinishReason::kStop;
    return update;
  }
  const char byte = size == 0 ? 'x' : script.answer[static_cast<size_t>(running.num_tokens % size)];
  update.has_token = true;
  update.token.token_id = static_cast<unsigned char>(byte);
  update.token.logprob = -0.25F;
  for (int32_t i = 0; i < running.request.sampling.num_top_logprobs; ++i)
    update.token.top_logprobs.push_back(
        {update.token.token_id ^ i, -0.25F - static_cast<float>(i)});
  if (running.num_tokens == 0) update.num_cached_tokens = script.cached_tokens;
  ++running.num_tokens;
  if (std::find(stops.begin(), stops.end(), update.token.token_id) != stops.end()) {
    update.has_token = false;
    update.finished = true;
    update.reason = FinishReason::kStop;
  } else if (running.num_tokens >= running.request.max_tokens) {
    update.finished = true;
    update.reason = FinishReason::kLength;
  }
  return update;
}

void FakeGenerationService::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || (!running_.empty() && !held_); });
    if (stopping_) return;
    std::chrono::microseconds delay{0};
    std::vector<std::pair<std::shared_ptr<UpdateSink>, RequestUpdate>> round;
    for (auto it = running_.begin(); it != running_.end();) {
      delay = std::max(delay, it->second.script.token_delay);
      RequestUpdate update = next_update(it->second);
      num_tokens_ += update.has_token ? 1 : 0;
      const bool finished = update.finished;
      round.emplace_back(it->second.sink, std::move(update));
      it = finished ? running_.erase(it) : std::next(it);
    }
    // As the leader does: sinks are called without the lock, so they may call cancel().
    lock.unlock();
    for (const auto& [sink, update] : round) sink->on_update(update);
    round.clear();
    if (delay.count() > 0) std::this_thread::sleep_for(delay);
    changed_.notify_all();
    lock.lock();
  }
}

}  // namespace phalanx::testing
