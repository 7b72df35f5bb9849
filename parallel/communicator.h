// Moves tensors between the ranks of a group. Called by the executor, between operators.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/work_counter.h"

namespace phalanx::parallel {

/// A group of ranks that compute together. Every member calls the same verbs in the same order
/// (send and recv pair up; between two ranks, what was sent before a gather, broadcast or
/// all-reduce is also received before it). One thread per communicator. A wait that the job's
/// monitor ends, or in a group without one outlasts the deadline, throws DeviceError naming
/// operation, peer rank and its host. A waiting rank spins only while ranks do not outnumber cores,
/// and then sleeps (futex, or poll with short sleeps over MPI).
class Communicator {
 public:
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// data[i] = sum over ranks of data[i], float32, added as the binary tree over ranks
  /// ((r0 + r1) + (r2 + r3)) + ...: every rank gets the same bits, and they continue the lane tree
  /// of Operators::linear. size() must be a power of two. In place.
  virtual void all_reduce_sum(std::span<float> data) = 0;

  /// Memory that every member maps, for sums without a copy: [size()] regions of `bytes` each,
  /// zero, one right after the other, aligned to a page (bytes are rounded up to pages); who writes
  /// where is the callers' agreement, and a meeting is between a write and another rank's read.
  /// Collective, while loading; the regions live as long as the communicator. Empty, on every rank,
  /// where the members cannot all map one memory: alone, or on several hosts. Errors: DeviceError
  /// (out of memory).
  virtual std::vector<std::byte*> share_memory(size_t bytes) = 0;

  /// Waits until every member has come: what each wrote to shared memory before is seen by all
  /// after. No system call while all spin. Only where share_memory gave something.
  virtual void meet() = 0;

  /// Bytes that a core reads from another in about the time of a meeting: what a caller weighs
  /// before it meets once more to share work.
  virtual size_t bytes_worth_a_meeting() const = 0;

  /// Rank `root` receives the parts of all ranks one after another in `out` (rank order;
  /// part_bytes[i] from rank i); the others pass an empty `out`.
  virtual void gather(std::span<const std::byte> part, std::span<const size_t> part_bytes,
                      std::span<std::byte> out, int root) = 0;

  /// Every rank ends with root's bytes. Sizes agree.
  virtual void broadcast(std::span<std::byte> data, int root) = 0;

  /// Ordered per (peer, direction). recv's size must be the sent size. send returns when `data` may
  /// be reused; it may block until the peer receives.
  virtual void send(std::span<const std::byte> data, int peer) = 0;
  virtual void recv(std::span<std::byte> data, int peer) = 0;

  /// Like send, but returns at once, with a copy of what does not go now: for messages against the
  /// stream of the others, where two ranks that both waited in send would wait for good. The rest
  /// goes, in order, while this rank waits in recv and in push_posted and finish_posted.
  virtual void post(std::span<const std::byte> data, int peer) = 0;
  /// Moves on what was posted, without waiting. True when all of it has gone.
  virtual bool push_posted() = 0;
  /// Waits until all of it has gone.
  virtual void finish_posted() = 0;

  /// True when recv(peer) would not wait for the message's first byte.
  virtual bool can_recv(int peer) = 0;

  /// "shm", "mpi", "shm+mpi" or, alone, "none": how this group's pairs talk, for the banner.
  virtual std::string transport() const = 0;

 protected:
  int rank_ = 0;
  int size_ = 1;
};

/// The group of one: collectives are no-ops or copies; there is nobody to send to, so send, recv,
/// post and can_recv throw InternalError. For tp_size 1 and for tests.
std::unique_ptr<Communicator> make_single_communicator();

struct CommunicatorOptions {
  /// Of one wait inside one verb, in a group without an abort flag. With one, a JobMonitor watches:
  /// it knows who is alive and who works, and it alone ends a wait; a peer may work for as long as
  /// it takes.
  std::chrono::milliseconds deadline{60'000};
  bool spin = true;             ///< ranks do not outnumber cores on this host
  WorkCounter* work = nullptr;  ///< not owned; counts what has moved as thread 0, or null
  size_t max_message_bytes =
      64U << 20;           ///< sizes the shared-memory slots; larger messages go in parts
  bool force_mpi = false;  ///< for tests: MPI even within a host
};

/// Set by the JobMonitor: when it becomes true every wait in this process that was given it throws
/// DeviceError within kSleepSlice.
using AbortFlag = std::atomic<bool>;

}  // namespace phalanx::parallel
