// A ring of messages in shared memory with one writer and many readers, each of whom gets every
// message. Used by the step channel.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/shared_event.h"
#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// One process's view. A message is its length in eight bytes, its bytes, and padding to eight; it
/// may wrap around. The writer waits for the slowest reader; readers wait on one event, which costs
/// the writer one system call when any of them sleeps.
class StepRing {
 public:
  static size_t bytes_needed(size_t capacity_bytes, int num_readers);

  /// `region`: bytes_needed zeroed bytes, aligned to kLineBytes, not owned. capacity_bytes is a
  /// multiple of eight.
  StepRing(std::byte* region, size_t capacity_bytes, int num_readers);

  size_t max_message_bytes() const { return capacity_ / 2 - sizeof(uint64_t); }

  /// Writer's thread. Errors: InternalError when the message is larger than max_message_bytes;
  /// DeviceError naming readers[r] when reader r makes no room within the deadline.
  void publish(std::span<const std::byte> message, const WaitPolicy& policy,
               const std::vector<std::string>& readers);
  /// Writer's thread: wakes all readers; once a reader has read everything, next() throws.
  void close();

  /// One thread per reader. nullopt when `timeout` passes first. Errors: DeviceError when the
  /// writer has closed the ring or the job aborts.
  std::optional<std::vector<std::byte>> next(int reader, const WaitPolicy& policy,
                                             std::chrono::nanoseconds timeout);

 private:
  struct Shared {
    alignas(kLineBytes) std::atomic<uint64_t> written;
    std::atomic<uint32_t> is_closed;
    alignas(kLineBytes) SharedEvent data_event;
    alignas(kLineBytes) SharedEvent room_event;
  };
  struct Reader {
    alignas(kLineBytes) std::atomic<uint64_t> read;
  };

  void copy_in(uint64_t position, std::span<const std::byte> bytes);
  void copy_out(uint64_t position, std::span<std::byte> bytes) const;
  struct Slowest {
    int reader = 0;
    uint64_t read = 0;  ///< its position
  };
  Slowest slowest_reader() const;

  Shared* shared_;
  Reader* readers_;
  std::byte* bytes_;
  size_t capacity_;
  int num_readers_;
};

}  // namespace phalanx::parallel
