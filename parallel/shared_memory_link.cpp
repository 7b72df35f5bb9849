// Byte rings in shared memory and the link over them. Called by GroupCommunicator.
#include "parallel/shared_memory_link.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "runtime/base/check.h"

namespace phalanx::parallel {

size_t ByteRing::write_some(std::span<const std::byte> data) {
  const uint64_t written = positions_->written.load(std::memory_order_relaxed);
  const uint64_t read = positions_->read.load(std::memory_order_seq_cst);
  const size_t room = capacity_ - static_cast<size_t>(written - read);
  // At most half a ring at once: the reader copies out one half while the writer fills the other.
  const size_t count = std::min({data.size(), room, capacity_ / 2});
  if (count == 0) return 0;
  const size_t place = written % capacity_;
  const size_t until_end = std::min(count, capacity_ - place);
  std::memcpy(bytes_ + place, data.data(), until_end);
  std::memcpy(bytes_, data.data() + until_end, count - until_end);
  positions_->writer_cpu.store(current_cpu(), std::memory_order_relaxed);
  positions_->written.store(written + count, std::memory_order_seq_cst);
  return count;
}

size_t ByteRing::read_some(std::span<std::byte> data) {
  const uint64_t read = positions_->read.load(std::memory_order_relaxed);
  const uint64_t written = positions_->written.load(std::memory_order_seq_cst);
  const size_t count = std::min(data.size(), static_cast<size_t>(written - read));
  if (count == 0) return 0;
  const size_t place = read % capacity_;
  const size_t until_end = std::min(count, capacity_ - place);
  std::memcpy(data.data(), bytes_ + place, until_end);
  std::memcpy(data.data() + until_end, bytes_, count - until_end);
  positions_->reader_cpu.store(current_cpu(), std::memory_order_relaxed);
  positions_->read.store(read + count, std::memory_order_seq_cst);
  return count;
}

bool ByteRing::has_room() const {
  return positions_->written.load(std::memory_order_relaxed) -
             positions_->read.load(std::memory_order_seq_cst) <
         capacity_;
}

bool ByteRing::has_data() const {
  return positions_->written.load(std::memory_order_seq_cst) !=
         positions_->read.load(std::memory_order_relaxed);
}

size_t SharedMemoryLink::bytes_needed(size_t ring_bytes) { return sizeof(Shared) + 2 * ring_bytes; }

SharedMemoryLink::SharedMemoryLink(std::byte* region, size_t ring_bytes, int end,
                                   const WaitContext& context, int peer)
    : shared_(reinterpret_cast<Shared*>(region)),
      outgoing_(&shared_->positions[end], region + sizeof(Shared) + end * ring_bytes, ring_bytes),
      incoming_(&shared_->positions[1 - end], region + sizeof(Shared) + (1 - end) * ring_bytes,
                ring_bytes),
      own_event_(shared_->ends[end].event),
      peer_event_(shared_->ends[1 - end].event),
      context_(context),
      peer_(peer) {
  PHALANX_CHECK_EQ(ring_bytes % kLineBytes, 0U, "ring bytes are whole lines");
}

std::string SharedMemoryLink::wait_text() const {
  return std::string(context_.operation) + ": waiting for " +
         context_.peers[static_cast<size_t>(peer_)];
}

void SharedMemoryLink::check_size(uint64_t announced, size_t expected) const {
  PHALANX_CHECK_EQ(announced, expected,
                   std::string(context_.operation) + ": a message from " +
                       context_.peers[static_cast<size_t>(peer_)] + " is not as long as expected");
}

void SharedMemoryLink::write_all(std::span<const std::byte> data) {
  while (!data.empty()) {
    own_event_.wait(
        context_.policy, [this] { return outgoing_.has_room(); }, [this] { return wait_text(); },
        outgoing_.reader_cpu());
    data = data.subspan(outgoing_.write_some(data));
    peer_event_.notify();
    context_.count_moved();
  }
}

void SharedMemoryLink::read_all(std::span<std::byte> data) {
  while (!data.empty()) {
    own_event_.wait(
        context_.policy, [this] { return incoming_.has_data(); }, [this] { return wait_text(); },
        incoming_.writer_cpu());
    data = data.subspan(incoming_.read_some(data));
    peer_event_.notify();
    context_.count_moved();
  }
}

void SharedMemoryLink::post(std::span<const std::byte> data) {
  const uint64_t size = data.size();
  const auto head = std::as_bytes(std::span(&size, 1));
  posted_.insert(posted_.end(), head.begin(), head.end());
  posted_.insert(posted_.end(), data.begin(), data.end());
  push_posted();
}

bool SharedMemoryLink::push_posted() {
  size_t moved = 0;
  while (num_pushed_ < posted_.size()) {
    const size_t count = outgoing_.write_some(std::span(posted_).subspan(num_pushed_));
    if (count == 0) break;
    num_pushed_ += count;
    moved += count;
  }
  if (moved != 0) {
    peer_event_.notify();
    context_.count_moved();
  }
  if (num_pushed_ < posted_.size()) return false;
  posted_.clear();
  num_pushed_ = 0;
  return true;
}

void SharedMemoryLink::finish_posted() {
  write_all(std::span(posted_).subspan(num_pushed_));
  posted_.clear();
  num_pushed_ = 0;
}

void SharedMemoryLink::send(std::span<const std::byte> data) {
  finish_posted();
  const uint64_t size = data.size();
  const auto head = std::as_bytes(std::span(&size, 1));
  // The first data follow the size without a wake in between: the reader would only sleep again.
  const size_t head_count = outgoing_.write_some(head);
  if (head_count == head.size()) data = data.subspan(outgoing_.write_some(data));
  peer_event_.notify();
  write_all(head.subspan(head_count));
  write_all(data);
}

void SharedMemoryLink::recv(std::span<std::byte> data) {
  uint64_t size = 0;
  read_all(std::as_writable_bytes(std::span(&size, 1)));
  check_size(size, data.size());
  read_all(data);
}

void SharedMemoryLink::exchange(std::span<const std::byte> out, std::span<std::byte> in) {
  finish_posted();
  const uint64_t out_size = out.size();
  uint64_t in_size = 0;
  std::span<const std::byte> out_head = std::as_bytes(std::span(&out_size, 1));
  std::span<std::byte> in_head = std::as_writable_bytes(std::span(&in_size, 1));
  while (!out.empty() || !out_head.empty() || !in.empty() || !in_head.empty()) {
    size_t moved = 0;
    if (!out_head.empty()) {
      const size_t count = outgoing_.write_some(out_head);
      out_head = out_head.subspan(count);
      moved += count;
    }
    if (out_head.empty() && !out.empty()) {
      const size_t count = outgoing_.write_some(out);
      out = out.subspan(count);
      moved += count;
    }
    if (!in_head.empty()) {
      const size_t count = incoming_.read_some(in_head);
      in_head = in_head.subspan(count);
      moved += count;
      if (in_head.empty()) check_size(in_size, in.size());
    }
    if (in_head.empty() && !in.empty()) {
      const size_t count = incoming_.read_some(in);
      in = in.subspan(count);
      moved += count;
    }
    if (moved != 0) {
      peer_event_.notify();
      context_.count_moved();
      continue;
    }
    const bool wants_room = !out_head.empty() || !out.empty();
    const bool wants_data = !in_head.empty() || !in.empty();
    own_event_.wait(
        context_.policy,
        [&] {
          return (wants_room && outgoing_.has_room()) || (wants_data && incoming_.has_data());
        },
        [this] { return wait_text(); }, incoming_.writer_cpu());
  }
}

}  // namespace phalanx::parallel
