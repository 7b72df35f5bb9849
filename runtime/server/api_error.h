// What a client is told when a request cannot be answered: status and the fields of OpenAI's error
// object. Made by the request parsers and openai_api; the one place where an Error meets HTTP.
#pragma once

#include <optional>
#include <string>
#include <variant>

#include "runtime/base/check.h"
#include "runtime/base/result.h"
#include "runtime/server/http_message.h"

namespace phalanx {

struct ApiError {
  int status = 400;
  std::string message;  ///< the field, its value, what is allowed
  std::string type = "invalid_request_error";
  std::string param = "";  ///< the field, e.g. "messages[2].role"; empty: null in the answer
  std::string code = "";   ///< machine-readable, e.g. "model_not_found"; empty: null
};

/// A value or an ApiError, as Result is a value or an Error.
template <typename T>
class [[nodiscard]] ApiResult {
 public:
  ApiResult(T value) : state_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  ApiResult(ApiError error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)
  bool ok() const { return state_.index() == 0; }
  T& value() {
    PHALANX_CHECK(ok(), "value() of an ApiResult that holds an error");
    return std::get<0>(state_);
  }
  const ApiError& error() const {
    PHALANX_CHECK(!ok(), "error() of an ApiResult that holds a value");
    return std::get<1>(state_);
  }

 private:
  std::variant<T, ApiError> state_;
};

/// 400 for one field.
ApiError invalid_field(std::string param, std::string message);

/// 400 for something OpenAI defines and nothing here implements; code "unsupported".
ApiError unsupported_field(std::string param, std::string message);

/// kInvalidArgument, kUnsupported, kDataLoss, kAlreadyExists: 400; kNotFound: 404;
/// kResourceExhausted: 429; kUnavailable, kFailedPrecondition, kDeadlineExceeded, kCancelled: 503;
/// kIoError: 500.
ApiError to_api_error(const Error& error);

/// What OpenAI calls an HTTP status that has no better description.
ApiError api_error_of_status(int status, std::string message);

/// {"error": {"message", "type", "param", "code"}}; bytes that are not UTF-8 are replaced.
std::string error_json(const ApiError& error);

/// The whole response; 429 and 503 carry Retry-After.
HttpResponse error_http_response(const ApiError& error, int retry_after_seconds);

}  // namespace phalanx
