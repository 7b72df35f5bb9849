// Where a load client sends its requests: the parts of --url. Used by serve_http_client and serve.
#pragma once

#include <string>

#include "runtime/base/result.h"

namespace phalanx::bench {

/// "http://host[:port][/prefix]", taken apart.
struct ServeUrl {
  std::string host;    ///< without the brackets of an IPv6 address
  std::string port;    ///< "80" when the URL has none
  std::string prefix;  ///< path before the API's own, "" or "/..." without a slash at the end

  /// "host:port" as the Host header has it.
  std::string authority() const;

  /// Path of an API call, "completions": under the prefix, and under /v1 unless the prefix ends
  /// with a version of its own ("/v1", OpenVINO's "/v3").
  std::string api_path(const std::string& call) const;
};

/// Errors: kInvalidArgument naming the URL and what is wrong with it; https is not spoken.
Result<ServeUrl> parse_serve_url(const std::string& url);

}  // namespace phalanx::bench
