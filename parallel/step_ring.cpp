// The ring of the step channel. Called by its publisher and subscribers.
#include "parallel/step_ring.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

constexpr size_t kAlignment = 8;  // so that a length never wraps in its middle

size_t framed_bytes(size_t message_bytes) {
  return sizeof(uint64_t) + (message_bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

size_t StepRing::bytes_needed(size_t capacity_bytes, int num_readers) {
  return sizeof(Shared) + static_cast<size_t>(num_readers) * sizeof(Reader) + capacity_bytes;
}

StepRing::StepRing(std::byte* region, size_t capacity_bytes, int num_readers)
    : shared_(reinterpret_cast<Shared*>(region)),
      readers_(reinterpret_cast<Reader*>(region + sizeof(Shared))),
      bytes_(region + sizeof(Shared) + static_cast<size_t>(num_readers) * sizeof(Reader)),
      capacity_(capacity_bytes),
      num_readers_(num_readers) {
  PHALANX_CHECK(capacity_bytes >= 4 * kAlignment && capacity_bytes % kAlignment == 0,
                "a step ring's capacity is a multiple of 8, at least 32");
}

void StepRing::copy_in(uint64_t position, std::span<const std::byte> bytes) {
  const size_t place = position % capacity_;
  const size_t until_end = std::min(bytes.size(), capacity_ - place);
  std::copy_n(bytes.begin(), until_end, bytes_ + place);
  std::copy_n(bytes.begin() + static_cast<ptrdiff_t>(until_end), bytes.size() - until_end, bytes_);
}

void StepRing::copy_out(uint64_t position, std::span<std::byte> bytes) const {
  const size_t place = position % capacity_;
  const size_t until_end = std::min(bytes.size(), capacity_ - place);
  std::copy_n(bytes_ + place, until_end, bytes.begin());
  std::copy_n(bytes_, bytes.size() - until_end, bytes.begin() + static_cast<ptrdiff_t>(until_end));
}

StepRing::Slowest StepRing::slowest_reader() const {
  // Each position is read once: a reader may move on while we look at the next one.
  Slowest slowest{0, readers_[0].read.load(std::memory_order_seq_cst)};
  for (int reader = 1; reader < num_readers_; ++reader) {
    const uint64_t read = readers_[reader].read.load(std::memory_order_seq_cst);
    if (read < slowest.read) slowest = {reader, read};
  }
  return slowest;
}

void StepRing::publish(std::span<const std::byte> message, const WaitPolicy& policy,
                       const std::vector<std::string>& readers) {
  PHALANX_CHECK_LE(message.size(), max_message_bytes(),
                   "a step message larger than half the channel");
  const uint64_t written = shared_->written.load(std::memory_order_relaxed);
  const size_t needed = framed_bytes(message.size());
  shared_->room_event.wait(
      policy, [&] { return written + needed - slowest_reader().read <= capacity_; },
      [&] {
        return "publish: waiting for " + readers[static_cast<size_t>(slowest_reader().reader)] +
               " to read earlier steps";
      });
  const uint64_t length = message.size();
  copy_in(written, std::as_bytes(std::span(&length, 1)));
  copy_in(written + sizeof(length), message);
  shared_->written.store(written + needed, std::memory_order_seq_cst);
  shared_->data_event.notify();
}

void StepRing::close() {
  shared_->is_closed.store(1, std::memory_order_seq_cst);
  shared_->data_event.notify();
}

std::optional<std::vector<std::byte>> StepRing::next(int reader, const WaitPolicy& policy,
                                                     std::chrono::nanoseconds timeout) {
  std::atomic<uint64_t>& own_read = readers_[reader].read;
  const uint64_t read = own_read.load(std::memory_order_relaxed);
  const auto has_message = [&] { return shared_->written.load(std::memory_order_seq_cst) != read; };
  const bool is_ready = shared_->data_event.wait_for(
      policy, timeout,
      [&] { return has_message() || shared_->is_closed.load(std::memory_order_seq_cst) != 0; },
      [] { return std::string("waiting for the next step"); });
  if (!is_ready) return std::nullopt;
  if (!has_message()) throw DeviceError("the leader has closed the step channel");
  uint64_t length = 0;
  copy_out(read, std::as_writable_bytes(std::span(&length, 1)));
  PHALANX_CHECK_LE(length, max_message_bytes(), "a damaged length in the step ring");
  std::vector<std::byte> message(length);
  copy_out(read + sizeof(length), message);
  own_read.store(read + framed_bytes(length), std::memory_order_seq_cst);
  shared_->room_event.notify();
  return message;
}

}  // namespace phalanx::parallel
