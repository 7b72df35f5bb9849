// Tests parallel/shared_segment: two mappings of one memory, and tickets that lead nowhere.
#include "parallel/shared_segment.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

TEST(SharedSegment, AnotherProcessSeesTheSameBytes) {
  SharedSegment segment = SharedSegment::create(10'000);
  ASSERT_EQ(segment.size(), 10'000U);
  for (size_t i = 0; i < segment.size(); ++i) ASSERT_EQ(segment.data()[i], std::byte{0});
  segment.data()[9'999] = std::byte{42};
  const std::string ticket = segment.ticket();
  const pid_t child = fork();
  if (child == 0) {
    SharedSegment other = SharedSegment::attach(ticket);
    const bool seen = other.size() == 10'000 && other.data()[9'999] == std::byte{42};
    other.data()[0] = std::byte{7};
    _exit(seen ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(segment.data()[0], std::byte{7});
}

TEST(SharedSegment, ADroppedHandleCannotBeAttached) {
  SharedSegment segment = SharedSegment::create(100);
  const std::string ticket = segment.ticket();
  segment.drop_handle();
  EXPECT_THROW(SharedSegment::attach(ticket), DeviceError);
  segment.data()[0] = std::byte{1};  // still mapped
}

TEST(SharedSegment, AnotherFileUnderTheSameNumberIsRefused) {
  SharedSegment segment = SharedSegment::create(100);
  const std::string ticket = segment.ticket();
  segment.drop_handle();
  SharedSegment next = SharedSegment::create(100);  // gets the same number, not the same token
  ASSERT_EQ(ticket.substr(0, ticket.rfind(' ', ticket.rfind(' ') - 1)),
            next.ticket().substr(0, ticket.rfind(' ', ticket.rfind(' ') - 1)));
  EXPECT_THROW(SharedSegment::attach(ticket), DeviceError);
}

TEST(SharedSegment, MoreMemoryThanTheMachineHasIsAnError) {
  EXPECT_THROW(SharedSegment::create(size_t{1} << 60), DeviceError);
}

TEST(SharedSegment, MovingKeepsTheMapping) {
  SharedSegment segment = SharedSegment::create(100);
  segment.data()[5] = std::byte{5};
  SharedSegment other = std::move(segment);
  EXPECT_EQ(other.data()[5], std::byte{5});
  segment = SharedSegment();
  other = SharedSegment();
  EXPECT_EQ(other.data(), nullptr);
}

}  // namespace
}  // namespace phalanx::parallel
