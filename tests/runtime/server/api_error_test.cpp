// Which Error means which status, and the error object's shape.
#include "runtime/server/api_error.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace phalanx {
namespace {

TEST(ApiError, MapsEveryErrorCode) {
  const std::pair<ErrorCode, int> table[] = {
      {ErrorCode::kInvalidArgument, 400},
      {ErrorCode::kNotFound, 404},
      {ErrorCode::kAlreadyExists, 400},
      {ErrorCode::kDataLoss, 400},
      {ErrorCode::kUnsupported, 400},
      {ErrorCode::kResourceExhausted, 429},
      {ErrorCode::kFailedPrecondition, 503},
      {ErrorCode::kDeadlineExceeded, 503},
      {ErrorCode::kCancelled, 503},
      {ErrorCode::kUnavailable, 503},
      {ErrorCode::kIoError, 500},
  };
  for (const auto& [code, status] : table) {
    const ApiError error = to_api_error({code, "why"});
    EXPECT_EQ(error.status, status) << error_code_name(code);
    EXPECT_EQ(error.message, "why");
    EXPECT_FALSE(error.type.empty());
  }
}

TEST(ApiError, HasOpenAisShape) {
  EXPECT_EQ(error_json(invalid_field("n", "n is \"bad\"")),
            R"({"error":{"message":"n is \"bad\"","type":"invalid_request_error",)"
            R"("param":"n","code":null}})");
  EXPECT_EQ(nlohmann::json::parse(error_json(unsupported_field("x", "no")))["error"]["code"],
            "unsupported");
  EXPECT_TRUE(nlohmann::json::accept(error_json(api_error_of_status(500, "bytes \xff\xfe"))));
}

TEST(ApiError, RetryAfterOnlyWhereRetryingHelps) {
  for (const int status : {400, 404, 405, 408, 413, 429, 431, 500, 503}) {
    const HttpResponse response = error_http_response(api_error_of_status(status, "m"), 7);
    EXPECT_EQ(response.status, status);
    const bool has_retry = !response.headers.empty() && response.headers[0].first == "Retry-After";
    EXPECT_EQ(has_retry, status == 429 || status == 503) << status;
    if (has_retry) {
      EXPECT_EQ(response.headers[0].second, "7");
    }
  }
}

}  // namespace
}  // namespace phalanx
