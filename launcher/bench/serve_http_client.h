// One keep-alive HTTP connection of a load client, asynchronous, one request at a time. Used by
// serve_load; serve asks its few questions through http_get.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/buffers_range.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/optional.hpp>

#include "launcher/bench/serve_url.h"
#include "runtime/base/result.h"

namespace phalanx::bench {

/// A message body that grows as bytes come. Unlike Beast's string_body it believes no announced
/// length. A Beast Body.
struct GrowingBody {
  using value_type = std::string;

  class reader {  // NOLINT(readability-identifier-naming)
   public:
    template <bool is_request, typename Fields>
    reader(boost::beast::http::header<is_request, Fields>&, value_type& bytes) : bytes_(bytes) {}
    void init(const boost::optional<uint64_t>&, boost::system::error_code& code) { code = {}; }
    template <typename Buffers>
    size_t put(const Buffers& buffers, boost::system::error_code& code) {
      code = {};
      size_t num_bytes = 0;
      for (const boost::asio::const_buffer part : boost::beast::buffers_range_ref(buffers)) {
        bytes_.append(static_cast<const char*>(part.data()), part.size());
        num_bytes += part.size();
      }
      return num_bytes;
    }
    void finish(boost::system::error_code& code) { code = {}; }

   private:
    value_type& bytes_;
  };
};

/// A server and how to speak to it.
struct HttpTarget {
  ServeUrl url;
  std::vector<boost::asio::ip::tcp::endpoint> endpoints;  ///< tried in order
  std::string api_key;                                    ///< empty: no Authorization header
};

/// Looks the host up. Errors: kUnavailable naming host and the system's reason.
Result<HttpTarget> resolve_target(const ServeUrl& url, std::string api_key);

/// A whole HTTP/1.1 request. A body is JSON.
std::string make_http_request(const HttpTarget& target, const std::string& method,
                              const std::string& path, const std::string& body);

/// How an exchange ended.
enum class HttpEnd {
  kDone,  ///< the answer is complete
  kNoConnection,
  kBroken,  ///< the connection ended early, or what came is not HTTP
  kTimeout,
  kCancelled,
  kAbandoned  ///< as the body's reader wished
};

/// What the reader of a body wants.
enum class BodyWish {
  kMore,
  kEnough,  ///< it has all; what is left of the framing may take kFramingTimeout to come
  kAbandon
};
constexpr std::chrono::milliseconds kFramingTimeout{1000};

struct HttpHead {
  int status = 0;  ///< 0: none came
  std::string content_type;
};

/// Thread: the io_context's only one. Must outlive the io_context's run() once started.
class HttpClient {
 public:
  /// The next bytes of the body, unchunked.
  using OnBytes = std::function<BodyWish(const HttpHead& head, std::string_view bytes)>;
  /// Once, after which start() may be called again, also from within. `reason` says why not kDone.
  using OnEnd = std::function<void(HttpEnd end, const HttpHead& head, const std::string& reason)>;

  /// `target` must outlive this.
  HttpClient(boost::asio::io_context& io, const HttpTarget& target);

  /// Sends `request` (make_http_request), on the open connection if there is one: when that turns
  /// out to be closed by the server before it answered a byte, once again on a fresh one. `timeout`
  /// covers everything, connecting included.
  void start(std::string request, std::chrono::milliseconds timeout, OnBytes on_bytes,
             OnEnd on_end);
  /// Ends the exchange under way, if any, as kCancelled; on_end comes later.
  void cancel();
  int64_t num_connections() const { return num_connections_; }  ///< opened so far

 private:
  void connect();
  void write();
  void read();
  void handle_read(boost::system::error_code code);
  /// Feeds what has come to parser_; what stands in the way, if anything.
  boost::system::error_code parse(boost::system::error_code code);
  void set_deadline(std::chrono::milliseconds after);
  /// Closes the socket, so that the operation under way ends and with it the exchange, as `end`.
  void stop(HttpEnd end, std::string reason);
  void fail(boost::system::error_code code, HttpEnd end, const std::string& what);
  void finish(HttpEnd end, const std::string& reason);
  void close();

  const HttpTarget& target_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer deadline_;
  boost::beast::flat_buffer buffer_;
  std::optional<boost::beast::http::response_parser<GrowingBody>> parser_;

  // The exchange under way.
  bool is_busy_ = false;
  uint64_t number_ = 0;  ///< tells a deadline of an earlier exchange from this one's
  std::string request_;
  std::chrono::milliseconds timeout_{0};
  OnBytes on_bytes_;
  OnEnd on_end_;
  HttpHead head_;
  bool is_reused_ = false;     ///< the connection has served an exchange before
  bool has_answered_ = false;  ///< a byte of the answer has come
  bool has_enough_ = false;    ///< BodyWish::kEnough was said
  std::optional<HttpEnd> stopped_as_;
  std::string stop_reason_;
  std::string write_error_;
  int64_t num_connections_ = 0;
};

struct HttpReply {
  int status = 0;
  std::string body;  ///< at most 1 MiB of it
};

/// GET, on a connection of its own. Errors: kUnavailable (no connection), kDeadlineExceeded,
/// kIoError, naming the target.
Result<HttpReply> http_get(const HttpTarget& target, const std::string& path,
                           std::chrono::milliseconds timeout);

}  // namespace phalanx::bench
