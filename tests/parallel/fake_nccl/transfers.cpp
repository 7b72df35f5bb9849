// Messages through rings: a header, then the data. Called by fake_nccl.cpp.
#include "tests/parallel/fake_nccl/transfers.h"

#include <algorithm>
#include <cstring>

namespace phalanx::fake_nccl {

std::byte* Transfer::place() {
  return num_moved_ < sizeof(Header) ? reinterpret_cast<std::byte*>(&header_) + num_moved_
                                     : data_ + (num_moved_ - sizeof(Header));
}

size_t Transfer::num_left_here() const {
  return num_moved_ < sizeof(Header) ? sizeof(Header) - num_moved_
                                     : sizeof(Header) + bytes_ - num_moved_;
}

bool Transfer::move(Channel& channel, std::string* problem) {
  if (is_send_) header_ = {verb_, bytes_};
  while (!is_done()) {
    const uint64_t written = channel.num_written.load(std::memory_order_acquire);
    const uint64_t read = channel.num_read.load(std::memory_order_acquire);
    const size_t begin = (is_send_ ? written : read) % kRingBytes;
    const size_t room = is_send_ ? kRingBytes - (written - read) : written - read;
    const size_t count = std::min({room, kRingBytes - begin, num_left_here()});
    if (count == 0) return true;
    if (is_send_) {
      std::memcpy(channel.ring + begin, place(), count);
      channel.num_written.store(written + count, std::memory_order_release);
    } else {
      std::memcpy(place(), channel.ring + begin, count);
      channel.num_read.store(read + count, std::memory_order_release);
    }
    num_moved_ += count;
    if (is_send_ || num_moved_ != sizeof(Header)) continue;
    if (header_.verb == verb_ && header_.bytes == bytes_) continue;
    *problem = "verb " + std::to_string(static_cast<uint64_t>(verb_)) + " awaits " +
               std::to_string(bytes_) + " bytes from rank " + std::to_string(peer_) +
               ", and what comes is verb " + std::to_string(static_cast<uint64_t>(header_.verb)) +
               " with " + std::to_string(header_.bytes) + " bytes";
    return false;
  }
  return true;
}

bool Launch::run(Shared& shared, int rank, std::string* problem) {
  bool is_channel_taken[2][kMaxRanks] = {};
  bool is_done = true;
  for (Transfer& transfer : transfers) {
    if (transfer.is_done()) continue;
    bool& is_taken = is_channel_taken[transfer.is_send() ? 1 : 0][transfer.peer()];
    if (!is_taken) {
      Channel& channel = transfer.is_send() ? shared.channels[rank][transfer.peer()]
                                            : shared.channels[transfer.peer()][rank];
      if (!transfer.move(channel, problem)) return false;
    }
    is_taken = is_taken || !transfer.is_done();
    is_done = is_done && transfer.is_done();
  }
  if (!is_done) return false;
  for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, copy.bytes);
  for (Transfer& transfer : transfers) transfer.rewind();
  return true;
}

}  // namespace phalanx::fake_nccl
