// The shape of errors on the wire, and which Error means which status.
#include "runtime/server/api_error.h"

#include <nlohmann/json.hpp>

namespace phalanx {

ApiError invalid_field(std::string param, std::string message) {
  ApiError error;
  error.message = std::move(message);
  error.param = std::move(param);
  return error;
}

ApiError unsupported_field(std::string param, std::string message) {
  ApiError error = invalid_field(std::move(param), std::move(message));
  error.code = "unsupported";
  return error;
}

ApiError api_error_of_status(int status, std::string message) {
  ApiError error;
  error.status = status;
  error.message = std::move(message);
  switch (status) {
    case 404:
      error.code = "not_found";
      break;
    case 405:
      error.code = "method_not_allowed";
      break;
    case 408:
      error.code = "request_timeout";
      break;
    case 413:
    case 414:
    case 431:
      error.code = "request_too_large";
      break;
    case 429:
      error.type = "rate_limit_error";
      error.code = "queue_full";
      break;
    case 503:
      error.type = "service_unavailable_error";
      error.code = "service_unavailable";
      break;
    default:
      if (status >= 500) error.type = "server_error";
      if (status >= 500) error.code = "internal_error";
      break;
  }
  return error;
}

ApiError to_api_error(const Error& error) {
  switch (error.code) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kAlreadyExists:
    case ErrorCode::kDataLoss:
      return api_error_of_status(400, error.message);
    case ErrorCode::kUnsupported:
      return unsupported_field("", error.message);
    case ErrorCode::kNotFound:
      return api_error_of_status(404, error.message);
    case ErrorCode::kResourceExhausted:
      return api_error_of_status(429, error.message);
    case ErrorCode::kFailedPrecondition:
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kCancelled:
    case ErrorCode::kUnavailable:
      return api_error_of_status(503, error.message);
    case ErrorCode::kIoError:
      return api_error_of_status(500, error.message);
  }
  return api_error_of_status(500, error.message);
}

std::string error_json(const ApiError& error) {
  const auto or_null = [](const std::string& text) {
    return text.empty() ? nlohmann::ordered_json() : nlohmann::ordered_json(text);
  };
  const nlohmann::ordered_json json = {{"error",
                                        {{"message", error.message},
                                         {"type", error.type},
                                         {"param", or_null(error.param)},
                                         {"code", or_null(error.code)}}}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

HttpResponse error_http_response(const ApiError& error, int retry_after_seconds) {
  HttpResponse response;
  response.status = error.status;
  response.body = error_json(error);
  if (error.status == 429 || error.status == 503)
    response.headers.emplace_back("Retry-After", std::to_string(retry_after_seconds));
  return response;
}

}  // namespace phalanx
