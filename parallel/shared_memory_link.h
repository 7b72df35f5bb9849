// A PeerLink over two byte rings in shared memory, one for each direction.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "parallel/peer_link.h"
#include "parallel/shared_event.h"
#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// Positions of a byte ring with one writer and one reader. They only grow; a byte's place is its
/// position modulo the capacity. Zero bytes are a valid empty ring.
struct RingPositions {
  alignas(kLineBytes) std::atomic<uint64_t> written;  ///< by the writer
  std::atomic<int> writer_cpu;                        ///< where it ran then
  alignas(kLineBytes) std::atomic<uint64_t> read;     ///< by the reader
  std::atomic<int> reader_cpu;
};

/// One process's view of a ring. Copies, never waits.
class ByteRing {
 public:
  ByteRing(RingPositions* positions, std::byte* bytes, size_t capacity)
      : positions_(positions), bytes_(bytes), capacity_(capacity) {}

  /// How many of `data`'s first bytes were taken: as many as there was room for.
  size_t write_some(std::span<const std::byte> data);
  /// How many of `data`'s first bytes were filled.
  size_t read_some(std::span<std::byte> data);
  bool has_room() const;
  bool has_data() const;
  int writer_cpu() const { return positions_->writer_cpu.load(std::memory_order_relaxed); }
  int reader_cpu() const { return positions_->reader_cpu.load(std::memory_order_relaxed); }

 private:
  RingPositions* positions_;
  std::byte* bytes_;
  size_t capacity_;
};

/// The shared memory of one pair: two rings and, for each end, the event it sleeps on (both for
/// data that came and for room that was made, so that one wait covers an exchange). Messages carry
/// their size in front, so that a mismatch is an error and not a shifted stream.
class SharedMemoryLink : public PeerLink {
 public:
  static size_t bytes_needed(size_t ring_bytes);

  /// `region`: bytes_needed(ring_bytes) zeroed bytes that both ends map, aligned to kLineBytes.
  /// `end` is 0 on one side and 1 on the other. `peer` is its index in context.peers. Neither
  /// region nor context is owned.
  SharedMemoryLink(std::byte* region, size_t ring_bytes, int end, const WaitContext& context,
                   int peer);

  void send(std::span<const std::byte> data) override;
  void recv(std::span<std::byte> data) override;
  void exchange(std::span<const std::byte> out, std::span<std::byte> in) override;
  void post(std::span<const std::byte> data) override;
  bool push_posted() override;
  bool can_recv() override { return incoming_.has_data(); }

 private:
  struct Shared {
    RingPositions positions[2];
    struct {
      alignas(kLineBytes) SharedEvent event;
    } ends[2];
  };

  std::string wait_text() const;
  void write_all(std::span<const std::byte> data);
  void finish_posted();
  void read_all(std::span<std::byte> data);
  void check_size(uint64_t announced, size_t expected) const;

  Shared* shared_;
  ByteRing outgoing_;
  ByteRing incoming_;
  SharedEvent& own_event_;
  SharedEvent& peer_event_;
  const WaitContext& context_;
  int peer_;
  std::vector<std::byte> posted_;  ///< with sizes in front; the first num_pushed_ bytes are gone
  size_t num_pushed_ = 0;
};

}  // namespace phalanx::parallel
