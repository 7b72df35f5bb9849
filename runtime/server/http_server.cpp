// Accepts connections and keeps the set of them; see http_connection for what each one does.
#include "runtime/server/http_server.h"

#include <condition_variable>
#include <future>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>

#include "runtime/base/check.h"
#include "runtime/base/log.h"
#include "runtime/base/metrics.h"
#include "runtime/server/http_connection.h"

namespace phalanx {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

Counter connections_total("phalanx_http_connections_total", "Connections accepted");
Counter connections_refused("phalanx_http_connections_refused_total",
                            "Connections answered 503 because max_connections were open");
Gauge connections_open("phalanx_http_connections", "Connections open now");

// Connections over the limit that may be told so at a time; beyond them they are just closed.
constexpr int64_t kMaxRefusals = 64;

Status check_options(const ServerOptions& options) {
  const auto positive = [](const char* field, int64_t value) -> Status {
    if (value > 0) return {};
    return invalid_argument(std::string(field) + ": " + std::to_string(value) +
                            " is not allowed; it must be positive");
  };
  PHALANX_RETURN_IF_ERROR(positive("num_threads", options.num_threads));
  PHALANX_RETURN_IF_ERROR(positive("max_connections", options.max_connections));
  PHALANX_RETURN_IF_ERROR(
      positive("max_header_bytes", static_cast<int64_t>(options.max_header_bytes)));
  PHALANX_RETURN_IF_ERROR(
      positive("max_pipelined_bytes", static_cast<int64_t>(options.max_pipelined_bytes)));
  PHALANX_RETURN_IF_ERROR(positive("header_timeout", options.header_timeout.count()));
  PHALANX_RETURN_IF_ERROR(positive("body_timeout", options.body_timeout.count()));
  PHALANX_RETURN_IF_ERROR(positive("idle_timeout", options.idle_timeout.count()));
  PHALANX_RETURN_IF_ERROR(positive("write_timeout", options.write_timeout.count()));
  PHALANX_RETURN_IF_ERROR(positive("heartbeat_interval", options.heartbeat_interval.count()));
  if (options.cors_allow_origin.find_first_of("\r\n") != std::string::npos)
    return invalid_argument("cors_allow_origin: a line break is not allowed");
  return {};
}

}  // namespace

struct HttpServer::State {
  State(const ServerOptions& server_options, HttpHandler& handler)
      : options(server_options), host{options, handler, {}, {}, {}} {
    host.on_closed = [this](HttpConnection* connection) { forget(connection); };
  }

  Status listen();
  void accept();
  void on_accepted(const boost::system::error_code& error, tcp::socket socket);
  void forget(HttpConnection* connection);
  std::vector<std::shared_ptr<HttpConnection>> snapshot();

  const ServerOptions options;
  ConnectionHost host;
  asio::io_context io;
  std::optional<asio::executor_work_guard<asio::io_context::executor_type>> work;
  asio::strand<asio::io_context::executor_type> acceptor_strand{asio::make_strand(io)};
  tcp::acceptor acceptor{acceptor_strand};
  asio::steady_timer accept_pause{acceptor_strand};
  bool accept_fails = false;  ///< said once, until it succeeds again
  tcp::endpoint endpoint;
  std::vector<std::thread> threads;

  std::mutex mutex;
  std::condition_variable changed;
  std::unordered_map<HttpConnection*, std::shared_ptr<HttpConnection>> connections;
};

HttpServer::HttpServer(const ServerOptions& options, HttpHandler& handler)
    : state_(std::make_unique<State>(options, handler)) {}

HttpServer::~HttpServer() {
  try {
    stop(std::chrono::milliseconds(0));
  } catch (const std::exception& error) {
    PHALANX_ERROR("http: stop: " << error.what());
  }
}

Status HttpServer::State::listen() {
  boost::system::error_code error;
  auto address = asio::ip::make_address(options.address, error);
  if (error) {
    tcp::resolver resolver(io);
    const auto found = resolver.resolve(options.address, std::to_string(options.port), error);
    if (error || found.empty()) {
      return invalid_argument("address: \"" + options.address +
                              "\" is neither an IP address nor a known host name (" +
                              error.message() + ")");
    }
    address = found.begin()->endpoint().address();
  }
  endpoint = tcp::endpoint(address, options.port);

  const auto refused = [&](const char* what) {
    return failed_precondition("cannot " + std::string(what) + " " + address.to_string() +
                               " port " + std::to_string(options.port) + ": " + error.message() +
                               "; choose another address or port (0: any free one)");
  };
  acceptor.open(endpoint.protocol(), error);
  if (error) return refused("open a socket for");
  acceptor.set_option(asio::socket_base::reuse_address(true), error);
  if (!error && address.is_v6()) acceptor.set_option(asio::ip::v6_only(false), error);
  if (!error) acceptor.bind(endpoint, error);
  if (error) return refused("bind to");
  acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return refused("listen on");
  endpoint = acceptor.local_endpoint(error);
  if (error) return refused("name the endpoint of");
  return {};
}

