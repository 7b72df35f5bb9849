// All-reduce through slots in shared memory, for a power-of-two block of ranks on one host. Used by
// GroupCommunicator.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "parallel/shared_event.h"
#include "parallel/wait_policy.h"

namespace phalanx::parallel {

/// Where the ranks of one host meet: rank i raises its flag to the number of the meeting, and all
/// leave when every flag has got there. A spinning rank reads flags; a sleeping one is woken once,
/// by the last to arrive.
class ArrivalGate {
 public:
  static size_t bytes_needed(int size);
  /// `region`: bytes_needed(size) zeroed shared bytes, aligned to kLineBytes. members[i] is the
  /// index of rank i of this gate in context.peers.
  ArrivalGate(std::byte* region, std::span<const int> members, int rank,
              const WaitContext& context);

  /// Arrives and waits for the others.
  void meet();

 private:
  struct Line {
    alignas(kLineBytes) std::atomic<uint64_t> meeting;
    std::atomic<int> cpu;  ///< where the rank was when it came
  };
  struct Shared {
    alignas(kLineBytes) SharedEvent event;
  };
  bool all_arrived();

  Shared* shared_;
  Line* lines_;
  std::vector<int> members_;
  int rank_;
  int first_missing_ = 0;  ///< all before it have arrived at meeting_
  uint64_t meeting_ = 0;
  const WaitContext& context_;
};

class SharedMemoryReducer {
 public:
  static size_t bytes_needed(int size, size_t slot_bytes);

  /// `region`: bytes_needed zeroed shared bytes, aligned to kLineBytes. slot_bytes: the most bytes
  /// one call may reduce, a multiple of kLineBytes. size (of members) is a power of two.
  SharedMemoryReducer(std::byte* region, size_t slot_bytes, std::span<const int> members, int rank,
                      const WaitContext& context);

  /// data[i] = tree over the block's ranks of data[i].
  void all_reduce(std::span<float> data);

  /// The same, and before the ranks share their parts of the result each rank gives its own part to
  /// `across`, which adds the other hosts' sums in place. Parts are disjoint, cover the data, may
  /// be empty, and rank i's part is the same in every block.
  void all_reduce(std::span<float> data, const std::function<void(std::span<float>)>& across);

 private:
  float* slot(int rank) const;
  float* short_slot(int rank, uint64_t turn) const;
  void reduce_at_every_rank(std::span<float> data);
  void reduce_in_parts(std::span<float> data, const std::function<void(std::span<float>)>* across);
  /// data[begin, end) = the tree over this rank's data and the others' slots.
  void add_part(std::span<float> data, size_t begin, size_t end);
  /// Puts data[begin, end) into the others' slots.
  void give_back(std::span<const float> data, size_t begin, size_t end);

  size_t slot_floats_;
  int size_;
  int rank_;
  ArrivalGate gate_;
  float* slots_;        ///< [size, slot_floats]
  float* short_slots_;  ///< [size, 2, short_slot_floats]
  size_t short_slot_floats_;
  size_t one_shot_floats_;
  uint64_t num_one_shots_ = 0;
  std::vector<const float*> sources_;  ///< [size], what is summed now
};

}  // namespace phalanx::parallel
