// Moves bytes between the devices of a group of ranks, in the order of a stream. Called by the
// executor of ranks on GPUs that cannot read each other's memory.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>

namespace phalanx::parallel {

/// Bytes [offset, offset + bytes) of a buffer.
struct ByteRange {
  size_t offset = 0;
  size_t bytes = 0;
};

/// A group of ranks, each with a device. Only moves bytes: sums are the kernels', in the order of
/// the tree over ranks (law 1), whatever a library's own all-reduce would choose.
///
/// Spans are memory of this rank's device. A verb returns when it is enqueued in `stream` (a
/// cudaStream_t or what stands for it; the same one always) and runs there in order, later: until
/// the stream has passed it nobody else touches the memory. Every member enqueues the same verbs in
/// the same order with sizes that agree; a send and its recv pair up in order per pair. A verb that
/// waits for a peer's keeps the stream from what follows, so two ranks that both send before they
/// receive group the two.
///
/// Recording (a CUDA graph): verbs enqueued while the stream records are kept with their addresses
/// and sizes. Before that, every verb must have run once with the sizes of the recording, so that
/// its connections are open: opening them allocates memory and waits for peers, which a recording
/// cannot.
///
/// Executor thread only. Errors: DeviceError naming the operation, this rank and the others with
/// their hosts; the group is of no use after one, on any rank.
class DeviceCommunicator {
 public:
  virtual ~DeviceCommunicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// out = the parts of all ranks, equally long, in rank order. `part` lies outside of `out` or is
  /// its own place there.
  virtual void all_gather(std::span<const std::byte> part, std::span<std::byte> out,
                          void* stream) = 0;

  /// Rank i has the range ranges[i] of `data`, and afterwards all have all; ranges may be empty and
  /// do not overlap. For shares that are not equally long; all_gather is faster for those that are.
  virtual void all_gather_ranges(std::span<std::byte> data, std::span<const ByteRange> ranges,
                                 void* stream) = 0;

  /// Range to_peers[i] of `from` goes to rank i; what comes from it goes to from_peers[i] of `to`.
  /// Ranges may be empty: then nothing is sent; this rank's own are not looked at.
  virtual void all_to_all(std::span<const std::byte> from, std::span<const ByteRange> to_peers,
                          std::span<std::byte> to, std::span<const ByteRange> from_peers,
                          void* stream) = 0;

  virtual void send(std::span<const std::byte> data, int peer, void* stream) = 0;
  virtual void recv(std::span<std::byte> data, int peer, void* stream) = 0;

  /// The verbs that `enqueue` calls run as one, at the same time and in one launch: none sees what
  /// another brings. Not inside another group.
  virtual void grouped(const std::function<void()>& enqueue) = 0;

  /// To be called by a host thread that waits for the stream, again and again, at least every
  /// 100 ms: a peer that is gone, an error of the transport or the end of the job would else leave
  /// the stream waiting for good. `waited`: since this wait began. When it throws it has ended what
  /// was running in the stream.
  virtual void check(std::chrono::nanoseconds waited) = 0;

  /// Ends what runs in the stream, without waiting for peers. For a rank that fails otherwise, so
  /// that its stream can be waited for and its memory freed.
  virtual void abort() noexcept = 0;

  /// "nccl 2.28.9", for the banner.
  virtual std::string transport() const = 0;

 protected:
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace phalanx::parallel