Status HttpServer::start() {
  PHALANX_CHECK(state_->threads.empty() && !state_->host.draining, "start() twice");
  PHALANX_RETURN_IF_ERROR(check_options(state_->options));
  PHALANX_RETURN_IF_ERROR(state_->listen());
  state_->work.emplace(state_->io.get_executor());
  asio::post(state_->acceptor_strand, [state = state_.get()] { state->accept(); });
  for (int32_t i = 0; i < state_->options.num_threads; ++i) {
    state_->threads.emplace_back([state = state_.get()] {
      while (true) {
        try {
          state->io.run();
          return;
        } catch (const std::exception& error) {
          // Handlers catch their own; this keeps the server alive through what they missed.
          PHALANX_ERROR("http: an I/O thread caught: " << error.what());
        }
      }
    });
  }
  return {};
}

void HttpServer::State::accept() {
  if (!acceptor.is_open()) return;
  acceptor.async_accept(asio::make_strand(io),
                        [this](const boost::system::error_code& error, tcp::socket socket) {
                          on_accepted(error, std::move(socket));
                        });
}

void HttpServer::State::on_accepted(const boost::system::error_code& error, tcp::socket socket) {
  if (!acceptor.is_open()) return;
  if (error) {
    // Out of descriptors, most likely: wait for some to be closed instead of spinning.
    if (!std::exchange(accept_fails, true)) {
      PHALANX_WARNING("http: accept: " << error.message()
                                       << "; new connections wait (ulimit -n, max_connections)");
    }
    accept_pause.expires_after(std::chrono::milliseconds(100));
    accept_pause.async_wait([this](const boost::system::error_code& cancelled) {
      if (!cancelled) accept();
    });
    return;
  }
  accept_fails = false;
  auto connection = std::make_shared<HttpConnection>(std::move(socket), host);
  int64_t num_open = 0;
  {
    const std::lock_guard lock(mutex);
    num_open = static_cast<int64_t>(connections.size());
    if (num_open < options.max_connections + kMaxRefusals)
      connections.emplace(connection.get(), connection);
    connections_open.set(static_cast<double>(connections.size()));
  }
  connections_total.add();
  if (num_open < options.max_connections) {
    connection->start();
  } else {
    connections_refused.add();
    if (num_open < options.max_connections + kMaxRefusals) connection->refuse();
  }
  accept();
}

void HttpServer::State::forget(HttpConnection* connection) {
  const std::lock_guard lock(mutex);
  connections.erase(connection);
  connections_open.set(static_cast<double>(connections.size()));
  changed.notify_all();
}

std::vector<std::shared_ptr<HttpConnection>> HttpServer::State::snapshot() {
  const std::lock_guard lock(mutex);
  std::vector<std::shared_ptr<HttpConnection>> all;
  all.reserve(connections.size());
  for (const auto& [pointer, connection] : connections) all.push_back(connection);
  return all;
}

uint16_t HttpServer::port() const { return state_->endpoint.port(); }

std::string HttpServer::url() const {
  auto address = state_->endpoint.address();
  if (address.is_unspecified()) {
    address = address.is_v6() ? asio::ip::address(asio::ip::address_v6::loopback())
                              : asio::ip::address(asio::ip::address_v4::loopback());
  }
  const std::string host = address.is_v6() ? "[" + address.to_string() + "]" : address.to_string();
  return "http://" + host + ":" + std::to_string(port());
}

int64_t HttpServer::num_connections() const {
  const std::lock_guard lock(state_->mutex);
  return static_cast<int64_t>(state_->connections.size());
}

bool HttpServer::stop(std::chrono::milliseconds drain) {
  State& state = *state_;
  if (state.threads.empty()) return true;
  state.host.draining = true;

  std::promise<void> acceptor_closed;
  asio::post(state.acceptor_strand, [&] {
    boost::system::error_code ignored;
    state.acceptor.close(ignored);
    state.accept_pause.cancel();
    acceptor_closed.set_value();
  });
  acceptor_closed.get_future().wait();

  for (const auto& connection : state.snapshot()) connection->drain();
  bool all_finished = false;
  {
    std::unique_lock lock(state.mutex);
    all_finished = state.changed.wait_for(lock, drain, [&] { return state.connections.empty(); });
  }
  for (const auto& connection : state.snapshot()) connection->abort();
  state.work.reset();
  for (std::thread& thread : state.threads) thread.join();
  state.threads.clear();
  return all_finished;
}

}  // namespace phalanx
