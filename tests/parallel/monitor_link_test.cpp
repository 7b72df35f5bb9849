// Tests parallel/monitor_link over a socket pair: framing, pieces, closing, strangers' bytes.
#include "parallel/monitor_link.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <array>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace phalanx::parallel {
namespace {

using Messages = std::vector<std::pair<MonitorMessage, std::string>>;

class MonitorLinkTest : public testing::Test {
 protected:
  MonitorLinkTest() {
    std::array<int, 2> ends{};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends.data()), 0);
    ours_ = MonitorLink(Socket(ends[0]));
    theirs_ = Socket(ends[1]);
  }
  bool receive() {
    return ours_.receive([this](MonitorMessage kind, std::string_view text) {
      messages_.emplace_back(kind, std::string(text));
    });
  }
  void write_raw(std::string_view bytes) {
    ASSERT_EQ(send(theirs_.descriptor(), bytes.data(), bytes.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(bytes.size()));
  }

  MonitorLink ours_;
  Socket theirs_;
  Messages messages_;
};

TEST_F(MonitorLinkTest, MessagesArriveWholeAndInOrder) {
  MonitorLink other(std::move(theirs_));
  other.send(MonitorMessage::kHeartbeat, "one");
  other.send(MonitorMessage::kFinish, "");
  other.send(MonitorMessage::kFail, std::string(4096, 'x'));
  EXPECT_TRUE(receive());
  EXPECT_EQ(messages_, (Messages{{MonitorMessage::kHeartbeat, "one"},
                                 {MonitorMessage::kFinish, ""},
                                 {MonitorMessage::kFail, std::string(4096, 'x')}}));
}

TEST_F(MonitorLinkTest, PiecesAreJoined) {
  const std::string bytes = {2, 0, 5, 0, 'a', 'b', 'c', 'd', 'e'};
  for (char byte : bytes) {
    EXPECT_TRUE(messages_.empty());
    write_raw(std::string_view(&byte, 1));
    EXPECT_TRUE(receive());
  }
  EXPECT_EQ(messages_, (Messages{{MonitorMessage::kAbort, "abcde"}}));
}

TEST_F(MonitorLinkTest, TheLastWordsOfAClosedPeerAreHeard) {
  {
    MonitorLink other(std::move(theirs_));
    other.send(MonitorMessage::kAbort, "why");
  }
  EXPECT_FALSE(receive());
  EXPECT_FALSE(ours_.is_open());
  EXPECT_EQ(messages_, (Messages{{MonitorMessage::kAbort, "why"}}));
  ours_.send(MonitorMessage::kHeartbeat, "into the void");  // no effect, no signal
}

TEST_F(MonitorLinkTest, BytesThatAreNoMessageCloseTheLink) {
  write_raw(std::string{99, 0, 0, 0});
  EXPECT_FALSE(receive());
  EXPECT_TRUE(messages_.empty());
}

TEST_F(MonitorLinkTest, AnOversizedLengthClosesTheLink) {
  write_raw(std::string{0, 0, '\xff', '\xff'});
  EXPECT_FALSE(receive());
}

TEST_F(MonitorLinkTest, AFullSocketKeepsTheRest) {
  const std::string text(4000, 'y');
  int num_sent = 0;
  while (!ours_.has_unsent() && num_sent < 10'000) {
    ours_.send(MonitorMessage::kFail, text);
    ++num_sent;
  }
  ASSERT_TRUE(ours_.has_unsent());
  MonitorLink other(std::move(theirs_));
  int num_received = 0;
  for (int i = 0; i < 1000 && num_received < num_sent; ++i) {
    EXPECT_TRUE(other.receive([&](MonitorMessage, std::string_view received) {
      EXPECT_EQ(received, text);
      ++num_received;
    }));
    ours_.flush();
  }
  EXPECT_EQ(num_received, num_sent);
  EXPECT_FALSE(ours_.has_unsent());
}

}  // namespace
}  // namespace phalanx::parallel
