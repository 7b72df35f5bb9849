// The gate and the all-reduce over shared slots. Called by GroupCommunicator.
#include "parallel/shared_memory_reducer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "parallel/add_tree.h"
#include "runtime/base/check.h"

namespace phalanx::parallel {
namespace {

/// Up to this size every rank adds all slots itself (one meeting); above, each adds its part (two
/// meetings). A meeting of spinning ranks is cheap; a meeting of ranks that must be woken costs
/// tens of microseconds, so those accept more work to avoid it.
constexpr size_t kOneShotBytesSpinning = 2048;
constexpr size_t kOneShotBytesSleeping = 65536;
constexpr size_t kShortSlotBytes = std::max(kOneShotBytesSpinning, kOneShotBytesSleeping);

/// Sums are made and given back in blocks that stay in the first-level cache.
constexpr size_t kBlockFloats = 1024;

/// Parts given to `across` are at least this long: many small messages cost more than one.
constexpr size_t kMinPartFloatsAcross = 1024;
constexpr size_t kLineFloats = kLineBytes / sizeof(float);

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

size_t ArrivalGate::bytes_needed(int size) {
  return sizeof(Shared) + static_cast<size_t>(size) * sizeof(Line);
}

ArrivalGate::ArrivalGate(std::byte* region, std::span<const int> members, int rank,
                         const WaitContext& context)
    : shared_(reinterpret_cast<Shared*>(region)),
      lines_(reinterpret_cast<Line*>(region + sizeof(Shared))),
      members_(members.begin(), members.end()),
      rank_(rank),
      context_(context) {}

bool ArrivalGate::all_arrived() {
  const int size = static_cast<int>(members_.size());
  while (first_missing_ < size &&
         lines_[first_missing_].meeting.load(std::memory_order_seq_cst) >= meeting_)
    ++first_missing_;
  return first_missing_ == size;
}

void ArrivalGate::meet() {
  ++meeting_;
  first_missing_ = 0;
  lines_[rank_].cpu.store(current_cpu(), std::memory_order_relaxed);
  lines_[rank_].meeting.store(meeting_, std::memory_order_seq_cst);
  context_.count_moved();
  if (all_arrived()) {  // maybe as the last one, for whom the sleepers wait
    shared_->event.notify();
    return;
  }
  shared_->event.wait(
      context_.policy, [this] { return all_arrived(); },
      [this] {
        const auto missing = static_cast<size_t>(members_[static_cast<size_t>(first_missing_)]);
        return std::string(context_.operation) + ": waiting for " + context_.peers[missing];
      },
      lines_[first_missing_].cpu.load(std::memory_order_relaxed), kMeetingSpinTime);
}

// Layout of the region: the gate, the slots, the short slots.
//
// What a call of parts costs is cache lines changing hands. A line that one rank writes and another
// only reads stays in both caches, and the next write must first take it back from there: that is
// three times as slow here as the following, in which a line always moves with the right to write
// it. Rank i's slot holds, of the others' parts, its own values; rank j takes its part from every
// slot, and writes the sums over them, there where it found them; then rank i fetches them from its
// slot. Between two meetings a line is one rank's alone, so that a slot needs no second buffer: its
// owner writes it again after it has fetched the sums, which the others do not touch.
//
// A short slot is read by all, and written again two one-shots later, in the other buffer's turn:
// by then its writer has left the meeting of the one-shot between, to which every reader came after
// it had finished reading. So no meeting is needed at the end of a call.
size_t SharedMemoryReducer::bytes_needed(int size, size_t slot_bytes) {
  return ArrivalGate::bytes_needed(size) +
         static_cast<size_t>(size) * (slot_bytes + 2 * std::min(slot_bytes, kShortSlotBytes));
}

SharedMemoryReducer::SharedMemoryReducer(std::byte* region, size_t slot_bytes,
                                         std::span<const int> members, int rank,
                                         const WaitContext& context)
    : slot_floats_(slot_bytes / sizeof(float)),
      size_(static_cast<int>(members.size())),
      rank_(rank),
      gate_(region, members, rank, context),
      slots_(reinterpret_cast<float*>(region + ArrivalGate::bytes_needed(size_))),
      short_slots_(slots_ + static_cast<size_t>(size_) * slot_floats_),
      short_slot_floats_(std::min(slot_bytes, kShortSlotBytes) / sizeof(float)),
      one_shot_floats_(std::min(slot_bytes, context.policy.spin ? kOneShotBytesSpinning
                                                                : kOneShotBytesSleeping) /
                       sizeof(float)),
      sources_(members.size()) {
  PHALANX_CHECK(size_ >= 2 && std::has_single_bit(members.size()),
                "a block of a number of ranks that is not a power of two");
  PHALANX_CHECK_EQ(slot_bytes % kLineBytes, 0U, "slot bytes are whole lines");
}

float* SharedMemoryReducer::slot(int rank) const {
  return slots_ + static_cast<size_t>(rank) * slot_floats_;
}

float* SharedMemoryReducer::short_slot(int rank, uint64_t turn) const {
  return short_slots_ + (2 * static_cast<size_t>(rank) + turn) * short_slot_floats_;
}

void SharedMemoryReducer::all_reduce(std::span<float> data) {
  PHALANX_CHECK_LE(data.size(), slot_floats_, "more than a slot holds");
  if (data.size() <= one_shot_floats_) {
    reduce_at_every_rank(data);
  } else {
    reduce_in_parts(data, nullptr);
  }
}

void SharedMemoryReducer::all_reduce(std::span<float> data,
                                     const std::function<void(std::span<float>)>& across) {
  PHALANX_CHECK_LE(data.size(), slot_floats_, "more than a slot holds");
  reduce_in_parts(data, &across);
}

void SharedMemoryReducer::reduce_at_every_rank(std::span<float> data) {
  const uint64_t turn = num_one_shots_++ % 2;
  std::memcpy(short_slot(rank_, turn), data.data(), data.size_bytes());
  gate_.meet();
  for (int rank = 0; rank < size_; ++rank)
    sources_[static_cast<size_t>(rank)] = rank == rank_ ? data.data() : short_slot(rank, turn);
  add_tree(sources_, data.data(), data.size());
}

void SharedMemoryReducer::reduce_in_parts(std::span<float> data,
                                          const std::function<void(std::span<float>)>* across) {
  const size_t shortest = across != nullptr ? kMinPartFloatsAcross : kLineFloats;
  const auto size = static_cast<size_t>(size_);
  const size_t part = round_up(std::max((data.size() + size - 1) / size, shortest), kLineFloats);
  const size_t begin = std::min(data.size(), static_cast<size_t>(rank_) * part);
  const size_t end = std::min(data.size(), begin + part);
  // The others need everything of this rank's data but its own part.
  float* own_slot = slot(rank_);
  std::memcpy(own_slot, data.data(), begin * sizeof(float));
  std::memcpy(own_slot + end, data.data() + end, (data.size() - end) * sizeof(float));
  gate_.meet();
  if (across != nullptr) {
    add_part(data, begin, end);
    (*across)(data.subspan(begin, end - begin));
    give_back(data, begin, end);
  } else {
    for (size_t first = begin; first < end; first += kBlockFloats) {
      const size_t last = std::min(end, first + kBlockFloats);
      add_part(data, first, last);
      give_back(data, first, last);
    }
  }
  gate_.meet();
  std::memcpy(data.data(), own_slot, begin * sizeof(float));
  std::memcpy(data.data() + end, own_slot + end, (data.size() - end) * sizeof(float));
}

void SharedMemoryReducer::add_part(std::span<float> data, size_t begin, size_t end) {
  for (int rank = 0; rank < size_; ++rank)
    sources_[static_cast<size_t>(rank)] = (rank == rank_ ? data.data() : slot(rank)) + begin;
  add_tree(sources_, data.data() + begin, end - begin);
}

void SharedMemoryReducer::give_back(std::span<const float> data, size_t begin, size_t end) {
  for (int rank = 0; rank < size_; ++rank) {
    if (rank == rank_) continue;
    std::memcpy(slot(rank) + begin, data.data() + begin, (end - begin) * sizeof(float));
  }
}

}  // namespace phalanx::parallel
