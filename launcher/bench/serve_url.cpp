// Splitting --url.
#include "launcher/bench/serve_url.h"

#include <algorithm>
#include <charconv>

namespace phalanx::bench {
namespace {

bool is_number(const std::string& text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool is_port(const std::string& text) {
  int number = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return is_number(text) && code == std::errc() && end == text.data() + text.size() &&
         number >= 1 && number <= 65535;
}

}  // namespace

std::string ServeUrl::authority() const {
  return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + port;
}

std::string ServeUrl::api_path(const std::string& call) const {
  const std::string last = prefix.substr(std::min(prefix.rfind('/'), prefix.size()));
  const bool has_version = last.starts_with("/v") && is_number(last.substr(2));
  return prefix + (has_version ? "/" : "/v1/") + call;
}

Result<ServeUrl> parse_serve_url(const std::string& url) {
  const auto wrong = [&](const std::string& why) {
    return invalid_argument("--url is \"" + url +
                            "\", must be http://HOST[:PORT][/PREFIX]: " + why);
  };
  constexpr char kScheme[] = "http://";
  if (url.starts_with("https://"))
    return wrong("https is not spoken here; name the server's plain port");
  if (!url.starts_with(kScheme)) return wrong("it does not begin with http://");
  if (std::any_of(url.begin(), url.end(), [](char c) { return c <= ' ' || c == 127; }))
    return wrong("it has a space or control character");
  const std::string rest = url.substr(sizeof(kScheme) - 1);
  const size_t path = std::min(rest.find('/'), rest.size());
  const std::string authority = rest.substr(0, path);
  ServeUrl parts;
  parts.prefix = rest.substr(path);
  if (parts.prefix.find_first_of("?#") != std::string::npos)
    return wrong("it has a query or fragment");
  while (parts.prefix.ends_with('/')) parts.prefix.pop_back();
  if (authority.find('@') != std::string::npos)
    return wrong("a user name is not spoken; give --api-key");

  std::string port;
  if (authority.starts_with('[')) {
    const size_t bracket = authority.find(']');
    if (bracket == std::string::npos) return wrong("a bracket is not closed");
    parts.host = authority.substr(1, bracket - 1);
    port = authority.substr(bracket + 1);
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    parts.host = authority.substr(0, colon);
    port = authority.substr(colon);
  }
  if (parts.host.empty()) return wrong("the host is empty");
  if (port.empty()) port = ":80";
  parts.port = port.substr(1);
  if (port[0] != ':' || !is_port(parts.port)) return wrong("the port is not in 1..65535");
  return parts;
}

}  // namespace phalanx::bench
