// A GenerationService and a TextCodec without a model: tokens are bytes, answers are scripted. Used
// by the HTTP tests and by http_probe_server.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/server/generation_service.h"
#include "runtime/server/text_codec.h"

namespace phalanx::testing {

constexpr int32_t kEosToken = 256;
constexpr int64_t kFakeVocabSize = 300;

/// Token id = byte; 256 is the end of sequence. A chat becomes "role: content\n" lines and
/// "assistant:"; content "REFUSE" is refused as a template would.
class ByteTextCodec final : public TextCodec {
 public:
  Result<std::vector<int32_t>> encode_prompt(std::string_view text) const override;
  Result<std::vector<int32_t>> encode_chat(const RequestJson& messages, const RequestJson& tools,
                                           size_t max_bytes) const override;
  std::string decode(std::span<const int32_t> token_ids) const override;
  std::string token_bytes(int32_t token_id) const override;
  std::unique_ptr<TextStream> start_stream(std::vector<std::string> stop) const override;
};

struct FakeScript {
  std::string answer = "Hello, world.";      ///< one token a byte, then the end of sequence
  bool repeat = false;                       ///< the answer again and again until max_tokens
  std::chrono::microseconds token_delay{0};  ///< between two rounds over all requests
  std::optional<int64_t> fail_after = std::nullopt;  ///< kError after that many tokens
  int64_t cached_tokens = 0;
};

/// Any thread, like the real one. Tokens come from a thread of its own.
class FakeGenerationService final : public GenerationService {
 public:
  explicit FakeGenerationService(FakeScript script = {});
  ~FakeGenerationService() override;

  Result<RequestId> submit(Request request, std::shared_ptr<UpdateSink> sink) override;
  void cancel(RequestId id) override;
  ServiceState state() const override { return state_; }
  const ServiceInfo& info() const override { return info_; }

  ServiceInfo& mutable_info() { return info_; }  ///< before use
  void set_script(FakeScript script);
  void set_state(ServiceState state) { state_ = state; }
  void set_max_running(size_t count);
  void hold(bool held);  ///< no tokens while held

  std::vector<Request> requests() const;  ///< all that were accepted
  std::vector<std::pair<RequestId, std::chrono::steady_clock::time_point>> cancels() const;
  size_t num_running() const;
  bool wait_until_idle(std::chrono::milliseconds limit) const;
  bool wait_for_cancels(size_t count, std::chrono::milliseconds limit) const;
  bool wait_for_requests(size_t count, std::chrono::milliseconds limit) const;
  int64_t num_tokens() const;  ///< handed out, all requests

 private:
  struct Running {
    Request request;
    std::shared_ptr<UpdateSink> sink;
    FakeScript script;
    int64_t num_tokens = 0;
  };

  void run();
  /// The next update of a request; never more than one token.
  RequestUpdate next_update(Running& running) const;

  ServiceInfo info_;
  std::atomic<ServiceState> state_{ServiceState::kReady};
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  FakeScript script_;
  bool held_ = false;
  bool stopping_ = false;
  size_t max_running_ = 1000;
  uint64_t next_id_ = 1;
  int64_t num_tokens_ = 0;
  std::map<RequestId, Running> running_;
  std::vector<Request> requests_;
  std::vector<std::pair<RequestId, std::chrono::steady_clock::time_point>> cancels_;
  std::thread thread_;
};

}  // namespace phalanx::testing
