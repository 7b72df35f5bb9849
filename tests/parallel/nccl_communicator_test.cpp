// Tests the NCCL transport over the fake NCCL, under mpirun: bytes, order, groups, recordings.
#include "parallel/nccl_communicator.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/check.h"
#include "tests/parallel/nccl_test_group.h"

namespace phalanx::parallel {
namespace {

using Bytes = std::vector<std::byte>;

class NcclCommunicatorTest : public NcclTestGroup {
 protected:
  std::unique_ptr<DeviceCommunicator> device_ = make();
};

TEST_F(NcclCommunicatorTest, KnowsItsPlaceAndTransport) {
  EXPECT_EQ(device_->rank(), rank());
  EXPECT_EQ(device_->size(), size());
  EXPECT_EQ(device_->transport(), "nccl 2.28.9");
}

TEST_F(NcclCommunicatorTest, GathersPartsOfAllRanks) {
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{4080}, size_t{4096}, size_t{50'000}}) {
    const Bytes part = message(rank(), 0, bytes);
    Bytes out(bytes * static_cast<size_t>(size()));
    device_->all_gather(part, out, &stream_);
    EXPECT_EQ(out[0], std::byte{0}) << "nothing moves before the stream runs";
    wait(*device_);
    Bytes in_place(out.size());
    const auto own = std::span(in_place).subspan(bytes * static_cast<size_t>(rank()), bytes);
    std::memcpy(own.data(), part.data(), bytes);
    device_->all_gather(own, in_place, &stream_);
    wait(*device_);
    Bytes expected;
    for (int other = 0; other < size(); ++other) {
      const Bytes theirs = message(other, 0, bytes);
      expected.insert(expected.end(), theirs.begin(), theirs.end());
    }
    EXPECT_EQ(out, expected) << bytes;
    EXPECT_EQ(in_place, expected) << bytes;
  }
}

TEST_F(NcclCommunicatorTest, GathersRangesOfAnyLength) {
  std::vector<ByteRange> ranges;
  size_t end = 3;
  for (int other = 0; other < size(); ++other) {
    const size_t bytes = other % 3 == 1 ? 0 : size_t{5000} * static_cast<size_t>(other) + 17;
    ranges.push_back({end, bytes});
    end += bytes + 5;
  }
  Bytes data(end);
  Bytes expected(end);
  for (int other = 0; other < size(); ++other) {
    const auto [offset, bytes] = ranges[static_cast<size_t>(other)];
    const Bytes theirs = message(other, 0, bytes);
    std::copy(theirs.begin(), theirs.end(), expected.begin() + static_cast<ptrdiff_t>(offset));
    if (other == rank())
      std::copy(theirs.begin(), theirs.end(), data.begin() + static_cast<ptrdiff_t>(offset));
  }
  device_->all_gather_ranges(data, ranges, &stream_);
  wait(*device_);
  EXPECT_EQ(data, expected);
}

TEST_F(NcclCommunicatorTest, ExchangesRangesBetweenAllPairs) {
  const auto bytes_between = [](int from, int to) {
    return (from + 2 * to) % 5 == 0 ? 0 : static_cast<size_t>(4000 * from + 333 * to + 1);
  };
  for (int number = 0; number < 3; ++number) {
    Bytes from;
    Bytes to;
    std::vector<ByteRange> to_peers;
    std::vector<ByteRange> from_peers;
    for (int peer = 0; peer < size(); ++peer) {
      // This rank's own ranges are nonsense, since nobody looks at them.
      const size_t sent = peer == rank() ? 0 : bytes_between(rank(), peer);
      const size_t received = peer == rank() ? 0 : bytes_between(peer, rank());
      to_peers.push_back({peer == rank() ? size_t{1} << 40 : from.size(), sent});
      from_peers.push_back({peer == rank() ? size_t{1} << 40 : to.size(), received});
      const Bytes data = message(rank(), peer, sent, number);
      from.insert(from.end(), data.begin(), data.end());
      to.resize(to.size() + received);
    }
    device_->all_to_all(from, to_peers, to, from_peers, &stream_);
    wait(*device_);
    for (int peer = 0; peer < size(); ++peer) {
      const auto [offset, bytes] = from_peers[static_cast<size_t>(peer)];
      if (bytes == 0) continue;
      const auto begin = to.begin() + static_cast<ptrdiff_t>(offset);
      EXPECT_EQ(Bytes(begin, begin + static_cast<ptrdiff_t>(bytes)),
                message(peer, rank(), bytes, number))
          << "from " << peer;
    }
  }
}

TEST_F(NcclCommunicatorTest, SendsAlongAPipelineInOrder) {
  constexpr size_t kBytes[] = {10, 0, 9000, 1};
  std::vector<Bytes> received;
  std::vector<Bytes> sent;
  for (int number = 0; number < 4; ++number) {
    received.emplace_back(kBytes[number]);
    sent.push_back(message(rank(), rank() + 1, kBytes[number], number));
  }
  for (size_t number = 0; number < 4; ++number) {
    if (rank() > 0) device_->recv(received[number], rank() - 1, &stream_);
    if (rank() + 1 < size()) device_->send(sent[number], rank() + 1, &stream_);
  }
  wait(*device_);
  if (rank() == 0) return;
  for (int number = 0; number < 4; ++number)
    EXPECT_EQ(received[static_cast<size_t>(number)],
              message(rank() - 1, rank(), kBytes[number], number));
}

TEST_F(NcclCommunicatorTest, AGroupRunsItsVerbsAtTheSameTime) {
  // Both send first what no ring holds: without a group both would wait for good.
  constexpr size_t kMany = 30'000;
  const int peer = rank() ^ 1;
  const Bytes sent = message(rank(), peer, kMany);
  Bytes received(kMany);
  const Bytes part = message(rank(), 0, 777);
  Bytes gathered(777 * static_cast<size_t>(size()));
  device_->grouped([&] {
    if (peer < size()) {
      device_->send(sent, peer, &stream_);
      device_->recv(received, peer, &stream_);
    }
    device_->all_gather(part, gathered, &stream_);
  });
  wait(*device_);
  if (peer < size()) {
    EXPECT_EQ(received, message(peer, rank(), kMany));
  }
  for (int other = 0; other < size(); ++other) {
    const Bytes theirs = message(other, 0, 777);
    EXPECT_EQ(std::memcmp(gathered.data() + 777 * other, theirs.data(), 777), 0);
  }
}

TEST_F(NcclCommunicatorTest, AnEmptyGroupDoesNothing) {
  device_->grouped([] {});
  device_->all_gather({}, {}, &stream_);
  wait(*device_);
}

TEST_F(NcclCommunicatorTest, WithoutAStreamAVerbIsDoneWhenItReturns) {
  const Bytes part = message(rank(), 0, 10'000);
  Bytes out(part.size() * static_cast<size_t>(size()));
  device_->all_gather(part, out, nullptr);
  for (int other = 0; other < size(); ++other) {
    const Bytes theirs = message(other, 0, part.size());
    EXPECT_EQ(std::memcmp(out.data() + part.size() * static_cast<size_t>(other), theirs.data(),
                          part.size()),
              0);
  }
}

TEST_F(NcclCommunicatorTest, ARecordingRunsAgainOnWhatIsThereThen) {
  constexpr size_t kBytes = 6000;
  Bytes part(kBytes);
  Bytes out(kBytes * static_cast<size_t>(size()));
  const auto enqueue = [&] { device_->all_gather(part, out, &stream_); };
  enqueue();  // opens the connections
  wait(*device_);
  stream_.begin_recording();
  enqueue();
  const auto recording = stream_.end_recording();
  for (int number = 0; number < 3; ++number) {
    const Bytes now = message(rank(), 0, kBytes, number);
    std::copy(now.begin(), now.end(), part.begin());
    for (const auto& work : recording) stream_.add(work);
    wait(*device_);
    for (int other = 0; other < size(); ++other) {
      const Bytes theirs = message(other, 0, kBytes, number);
      ASSERT_EQ(
          std::memcmp(out.data() + kBytes * static_cast<size_t>(other), theirs.data(), kBytes), 0);
    }
  }
}

TEST_F(NcclCommunicatorTest, TwoGroupsDoNotMix) {
  const auto second = make();
  const Bytes part = message(rank(), 0, 5000, 1);
  const Bytes other_part = message(rank(), 0, 5000, 2);
  Bytes out(part.size() * static_cast<size_t>(size()));
  Bytes other_out(out.size());
  device_->all_gather(part, out, &stream_);
  second->all_gather(other_part, other_out, &stream_);
  wait(*device_);
  for (int other = 0; other < size(); ++other) {
    const size_t offset = part.size() * static_cast<size_t>(other);
    EXPECT_EQ(std::memcmp(out.data() + offset, message(other, 0, 5000, 1).data(), 5000), 0);
    EXPECT_EQ(std::memcmp(other_out.data() + offset, message(other, 0, 5000, 2).data(), 5000), 0);
  }
}

TEST_F(NcclCommunicatorTest, RefusesSizesThatAreWrongOnThisRank) {
  Bytes data(100);
  const auto num_ranks = static_cast<size_t>(size());
  std::vector<ByteRange> ranges(num_ranks, ByteRange{0, 10});
  std::vector<ByteRange> outside(num_ranks, ByteRange{95, 10});
  EXPECT_THROW(device_->all_gather(data, data, &stream_), InternalError);
  EXPECT_THROW(device_->all_gather_ranges(data, outside, &stream_), InternalError);
  EXPECT_THROW(device_->all_gather_ranges(data, {}, &stream_), InternalError);
  EXPECT_THROW(device_->all_to_all(data, outside, data, ranges, &stream_), InternalError);
  EXPECT_THROW(device_->all_to_all(data, ranges, data, outside, &stream_), InternalError);
  EXPECT_THROW(device_->all_to_all(data, {}, data, ranges, &stream_), InternalError);
  EXPECT_THROW(device_->send(data, rank(), &stream_), InternalError);
  EXPECT_THROW(device_->recv(data, size(), &stream_), InternalError);
  EXPECT_THROW(device_->recv(data, -1, &stream_), InternalError);
}

}  // namespace
}  // namespace phalanx::parallel
