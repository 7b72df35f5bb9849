// Routing, the small endpoints, and the way from a body to a GenerationCall.
#include "runtime/server/openai_api.h"

#include <array>
#include <ctime>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

#include "runtime/base/metrics.h"
#include "runtime/server/chat_page.h"
#include "runtime/server/generation_call.h"
#include "runtime/server/prompt_encoding.h"
#include "runtime/server/url_query.h"

namespace phalanx {
namespace {

using nlohmann::ordered_json;

enum class Route : uint8_t {
  kCompletions,
  kChatCompletions,
  kCompletionsStream,
  kChatCompletionsStream,
  kModels,
  kModel,
  kLive,
  kReady,
  kHealth,
  kMetrics,
  kPage,
  kFavicon,
  kNone,
};

constexpr std::string_view kModelPrefix = "/v1/models/";

struct Path {
  std::string_view path;
  Route route;
};

constexpr std::array kPaths = {
    Path{"/v1/completions", Route::kCompletions},
    Path{"/v1/chat/completions", Route::kChatCompletions},
    Path{"/v1/completions/stream", Route::kCompletionsStream},
    Path{"/v1/chat/completions/stream", Route::kChatCompletionsStream},
    Path{"/v1/models", Route::kModels},
    Path{"/live", Route::kLive},
    Path{"/ready", Route::kReady},
    Path{"/health", Route::kHealth},
    Path{"/metrics", Route::kMetrics},
    Path{"/", Route::kPage},
    Path{"/favicon.ico", Route::kFavicon},
};

Route find_route(std::string_view path) {
  for (const Path& known : kPaths) {
    if (known.path == path) return known.route;
  }
  if (path.size() > kModelPrefix.size() && path.substr(0, kModelPrefix.size()) == kModelPrefix)
    return Route::kModel;
  return Route::kNone;
}

const char* allowed_methods(Route route) {
  switch (route) {
    case Route::kCompletions:
    case Route::kChatCompletions:
      return "POST, OPTIONS";
    case Route::kCompletionsStream:
    case Route::kChatCompletionsStream:
      return "GET, OPTIONS";
    case Route::kModels:
    case Route::kModel:
    case Route::kLive:
    case Route::kReady:
    case Route::kHealth:
    case Route::kMetrics:
    case Route::kPage:
    case Route::kFavicon:
      return "GET, HEAD, OPTIONS";
    case Route::kNone:
      return "GET, HEAD, POST, OPTIONS";
  }
  return "";
}

bool is_allowed(Route route, std::string_view method) {
  const std::string_view allowed = allowed_methods(route);
  const size_t found = allowed.find(method);
  if (found == std::string_view::npos || method.empty()) return false;
  const size_t end = found + method.size();
  return (found == 0 || allowed[found - 1] == ' ') &&
         (end == allowed.size() || allowed[end] == ',');
}

api_metrics::Endpoint endpoint_of(Route route) {
  switch (route) {
    case Route::kCompletions:
    case Route::kCompletionsStream:
      return api_metrics::Endpoint::kCompletions;
    case Route::kChatCompletions:
    case Route::kChatCompletionsStream:
      return api_metrics::Endpoint::kChatCompletions;
    case Route::kModels:
    case Route::kModel:
    case Route::kLive:
    case Route::kReady:
    case Route::kHealth:
    case Route::kMetrics:
    case Route::kPage:
    case Route::kFavicon:
    case Route::kNone:
      return api_metrics::Endpoint::kOther;
  }
  return api_metrics::Endpoint::kOther;
}

const char* state_name(ServiceState state) {
  switch (state) {
    case ServiceState::kLoading:
      return "loading";
    case ServiceState::kReady:
      return "ready";
    case ServiceState::kDraining:
      return "draining";
    case ServiceState::kFailed:
      return "failed";
  }
  return "unknown";
}

HttpResponse preflight(Route route, bool cors) {
  HttpResponse response;
  response.status = 204;
  response.headers.emplace_back("Allow", allowed_methods(route));
  if (cors) {
    response.headers.emplace_back("Access-Control-Allow-Methods", allowed_methods(route));
    response.headers.emplace_back("Access-Control-Allow-Headers",
                                  "Authorization, Content-Type, Last-Event-ID, *");
    response.headers.emplace_back("Access-Control-Max-Age", "86400");
  }
  return response;
}

HttpResponse page() {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.headers.emplace_back("Content-Security-Policy",
                                "default-src 'none'; style-src 'unsafe-inline'; "
                                "script-src 'unsafe-inline'; connect-src 'self'; "
                                "img-src 'self' data:; base-uri 'none'; form-action 'none'");
  response.headers.emplace_back("X-Content-Type-Options", "nosniff");
  response.body = chat_page_html();
  return response;
}

HttpResponse json_response(int status, const ordered_json& json) {
  HttpResponse response;
  response.status = status;
  response.body = json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  return response;
}

ApiError not_ready(ServiceState state) {
  return api_error_of_status(
      503, std::string("the server is ") + state_name(state) + " and takes no requests now");
}

}  // namespace

OpenAiApi::OpenAiApi(GenerationService& service, const TextCodec& codec,
                     const ServerOptions& options)
    : service_(service), codec_(codec), options_(options), created_(std::time(nullptr)) {}

HttpResponse OpenAiApi::error_response(int status, const std::string& message) {
  api_metrics::count_request(Endpoint::kOther, status);
  return error_http_response(api_error_of_status(status, message), options_.retry_after_seconds);
}

void OpenAiApi::answer(const Exchange& exchange, Endpoint endpoint, HttpResponse response) const {
  api_metrics::count_request(endpoint, response.status);
  exchange->respond(std::move(response));
}

void OpenAiApi::answer(const Exchange& exchange, Endpoint endpoint, const ApiError& error) const {
  answer(exchange, endpoint, error_http_response(error, options_.retry_after_seconds));
}

void OpenAiApi::handle(HttpRequest request, std::shared_ptr<HttpExchange> exchange) {
  const Route route = find_route(request.path);
  const Endpoint endpoint = endpoint_of(route);
  if (request.method == "OPTIONS")
    return answer(exchange, endpoint, preflight(route, !options_.cors_allow_origin.empty()));
  if (route == Route::kNone)
    return answer(exchange, endpoint,
                  api_error_of_status(404, "there is no " + request.path.substr(0, 200) +
                                               " here; see /v1/models, /v1/completions, "
                                               "/v1/chat/completions, /health, /metrics"));
  if (!is_allowed(route, request.method)) {
    HttpResponse response =
        error_http_response(api_error_of_status(405, "the method " + request.method.substr(0, 32) +
                                                         " is not allowed for " + request.path +
                                                         "; allowed: " + allowed_methods(route)),
                            options_.retry_after_seconds);
    response.headers.emplace_back("Allow", allowed_methods(route));
    return answer(exchange, endpoint, std::move(response));
  }
  switch (route) {
    case Route::kCompletions:
      return generate(request, exchange, false);
    case Route::kChatCompletions:
      return generate(request, exchange, true);
    case Route::kCompletionsStream:
      return generate_from_query(request, exchange, false);
    case Route::kChatCompletionsStream:
      return generate_from_query(request, exchange, true);
    case Route::kModels:
      return answer(exchange, endpoint, models());
    case Route::kModel:
      return answer(exchange, endpoint, model(request.path.substr(kModelPrefix.size())));
    case Route::kLive:
      return answer(exchange, endpoint, live());
    case Route::kReady:
      return answer(exchange, endpoint, ready());
    case Route::kHealth:
      return answer(exchange, endpoint, health());
    case Route::kMetrics: {
      HttpResponse response;
      response.content_type = "text/plain; version=0.0.4; charset=utf-8";
      response.body = metrics_text();
      return answer(exchange, endpoint, std::move(response));
    }
    case Route::kPage:
      return answer(exchange, endpoint, page());
    case Route::kFavicon: {
      HttpResponse response;
      response.status = 204;
      return answer(exchange, endpoint, std::move(response));
    }
    case Route::kNone:
      return;
  }
}

void OpenAiApi::generate(const HttpRequest& request, const Exchange& exchange, bool is_chat) {
  const Endpoint endpoint = is_chat ? Endpoint::kChatCompletions : Endpoint::kCompletions;
  const std::string_view encoding = request.header("content-encoding");
  if (!encoding.empty() && encoding != "identity") {
    return answer(exchange, endpoint,
                  api_error_of_status(415, "Content-Encoding must be identity or absent"));
  }
  ApiResult<RequestJson> body =
      parse_json_object(request.body, options_.max_json_depth, options_.max_json_values);
  if (!body.ok()) return answer(exchange, endpoint, body.error());
  start_call(request, exchange, body.value(), is_chat, false);
}

void OpenAiApi::generate_from_query(const HttpRequest& request, const Exchange& exchange,
                                    bool is_chat) {
  const Endpoint endpoint = is_chat ? Endpoint::kChatCompletions : Endpoint::kCompletions;
  if (!request.header("last-event-id").empty()) {
    HttpResponse response;
    response.status = 204;
    return answer(exchange, endpoint, std::move(response));
  }
  const auto query = parse_query(request.query);
  if (!query)
    return answer(exchange, endpoint,
                  invalid_field("", "the query is not well-formed: % needs two hex digits"));
  ApiResult<RequestJson> body = body_of_query(*query, is_chat, options_);
  if (!body.ok()) return answer(exchange, endpoint, body.error());
  start_call(request, exchange, body.value(), is_chat, true);
}

void OpenAiApi::start_call(const HttpRequest& request, const Exchange& exchange,
                           const RequestJson& body, bool is_chat, bool is_event_source) {
  const Endpoint endpoint = is_chat ? Endpoint::kChatCompletions : Endpoint::kCompletions;
  const ServiceInfo& info = service_.info();
  ApiResult<OpenAiRequest> parsed = is_chat ? parse_chat_request(body, options_, info)
                                            : parse_completion_request(body, options_, info);
  if (!parsed.ok()) return answer(exchange, endpoint, parsed.error());
  const ServiceState state = service_.state();
  if (state != ServiceState::kReady) return answer(exchange, endpoint, not_ready(state));

  GenerationCall::Start start;
  start.request = std::move(parsed.value());
  start.client = start.request.client.empty() ? request.remote_address : start.request.client;
  start.received_at = request.received_at;
  start.is_event_source = is_event_source;
  ApiResult<std::vector<GenerationCall::Prompt>> prompts =
      make_prompts(start.request, codec_, options_, info);
  if (!prompts.ok()) return answer(exchange, endpoint, prompts.error());
  start.prompts = std::move(prompts.value());
  std::make_shared<GenerationCall>(GenerationCall::Environment{service_, codec_, options_},
                                   std::move(start), exchange)
      ->start();
}

HttpResponse OpenAiApi::models() const {
  const ServiceInfo& info = service_.info();
  return json_response(
      200, {{"object", "list"},
            {"data", ordered_json::array({{{"id", info.model_name},
                                           {"object", "model"},
                                           {"created", created_},
                                           {"owned_by", "phalanx"},
                                           {"max_model_len", info.max_context_tokens}}})}});
}

HttpResponse OpenAiApi::model(const std::string& encoded_id) const {
  const ServiceInfo& info = service_.info();
  const auto id = percent_decode(encoded_id, false);
  if (!id || *id != info.model_name) {
    ApiError error =
        api_error_of_status(404, "The model '" + id.value_or(encoded_id) +
                                     "' does not exist; this server has '" + info.model_name + "'");
    error.param = "model";
    error.code = "model_not_found";
    return error_http_response(error, options_.retry_after_seconds);
  }
  return json_response(200, {{"id", info.model_name},
                             {"object", "model"},
                             {"created", created_},
                             {"owned_by", "phalanx"},
                             {"max_model_len", info.max_context_tokens}});
}

HttpResponse OpenAiApi::live() const {
  const bool alive = service_.state() != ServiceState::kFailed;
  return json_response(alive ? 200 : 503, {{"status", alive ? "alive" : "failed"}});
}

HttpResponse OpenAiApi::ready() const {
  const ServiceState state = service_.state();
  if (state != ServiceState::kReady)
    return error_http_response(not_ready(state), options_.retry_after_seconds);
  return json_response(200, {{"status", "ready"}});
}

HttpResponse OpenAiApi::health() const {
  const ServiceInfo& info = service_.info();
  const ServiceState state = service_.state();
  return json_response(state == ServiceState::kFailed ? 503 : 200,
                       {{"status", state_name(state)},
                        {"model", info.model_name},
                        {"max_context_tokens", info.max_context_tokens},
                        {"kv_capacity_tokens", info.kv_capacity_tokens},
                        {"vocab_size", info.vocab_size}});
}

}  // namespace phalanx
