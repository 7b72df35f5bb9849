// One API call on its way: its choices are requests to the service, their tokens become text, the
// text becomes one answer or a stream. Made by openai_api, kept alive by its connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/server/api_error.h"
#include "runtime/server/api_metrics.h"
#include "runtime/server/generation_service.h"
#include "runtime/server/http_message.h"
#include "runtime/server/openai_request.h"
#include "runtime/server/openai_response.h"
#include "runtime/server/server_options.h"
#include "runtime/server/text_codec.h"

namespace phalanx {

class UpdateMailbox;

/// Everything on the connection's strand. The client's going away, a slow reader, a stop string and
/// the request's timeout cancel the service's requests at once.
class GenerationCall : public std::enable_shared_from_this<GenerationCall> {
 public:
  struct Prompt {
    std::vector<int32_t> token_ids;
    std::string echo;  ///< shown before each choice's text; empty unless asked for
  };

  /// What outlives all calls.
  struct Environment {
    GenerationService& service;
    const TextCodec& codec;
    const ServerOptions& options;
  };

  struct Start {
    OpenAiRequest request;        ///< sampling.seed unset: each choice draws its own
    std::vector<Prompt> prompts;  ///< each shorter than the context
    std::string client;
    std::chrono::steady_clock::time_point received_at;
    bool is_event_source = false;  ///< events carry an id, so that the browser does not ask again
  };

  GenerationCall(Environment environment, Start start, std::shared_ptr<HttpExchange> exchange);
  ~GenerationCall();
  GenerationCall(const GenerationCall&) = delete;
  GenerationCall& operator=(const GenerationCall&) = delete;

  /// Submits all choices or none, and answers when they are done (or as they go). Errors are
  /// answered, not returned.
  void start();

 private:
  using Clock = std::chrono::steady_clock;

  struct Choice {
    RequestId id;
    std::unique_ptr<TextStream> text;
    ChoicePart part;  ///< not yet sent (stream), or all of it
    size_t text_bytes = 0;
    int64_t num_tokens = 0;
    int64_t num_cached_tokens = 0;
    bool submitted = false;
    bool finished = false;
    bool reported = false;  ///< stream: the finish_reason was sent
    Clock::time_point last_token_at;
  };

  ApiResult<bool> submit_all();
  Request make_request(const Prompt& prompt, uint64_t seed) const;
  void open_stream();
  void on_updates();
  void take_update(Choice& choice, const RequestUpdate& update);
  void take_token(Choice& choice, const SampledToken& token);
  void finish_choice(Choice& choice, const char* reason);
  void send_parts();
  void answer_whole();
  void fail(const ApiError& error);
  void on_disconnect();
  void cut_slow_reader();
  void end(int status);  ///< cancels what still runs; nothing happens afterwards
  bool all_finished() const;
  Usage usage() const;
  double seconds_since_request() const;

  const Environment environment_;
  const Start start_;
  const std::shared_ptr<HttpExchange> exchange_;
  const std::shared_ptr<UpdateMailbox> mailbox_;
  const api_metrics::Endpoint endpoint_;
  OpenAiResponse response_;
  std::vector<Choice> choices_;
  size_t held_bytes_ = 0;  ///< text and logprobs in the choices' parts
  bool stream_open_ = false;
  bool ended_ = false;
};

}  // namespace phalanx
