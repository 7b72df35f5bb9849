// The listener, its threads and the set of open connections. Owned by the launcher, beside the
// leader; requests go to an HttpHandler (openai_api).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "runtime/base/result.h"
#include "runtime/server/http_message.h"
#include "runtime/server/server_options.h"

namespace phalanx {

/// HTTP/1.0 and 1.1 with keep-alive, pipelining (answered in order), chunked bodies both ways,
/// limits and deadlines as in ServerOptions. start() and stop() from one thread.
class HttpServer {
 public:
  /// `handler` must outlive the server.
  HttpServer(const ServerOptions& options, HttpHandler& handler);
  ~HttpServer();  ///< stop() with no time to drain
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// Binds, listens and starts the threads. Errors: kInvalidArgument for an address that does not
  /// resolve or a senseless option; kFailedPrecondition when the port is taken or not permitted
  /// (the message names address, port and the system's reason).
  Status start();

  /// The bound port; 0 before start().
  uint16_t port() const;

  /// "http://127.0.0.1:8000", with a host that a client on this machine can use.
  std::string url() const;

  int64_t num_connections() const;

  /// Accepts no more connections, closes the idle ones, lets running answers finish for at most
  /// `drain`, then cuts the rest (their on_disconnect is called) and joins the threads. True when
  /// nothing had to be cut. Idempotent. Not from a handler.
  bool stop(std::chrono::milliseconds drain);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace phalanx
