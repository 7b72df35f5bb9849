// How the fake NCCL moves bytes: rings in memory that the ranks share. Used by fake_nccl.cpp.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace phalanx::fake_nccl {

inline constexpr int kMaxRanks = 16;
/// Small, so that most messages go in parts, while both ends are at work.
inline constexpr size_t kRingBytes = 4096;

/// From one rank to another.
struct Channel {
  std::atomic<uint64_t> num_written;
  std::atomic<uint64_t> num_read;
  std::byte ring[kRingBytes];
};

/// What a group shares; all zero at first.
struct Shared {
  std::atomic<int> num_joined;
  std::atomic<int> num_finalized;
  Channel channels[kMaxRanks][kMaxRanks];  ///< [from][to]
};

/// The verb that a message belongs to: both ends must have called the same.
enum class Verb : uint64_t { kAllGather = 1, kBroadcast, kPointToPoint };

/// One message, seen from one end.
class Transfer {
 public:
  Transfer(Verb verb, bool is_send, int peer, std::byte* data, size_t bytes)
      : verb_(verb), is_send_(is_send), peer_(peer), data_(data), bytes_(bytes) {}

  bool is_send() const { return is_send_; }
  int peer() const { return peer_; }
  Verb verb() const { return verb_; }
  bool is_done() const { return num_moved_ == sizeof(Header) + bytes_; }
  void rewind() { num_moved_ = 0; }

  /// Moves what can be moved now. False: what comes is another message than the one awaited, and
  /// `problem` says so.
  bool move(Channel& channel, std::string* problem);

 private:
  struct Header {
    Verb verb;
    uint64_t bytes;
  };
  std::byte* place();
  size_t num_left_here() const;

  Verb verb_;
  bool is_send_;
  int peer_;
  std::byte* data_;
  size_t bytes_;
  size_t num_moved_ = 0;  ///< of header and data
  Header header_ = {};
};

/// A copy inside of one rank.
struct Copy {
  std::byte* to;
  const std::byte* from;
  size_t bytes;
};

/// What one launch of NCCL does on one rank; may run more than once (a recording).
struct Launch {
  std::vector<Copy> copies;
  std::vector<Transfer> transfers;  ///< those of one channel go one after another

  /// Moves what can be moved now; true when all is done, and then it can run again.
  bool run(Shared& shared, int rank, std::string* problem);
};

}  // namespace phalanx::fake_nccl
