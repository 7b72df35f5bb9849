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
/// meetings, fewer bytes). A meeting of spinning ranks is cheap; a meeting of ranks that must be
/// woken costs tens of microseconds, so those accept more work to avoid it. Two ranks read as much
/// of each other either way: half of it twice.
constexpr size_t kOneShotBytesSpinning = 2048;
constexpr size_t kOneShotBytesSleeping = 32768;

size_t one_shot_bytes(size_t num_ranks, size_t slot_bytes, bool spin) {
  if (num_ranks == 2) return slot_bytes;
  return spin ? kOneShotBytesSpinning : kOneShotBytesSleeping;
}

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

// Layout of the region: the gate, the slots, the result.
//
// A slot is written again two calls later, in the other buffer's turn: by then its writer has left
// the first meeting of the call between, to which every reader came after it had finished reading.
// The result is written after a call's first meeting, to which every rank came after it had copied
// the last result. So no meeting is needed at the end of a call.
size_t SharedMemoryReducer::bytes_needed(int size, size_t slot_bytes) {
  return ArrivalGate::bytes_needed(size) + (2 * static_cast<size_t>(size) + 1) * slot_bytes;
}

SharedMemoryReducer::SharedMemoryReducer(std::byte* region, size_t slot_bytes,
                                         std::span<const int> members, int rank,
                                         const WaitContext& context)
    : slot_floats_(slot_bytes / sizeof(float)),
      size_(static_cast<int>(members.size())),
      rank_(rank),
      gate_(region, members, rank, context),
      slots_(reinterpret_cast<float*>(region + ArrivalGate::bytes_needed(size_))),
      result_(slots_ + 2 * static_cast<size_t>(size_) * slot_floats_),
      one_shot_floats_(one_shot_bytes(members.size(), slot_bytes, context.policy.spin) /
                       sizeof(float)),
      sources_(members.size()) {
  PHALANX_CHECK(size_ >= 2 && std::has_single_bit(members.size()),
                "a block of a number of ranks that is not a power of two");
  PHALANX_CHECK_EQ(slot_bytes % kLineBytes, 0U, "slot bytes are whole lines");
}

float* SharedMemoryReducer::slot(int rank, int buffer) const {
  return slots_ + static_cast<size_t>(2 * rank + buffer) * slot_floats_;
}

void SharedMemoryReducer::list_sources(std::span<const float> own_data, int buffer, size_t begin) {
  for (int source = 0; source < size_; ++source)
    sources_[static_cast<size_t>(source)] =
        (source == rank_ ? own_data.data() : slot(source, buffer)) + begin;
}

void SharedMemoryReducer::all_reduce(std::span<float> data) {
  PHALANX_CHECK_LE(data.size(), slot_floats_, "more than a slot holds");
  const int buffer = static_cast<int>(num_calls_++ % 2);
  if (data.size() <= one_shot_floats_) {
    reduce_at_every_rank(data, buffer);
  } else {
    reduce_in_parts(data, buffer, nullptr);
  }
}

void SharedMemoryReducer::all_reduce(std::span<float> data,
                                     const std::function<void(std::span<float>)>& across) {
  PHALANX_CHECK_LE(data.size(), slot_floats_, "more than a slot holds");
  reduce_in_parts(data, static_cast<int>(num_calls_++ % 2), &across);
}

void SharedMemoryReducer::reduce_at_every_rank(std::span<float> data, int buffer) {
  std::memcpy(slot(rank_, buffer), data.data(), data.size_bytes());
  gate_.meet();
  list_sources(data, buffer, 0);
  add_tree(sources_, data.data(), data.size());
}

void SharedMemoryReducer::reduce_in_parts(std::span<float> data, int buffer,
                                          const std::function<void(std::span<float>)>* across) {
  const size_t shortest = across != nullptr ? kMinPartFloatsAcross : kLineFloats;
  const auto size = static_cast<size_t>(size_);
  const size_t part = round_up(std::max((data.size() + size - 1) / size, shortest), kLineFloats);
  const size_t begin = std::min(data.size(), static_cast<size_t>(rank_) * part);
  const size_t end = std::min(data.size(), begin + part);
  // The others need everything of this rank's data but its own part.
  float* own_slot = slot(rank_, buffer);
  std::memcpy(own_slot, data.data(), begin * sizeof(float));
  std::memcpy(own_slot + end, data.data() + end, (data.size() - end) * sizeof(float));
  gate_.meet();
  list_sources(data, buffer, begin);
  add_tree(sources_, result_ + begin, end - begin);
  if (across != nullptr) (*across)(std::span(result_ + begin, end - begin));
  gate_.meet();
  std::memcpy(data.data(), result_, data.size_bytes());
}

}  // namespace phalanx::parallel
