// Tests the group of one in parallel/communicator.h.
#include <array>

#include <gtest/gtest.h>

#include "parallel/communicator.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

TEST(SingleCommunicator, HasNobodyToShareMemoryWith) {
  const auto group = make_single_communicator();
  EXPECT_TRUE(group->share_memory(100).empty());
  EXPECT_NO_THROW(group->meet());
}

TEST(SingleCommunicator, VerbsLeaveTheDataAlone) {
  const auto single = make_single_communicator();
  EXPECT_EQ(single->rank(), 0);
  EXPECT_EQ(single->size(), 1);
  std::array<float, 2> data = {1, 2};
  single->all_reduce_sum(data);
  single->broadcast(std::as_writable_bytes(std::span(data)), 0);
  EXPECT_EQ(data, (std::array<float, 2>{1, 2}));
  std::array<float, 2> gathered{};
  const size_t part_bytes = sizeof(data);
  single->gather(std::as_bytes(std::span(data)), std::span(&part_bytes, 1),
                 std::as_writable_bytes(std::span(gathered)), 0);
  EXPECT_EQ(gathered, data);
  EXPECT_EQ(single->transport(), "none");
}

TEST(SingleCommunicator, HasNoPeers) {
  const auto single = make_single_communicator();
  std::byte token{};
  EXPECT_THROW(single->send(std::span(&token, 1), 0), InternalError);
  EXPECT_THROW(single->recv(std::span(&token, 1), 1), InternalError);
  EXPECT_THROW(single->broadcast(std::span(&token, 1), 1), InternalError);
}

}  // namespace
}  // namespace phalanx::parallel
