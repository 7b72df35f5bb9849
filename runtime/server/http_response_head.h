// The status line and the fields that the server adds to an answer. Called by http_connection.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/server/http_message.h"

namespace phalanx {

/// How a client finds the end of the body.
enum class BodyFraming : uint8_t {
  kLength,      ///< Content-Length: the body is whole
  kChunked,     ///< a stream over HTTP/1.1
  kUntilClose,  ///< a stream over HTTP/1.0
};

struct ResponseFraming {
  BodyFraming body = BodyFraming::kLength;
  bool keep_alive = false;
  bool http_1_0 = false;          ///< keep-alive must be said, not assumed
  std::string cors_allow_origin;  ///< empty: no CORS fields
};

/// Everything up to the empty line, inclusive. 204 and 304 have neither Content-Type nor length.
std::string make_response_head(const HttpResponse& response, const ResponseFraming& framing);

}  // namespace phalanx
