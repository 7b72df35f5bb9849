// Listening, connecting and the handshake that tells our ranks from strangers. Called at start-up.
#include "parallel/tcp_star.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <sstream>

#include <ifaddrs.h>
#include <net/if.h>

#include "parallel/mpi_session.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

using Clock = std::chrono::steady_clock;

/// What a spoke says first and what the leader answers. Each knows the other's half only from MPI.
struct Secret {
  std::array<uint64_t, 2> hello{};
  std::array<uint64_t, 2> answer{};
};
struct Hello {
  std::array<uint64_t, 2> secret{};
  int64_t rank = 0;
};
using Answer = std::array<uint64_t, 2>;

/// An address nobody answers at costs a spoke this long.
constexpr std::chrono::milliseconds kAttemptTime{2'000};
/// Strangers that connect and say nothing hold at most so many places.
constexpr size_t kMaxUnknownConnections = 64;

struct Address {
  in_addr ip{};
  in_addr mask{};
};

std::string system_text(const std::string& what) { return what + ": " + std::strerror(errno); }

std::vector<Address> local_addresses() {
  std::vector<Address> addresses;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) throw DeviceError(system_text("getifaddrs"));
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    if ((entry->ifa_flags & IFF_UP) == 0 || (entry->ifa_flags & IFF_LOOPBACK) != 0) continue;
    sockaddr_in ip{};
    sockaddr_in mask{};
    std::memcpy(&ip, entry->ifa_addr, sizeof(ip));
    if (entry->ifa_netmask != nullptr) std::memcpy(&mask, entry->ifa_netmask, sizeof(mask));
    addresses.push_back({ip.sin_addr, mask.sin_addr});
  }
  freeifaddrs(list);
  return addresses;
}

std::string address_text(in_addr ip) {
  char text[INET_ADDRSTRLEN] = {};
  inet_ntop(AF_INET, &ip, text, sizeof(text));
  return text;
}

void prepare(int descriptor) {
  const int on = 1;
  setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/// Waits for `events`; false when `end` comes first.
bool poll_until(int descriptor, short events, Clock::time_point end) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
    if (left.count() <= 0) return false;
    pollfd entry{descriptor, events, 0};
    const int count = poll(&entry, 1, static_cast<int>(left.count()));
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) throw DeviceError(system_text("poll"));
  }
}

/// How the leader can be reached: "port secrets... addresses...".
struct Invitation {
  uint16_t port = 0;
  Secret secret;
  std::vector<std::string> addresses;

  std::string text() const {
    std::ostringstream out;
    out << port;
    for (uint64_t word : secret.hello) out << ' ' << word;
    for (uint64_t word : secret.answer) out << ' ' << word;
    for (const std::string& address : addresses) out << ' ' << address;
    return out.str();
  }
  static Invitation parse(const std::string& text) {
    Invitation invitation;
    std::istringstream in(text);
    in >> invitation.port;
    for (uint64_t& word : invitation.secret.hello) in >> word;
    for (uint64_t& word : invitation.secret.answer) in >> word;
    PHALANX_CHECK(!in.fail(), "not an invitation: \"" + text + "\"");
    for (std::string address; in >> address;) invitation.addresses.push_back(address);
    return invitation;
  }
};

