// Result<T>: the value of an operation that a caller's input can make fail, or the Error saying
// why. Used for client-caused failures (files, flags, config, requests); broken invariants use
// check.h.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "runtime/base/check.h"

namespace phalanx {

/// What kind of failure it is. Mapped to HTTP statuses only in runtime/server/openai_api.
enum class ErrorCode {
  kInvalidArgument,  ///< a value outside what is allowed (the message names field, value, allowed)
  kNotFound,         ///< a file, model or id that does not exist
  kAlreadyExists,    ///< a target that must not exist yet
  kDataLoss,         ///< bytes that cannot be what they claim to be (the message has the offset)
  kUnsupported,      ///< well-formed, but nothing here implements it
  kResourceExhausted,   ///< a limit, a queue or memory is full; retrying later can help
  kFailedPrecondition,  ///< right request, wrong state or topology
  kDeadlineExceeded,    ///< a bounded wait ran out
  kCancelled,           ///< the client went away
  kUnavailable,         ///< the job is draining or failing
  kIoError,             ///< the operating system refused; the message has path and errno text
};

/// "invalid_argument", ...: stable names for logs and metrics.
const char* error_code_name(ErrorCode code);

struct Error {
  ErrorCode code = ErrorCode::kInvalidArgument;
  std::string message;  ///< one sentence: the field or byte offset, the value, what is allowed
};

/// Either a T or an Error. Not thread safe; moved like its content.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value)  // NOLINT(google-explicit-constructor)
      : state_(std::in_place_index<0>, std::move(value)) {}
  Result(Error error)  // NOLINT(google-explicit-constructor)
      : state_(std::in_place_index<1>, std::move(error)) {}

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  /// The value. Throws InternalError when there is none: check ok() first.
  T& value() & {
    PHALANX_CHECK(ok(), error_text());
    return std::get<0>(state_);
  }
  const T& value() const& {
    PHALANX_CHECK(ok(), error_text());
    return std::get<0>(state_);
  }
  T&& value() && {
    PHALANX_CHECK(ok(), error_text());
    return std::get<0>(std::move(state_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

  const Error& error() const {
    PHALANX_CHECK(!ok(), "error() of a Result that holds a value");
    return std::get<1>(state_);
  }

 private:
  std::string error_text() const { return ok() ? std::string() : std::get<1>(state_).message; }
  std::variant<T, Error> state_;
};

/// Success without a value, or an Error.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Error error) : error_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  bool ok() const { return !error_.has_value(); }
  explicit operator bool() const { return ok(); }
  const Error& error() const {
    PHALANX_CHECK(!ok(), "error() of a Status that is ok");
    return *error_;
  }

 private:
  std::optional<Error> error_;
};

inline Error invalid_argument(std::string message) {
  return {ErrorCode::kInvalidArgument, std::move(message)};
}
inline Error not_found(std::string message) { return {ErrorCode::kNotFound, std::move(message)}; }
inline Error data_loss(std::string message) { return {ErrorCode::kDataLoss, std::move(message)}; }
inline Error unsupported(std::string message) {
  return {ErrorCode::kUnsupported, std::move(message)};
}
inline Error resource_exhausted(std::string message) {
  return {ErrorCode::kResourceExhausted, std::move(message)};
}
inline Error failed_precondition(std::string message) {
  return {ErrorCode::kFailedPrecondition, std::move(message)};
}
inline Error unavailable(std::string message) {
  return {ErrorCode::kUnavailable, std::move(message)};
}
inline Error io_error(std::string message) { return {ErrorCode::kIoError, std::move(message)}; }

/// Returns the Error of `expr` (a Status or Result) from the enclosing function if it has one.
#define PHALANX_RETURN_IF_ERROR(expr)                                                         \
  do {                                                                                        \
    if (auto phalanx_status_ = (expr); !phalanx_status_.ok()) return phalanx_status_.error(); \
  } while (false)

#define PHALANX_CONCAT_INNER_(a, b) a##b
#define PHALANX_CONCAT_(a, b) PHALANX_CONCAT_INNER_(a, b)

/// `PHALANX_ASSIGN_OR_RETURN(auto x, f());` assigns the value of f() or returns its Error.
#define PHALANX_ASSIGN_OR_RETURN(lhs, expr) \
  PHALANX_ASSIGN_OR_RETURN_IMPL_(PHALANX_CONCAT_(phalanx_result_, __LINE__), lhs, expr)
#define PHALANX_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                   \
  if (!tmp.ok()) return tmp.error();                   \
  lhs = std::move(tmp).value()

}  // namespace phalanx
