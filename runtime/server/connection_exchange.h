// The handle with which a handler answers a request of an HttpConnection. Made by http_connection.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/server/http_message.h"

namespace phalanx {

class HttpConnection;

/// Answers request number `serial` of the connection, which it knows weakly: the server owns that.
std::shared_ptr<HttpExchange> make_connection_exchange(std::weak_ptr<HttpConnection> connection,
                                                       uint64_t serial);

}  // namespace phalanx
