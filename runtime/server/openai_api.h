// The HTTP API: OpenAI's completions and chat, models, health and metrics, a page to try it with.
// Made by the launcher; called by http_server for every request.
#pragma once

#include <memory>
#include <string>

#include "runtime/server/api_error.h"
#include "runtime/server/api_metrics.h"
#include "runtime/server/generation_service.h"
#include "runtime/server/http_message.h"
#include "runtime/server/openai_request.h"
#include "runtime/server/server_options.h"
#include "runtime/server/text_codec.h"

namespace phalanx {

/// Endpoints (OPTIONS is answered everywhere, HEAD where GET returns a whole document):
///   POST /v1/completions, /v1/chat/completions   openai_request.h has the fields
///   GET  /v1/completions/stream?prompt=...       the same as a stream for a browser's EventSource,
///   GET  /v1/chat/completions/stream?message=... fields as query parameters (body_of_query). The
///        first event has an id; an EventSource that connects again (Last-Event-ID) gets 204, which
///        tells it to stop, so that nothing is generated twice
///   GET  /v1/models, /v1/models/{id}
///   GET  /live      200 until the job has failed
///   GET  /ready     200 while requests are taken, else 503 with Retry-After
///   GET  /health    state and limits as JSON; 200, or 503 when the job has failed
///   GET  /metrics   Prometheus text
///   GET  /          a chat page
/// Errors are OpenAI's objects: 400 a field is wrong, 404 no such path or model, 405, 413, 415, 429
/// the queue is full, 503 loading, draining or failed, 500. Thread-safe.
class OpenAiApi final : public HttpHandler {
 public:
  /// All three outlive this. `service.info()` must be final.
  OpenAiApi(GenerationService& service, const TextCodec& codec, const ServerOptions& options);

  void handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override;
  HttpResponse error_response(int status, const std::string& message) override;

 private:
  using Exchange = std::shared_ptr<HttpExchange>;
  using Endpoint = api_metrics::Endpoint;

  void generate(const HttpRequest& request, const Exchange& exchange, bool is_chat);
  void generate_from_query(const HttpRequest& request, const Exchange& exchange, bool is_chat);
  void start_call(const HttpRequest& request, const Exchange& exchange, const RequestJson& body,
                  bool is_chat, bool is_event_source);
  HttpResponse models() const;
  HttpResponse model(const std::string& encoded_id) const;
  HttpResponse live() const;
  HttpResponse ready() const;
  HttpResponse health() const;

  /// Answers and counts.
  void answer(const Exchange& exchange, Endpoint endpoint, HttpResponse response) const;
  void answer(const Exchange& exchange, Endpoint endpoint, const ApiError& error) const;

  GenerationService& service_;
  const TextCodec& codec_;
  const ServerOptions& options_;
  const int64_t created_;
};

}  // namespace phalanx
