// Passes what a handler says to its connection, as long as there is one.
#include "runtime/server/connection_exchange.h"

#include <exception>
#include <utility>

#include "runtime/base/log.h"
#include "runtime/server/http_connection.h"

namespace phalanx {
namespace {

class ConnectionExchange final : public HttpExchange {
 public:
  ConnectionExchange(std::weak_ptr<HttpConnection> connection, uint64_t serial)
      : connection_(std::move(connection)), serial_(serial) {}

  ~ConnectionExchange() override {
    if (answered_) return;
    if (auto connection = connection_.lock()) {
      connection->post([weak = connection_, serial = serial_] {
        if (auto self = weak.lock()) self->fail_answer(serial, "the request was left unanswered");
      });
    }
  }

  void respond(HttpResponse response) override {
    answered_ = true;
    if (auto connection = connection_.lock()) connection->respond(serial_, response);
  }
  void begin_stream(HttpResponse head, std::string heartbeat) override {
    if (auto connection = connection_.lock())
      connection->begin_stream(serial_, head, std::move(heartbeat));
  }
  bool send(std::string_view bytes) override {
    auto connection = connection_.lock();
    return connection && connection->send(serial_, bytes);
  }
  bool is_sending() const override {
    auto connection = connection_.lock();
    return connection && connection->is_sending();
  }
  void end_stream() override {
    answered_ = true;
    if (auto connection = connection_.lock()) connection->end_stream(serial_);
  }
  void abort() override {
    answered_ = true;
    if (auto connection = connection_.lock()) connection->abort_answer(serial_);
  }
  void on_disconnect(std::function<void()> callback) override {
    if (auto connection = connection_.lock())
      connection->on_disconnect(serial_, std::move(callback));
  }
  void on_drained(std::function<void()> callback) override {
    if (auto connection = connection_.lock()) connection->on_drained(serial_, std::move(callback));
  }
  void on_timeout(std::chrono::milliseconds after, std::function<void()> callback) override {
    if (auto connection = connection_.lock())
      connection->on_timeout(serial_, after, std::move(callback));
  }
  void post(std::function<void()> task) override {
    auto connection = connection_.lock();
    if (!connection) return;
    connection->post([weak = connection_, serial = serial_, task = std::move(task)] {
      const auto self = weak.lock();
      if (!self || self->is_closed()) return;
      try {
        task();
      } catch (const std::exception& error) {
        PHALANX_ERROR("http: an answer's task failed: " << error.what());
        self->fail_answer(serial, error.what());
      }
    });
  }

 private:
  const std::weak_ptr<HttpConnection> connection_;
  const uint64_t serial_;
  bool answered_ = false;
};

}  // namespace

std::shared_ptr<HttpExchange> make_connection_exchange(std::weak_ptr<HttpConnection> connection,
                                                       uint64_t serial) {
  return std::make_shared<ConnectionExchange>(std::move(connection), serial);
}

}  // namespace phalanx