/// The leader's side while spokes come in.
class Reception {
 public:
  Reception() {
    listener_ = Socket(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_ANY);
    if (!listener_.is_open() ||
        bind(listener_.descriptor(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
        listen(listener_.descriptor(), SOMAXCONN) != 0)
      throw DeviceError(system_text("listening for the other ranks"));
    socklen_t length = sizeof(address);
    getsockname(listener_.descriptor(), reinterpret_cast<sockaddr*>(&address), &length);
    invitation_.port = ntohs(address.sin_port);
    std::array<uint64_t, 4> words{};
    if (getrandom(words.data(), sizeof(words), 0) != sizeof(words))
      throw DeviceError(system_text("getrandom"));
    invitation_.secret = {{words[0], words[1]}, {words[2], words[3]}};
    for (const Address& local : local_addresses())
      invitation_.addresses.push_back(address_text(local.ip));
  }

  const Invitation& invitation() const { return invitation_; }

  /// Until every spoke is connected or `end` has come: then some sockets stay closed.
  std::vector<Socket> receive(int world_size, const std::vector<int>& spokes,
                              Clock::time_point end) {
    sockets_.resize(static_cast<size_t>(world_size));
    const auto is_complete = [&] {
      return std::all_of(spokes.begin(), spokes.end(), [this](int spoke) {
        return sockets_[static_cast<size_t>(spoke)].is_open();
      });
    };
    while (!is_complete() && Clock::now() < end) {
      std::vector<pollfd> entries{{listener_.descriptor(), POLLIN, 0}};
      for (const Socket& guest : unknown_) entries.push_back({guest.descriptor(), POLLIN, 0});
      if (poll(entries.data(), entries.size(), 100) <= 0) continue;
      for (size_t i = unknown_.size(); i-- > 0;)
        if (entries[i + 1].revents != 0) read_hello(i, spokes);
      if (entries[0].revents != 0) accept_one();
    }
    return std::move(sockets_);
  }

 private:
  void accept_one() {
    Socket guest(accept4(listener_.descriptor(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!guest.is_open()) return;
    prepare(guest.descriptor());
    if (unknown_.size() >= kMaxUnknownConnections) unknown_.erase(unknown_.begin());
    unknown_.push_back(std::move(guest));
  }

  /// A hello is 24 bytes in one packet: one that comes in pieces is a stranger's.
  void read_hello(size_t index, const std::vector<int>& spokes) {
    Socket guest = std::move(unknown_[index]);
    unknown_.erase(unknown_.begin() + static_cast<ptrdiff_t>(index));
    Hello hello;
    if (recv(guest.descriptor(), &hello, sizeof(hello), 0) != sizeof(hello)) return;
    if (hello.secret != invitation_.secret.hello ||
        !std::binary_search(spokes.begin(), spokes.end(), static_cast<int>(hello.rank)))
      return;
    const Answer& answer = invitation_.secret.answer;
    if (send(guest.descriptor(), &answer, sizeof(answer), MSG_NOSIGNAL) != sizeof(answer)) return;
    sockets_[static_cast<size_t>(hello.rank)] = std::move(guest);
  }

  Socket listener_;
  Invitation invitation_;
  std::vector<Socket> unknown_;
  std::vector<Socket> sockets_;
};

/// One attempt. On failure the socket stays closed and `trouble` says why.
Socket connect_to(const std::string& ip, const Invitation& invitation, int rank,
                  std::string& trouble) {
  const Clock::time_point end = Clock::now() + kAttemptTime;
  trouble = "no answer";
  Socket attempt(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(invitation.port);
  if (!attempt.is_open() || inet_pton(AF_INET, ip.c_str(), &address.sin_addr) != 1) return {};
  prepare(attempt.descriptor());
  if (connect(attempt.descriptor(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    int error = errno;
    if (error == EINPROGRESS) {
      if (!poll_until(attempt.descriptor(), POLLOUT, end)) return {};
      socklen_t length = sizeof(error);
      getsockopt(attempt.descriptor(), SOL_SOCKET, SO_ERROR, &error, &length);
    }
    if (error != 0) {
      trouble = std::strerror(error);
      return {};
    }
  }
  const Hello hello{invitation.secret.hello, rank};
  if (send(attempt.descriptor(), &hello, sizeof(hello), MSG_NOSIGNAL) != sizeof(hello)) return {};
  if (!poll_until(attempt.descriptor(), POLLIN, end)) return {};
  Answer answer{};
  if (recv(attempt.descriptor(), &answer, sizeof(answer), 0) != sizeof(answer) ||
      answer != invitation.secret.answer) {
    trouble = "somebody else answered";
    return {};
  }
  return attempt;
}

/// The leader's addresses in the order worth trying: this very host, then networks we share.
std::vector<std::string> order_addresses(const Invitation& invitation, bool is_same_host) {
  const std::vector<Address> own = local_addresses();
  const auto shares_network = [&](const std::string& text) {
    in_addr ip{};
    inet_pton(AF_INET, text.c_str(), &ip);
    return std::any_of(own.begin(), own.end(), [&](const Address& local) {
      return (ip.s_addr & local.mask.s_addr) == (local.ip.s_addr & local.mask.s_addr);
    });
  };
  std::vector<std::string> ordered = invitation.addresses;
  std::stable_partition(ordered.begin(), ordered.end(), shares_network);
  ordered.insert(is_same_host ? ordered.begin() : ordered.end(), "127.0.0.1");
  return ordered;
}

}  // namespace

void Socket::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

std::vector<Socket> make_tcp_star(MpiSession& session, const std::vector<int>& spokes,
                                  const char* purpose, std::chrono::milliseconds deadline) {
  const auto world_size = static_cast<size_t>(session.world_size());
  std::vector<Socket> sockets(world_size);
  if (spokes.empty()) return sockets;
  const auto& hosts = session.hosts();
  std::string trouble;
  if (session.rank() == 0) {
    Reception reception;
    session.broadcast(reception.invitation().text(), 0);
    sockets = reception.receive(session.world_size(), spokes, Clock::now() + deadline);
    session.all_gather("");  // the listener stays open until every spoke has finished trying
  } else {
    const Invitation invitation = Invitation::parse(session.broadcast("", 0));
    if (std::binary_search(spokes.begin(), spokes.end(), session.rank())) {
      const bool is_same_host = hosts[0] == hosts[static_cast<size_t>(session.rank())];
      for (const std::string& ip : order_addresses(invitation, is_same_host)) {
        std::string reason;
        sockets[0] = connect_to(ip, invitation, session.rank(), reason);
        if (sockets[0].is_open()) break;
        trouble += " " + ip + ":" + std::to_string(invitation.port) + " (" + reason + ")";
      }
      if (sockets[0].is_open()) trouble.clear();
    }
    session.all_gather("");
  }
  if (session.rank() == 0) {
    for (int spoke : spokes)
      if (!sockets[static_cast<size_t>(spoke)].is_open()) trouble = " nothing came to the leader";
  }
  const auto troubles = session.all_gather(trouble);
  for (size_t i = world_size; i-- > 0;)  // a spoke's own account says more than the leader's
    if (!troubles[i].empty())
      throw DeviceError(std::string(purpose) + ": rank " + std::to_string(i) + " on " + hosts[i] +
                        " and the leader on " + hosts[0] + " are not connected; tried" +
                        troubles[i]);
  return sockets;
}

}  // namespace phalanx::parallel
