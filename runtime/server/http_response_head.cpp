// Renders response heads. The reason phrases are Boost's.
#include "runtime/server/http_response_head.h"

#include <ctime>

#include <boost/beast/http/status.hpp>

namespace phalanx {
namespace {

namespace http = boost::beast::http;

std::string http_date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[40];
  const size_t length = std::strftime(text, sizeof(text), "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return {text, length};
}

}  // namespace

std::string make_response_head(const HttpResponse& response, const ResponseFraming& framing) {
  const auto reason = http::obsolete_reason(static_cast<http::status>(response.status));
  std::string head = "HTTP/1.1 " + std::to_string(response.status) + " ";
  head.append(reason.data(), reason.size());
  head += "\r\nServer: phalanx\r\nDate: " + http_date() + "\r\n";
  const bool has_body = response.status >= 200 && response.status != 204 && response.status != 304;
  if (has_body) head += "Content-Type: " + response.content_type + "\r\n";
  if (!framing.cors_allow_origin.empty()) {
    head += "Access-Control-Allow-Origin: " + framing.cors_allow_origin + "\r\n";
    if (framing.cors_allow_origin != "*") head += "Vary: Origin\r\n";
  }
  for (const auto& [name, value] : response.headers)
    head.append(name).append(": ").append(value).append("\r\n");
  if (framing.body == BodyFraming::kChunked) {
    head += "Transfer-Encoding: chunked\r\n";
  } else if (has_body && framing.body == BodyFraming::kLength) {
    head += "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
  }
  if (!framing.keep_alive) {
    head += "Connection: close\r\n";
  } else if (framing.http_1_0) {
    head += "Connection: keep-alive\r\n";
  }
  return head + "\r\n";
}

}  // namespace phalanx
