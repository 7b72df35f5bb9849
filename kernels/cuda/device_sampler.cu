// Memory, slots and launch shapes of sampling on the device.
#include <algorithm>
#include <string>

#include "kernels/cuda/device_sampler.h"
#include "kernels/cuda/draw_kernel.h"
#include "kernels/cuda/sampling_kernels.h"
#include "kernels/cuda/slot_kernels.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

int64_t num_sub_blocks(int64_t vocab_size) {
  return ceil_div(vocab_size, int64_t{kSubBlock} * kGroup) * kGroup;
}

int64_t seen_stride(int64_t vocab_size) { return round_up(vocab_size, 4); }

/// Lays arrays one after the other, each aligned to 256 bytes; with null memory only counts.
class Layout {
 public:
  explicit Layout(std::byte* memory) : memory_(memory) {}

  template <typename T>
  T* take(int64_t count) {
    T* array = memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + bytes_);
    bytes_ += round_up(count * static_cast<int64_t>(sizeof(T)), 256);
    return array;
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  int64_t bytes_ = 0;
};

int64_t lay_out(const DeviceSamplerLimits& limits, std::byte* memory, SamplerView* view,
                DeviceSlot** slots) {
  const int64_t sub_blocks = limits.max_rows * num_sub_blocks(limits.vocab_size);
  Layout layout(memory);
  *slots = layout.take<DeviceSlot>(limits.num_slots);
  view->last_tokens = layout.take<int32_t>(limits.num_slots);
  view->seen = layout.take<uint32_t>(limits.num_penalty_slots * seen_stride(limits.vocab_size));
  view->best_keys = layout.take<uint32_t>(sub_blocks);
  view->raw_best_keys = layout.take<uint32_t>(sub_blocks);
  view->bin_counts = layout.take<uint32_t>(limits.max_rows * kBins);
  view->bin_units = layout.take<Units>(limits.max_rows * kBins);
  view->sums = layout.take<Units>(limits.max_rows * 2);
  return layout.bytes();
}

/// Blocks of the passes: enough that 132 multiprocessors have four each, whatever the rows; more
/// would only have more partial sums to add. Each warp takes a group of sub-blocks at least.
constexpr int64_t kWantedBlocks = 4 * 132;

LaunchShape pass_shape(int64_t num_rows, int64_t sub_blocks, size_t shared_bytes) {
  const int64_t most = ceil_div(sub_blocks, int64_t{kGroup} * kPassWarps);
  const int64_t each = std::min(most, ceil_div(kWantedBlocks, num_rows));
  return {dim3(static_cast<uint32_t>(each), static_cast<uint32_t>(num_rows)), dim3(kPassThreads),
          shared_bytes};
}

LaunchShape slot_shape(int64_t num_elements, int64_t most_blocks) {
  const int64_t blocks = std::clamp(ceil_div(num_elements, kSlotThreads), int64_t{1}, most_blocks);
  return {dim3(static_cast<uint32_t>(blocks)), dim3(kSlotThreads)};
}

}  // namespace

int64_t device_sampler_bytes(const DeviceSamplerLimits& limits) {
  SamplerView view{};
  DeviceSlot* slots = nullptr;
  return lay_out(limits, nullptr, &view, &slots);
}

DeviceSampler::DeviceSampler(const DeviceSamplerLimits& limits, std::byte* memory)
    : limits_(limits), penalty_rows_(static_cast<size_t>(limits.num_slots), -1) {
  PHALANX_CHECK(limits.vocab_size > 0 && limits.vocab_size <= kMaxSampledVocab,
                "vocab_size " + std::to_string(limits.vocab_size) + ", allowed are 1 to 2^20");
  PHALANX_CHECK(limits.max_rows > 0 && limits.max_rows <= 65535,
                "max_rows " + std::to_string(limits.max_rows) + ", allowed are 1 to 65535");
  PHALANX_CHECK_GT(limits.num_slots, 0, "num_slots");
  PHALANX_CHECK_GE(limits.num_penalty_slots, 0, "num_penalty_slots");
  PHALANX_CHECK_EQ(reinterpret_cast<uintptr_t>(memory) % 256, 0U, "alignment of the memory");
  lay_out(limits, memory, &view_, &slots_);
  view_.slots = slots_;
  view_.vocab_size = static_cast<int32_t>(limits.vocab_size);
  view_.num_sub_blocks = static_cast<int32_t>(num_sub_blocks(limits.vocab_size));
  view_.num_slots = static_cast<uint32_t>(limits.num_slots);
  view_.seen_stride = seen_stride(limits.vocab_size);
  for (int64_t i = limits.num_penalty_slots; i-- > 0;)
    free_penalty_rows_.push_back(static_cast<int32_t>(i));
}

void DeviceSampler::return_penalty_row(uint32_t slot) {
  PHALANX_CHECK_LT(slot, penalty_rows_.size(), "a slot that this sampler does not have");
  if (penalty_rows_[slot] >= 0) free_penalty_rows_.push_back(penalty_rows_[slot]);
  penalty_rows_[slot] = -1;
}

void DeviceSampler::start(uint32_t slot, const DrawParams& params, std::span<const int32_t> history,
                          int64_t num_prompt_tokens, Stream stream) {
  PHALANX_CHECK_LE(params.num_top_logprobs, kMostTopLogprobs, "num_top_logprobs");
  PHALANX_CHECK_GE(num_prompt_tokens, 0, "num_prompt_tokens");
  for (const int32_t token : history)
    PHALANX_CHECK(token >= 0 && token < limits_.vocab_size,
                  "a token outside of the vocabulary: " + std::to_string(token));
  return_penalty_row(slot);
  SlotStart start{};
  start.slot = slots_ + slot;
  start.value.params = params;
  start.value.min_p_floor = min_p_floor(params.min_p);
  start.value.penalty_row = -1;
  start.value.active = 1;
  if (!params.has_penalties()) {
    launch(start_slot<SlotStart>, slot_shape(1, 1), stream, start);
    return;
  }
  PHALANX_CHECK(!free_penalty_rows_.empty(),
                "slot " + std::to_string(slot) + " starts with penalties, as " +
                    std::to_string(limits_.num_penalty_slots) + " have, the most allowed");
  const int32_t penalty_row = free_penalty_rows_.back();
  free_penalty_rows_.pop_back();
  penalty_rows_[slot] = penalty_row;
  start.value.penalty_row = penalty_row;
  start.seen = view_.seen + penalty_row * view_.seen_stride;
  start.seen_size = view_.seen_stride;
  launch(start_slot<SlotStart>, slot_shape(start.seen_size, 132), stream, start);
  for (size_t first = 0; first < history.size(); first += kHistoryPart) {
    HistoryPart part{};
    part.seen = start.seen;
    part.num_tokens = static_cast<int32_t>(std::min<size_t>(kHistoryPart, history.size() - first));
    part.num_prompt = static_cast<int32_t>(std::clamp(
        num_prompt_tokens - static_cast<int64_t>(first), int64_t{0}, int64_t{part.num_tokens}));
    std::copy_n(history.begin() + static_cast<int64_t>(first), part.num_tokens, part.tokens);
    launch(add_history<HistoryPart>, slot_shape(1, 1), stream, part);
  }
}

void DeviceSampler::release(uint32_t slot, Stream stream) {
  return_penalty_row(slot);
  SlotStart start{};
  start.slot = slots_ + slot;
  start.value.penalty_row = -1;
  launch(start_slot<SlotStart>, slot_shape(1, 1), stream, start);
}

void DeviceSampler::sample(ConstRows logits, const DrawRow* rows, int64_t num_rows,
                           DrawnToken* draws, Stream stream) {
  if (num_rows == 0) return;
  PHALANX_CHECK_LE(num_rows, limits_.max_rows, "rows to sample");
  PHALANX_CHECK(
      reinterpret_cast<uintptr_t>(logits.data) % 16 == 0 && logits.stride % 4 == 0,
      "rows of logits that are not aligned to 16 bytes, stride " + std::to_string(logits.stride));
  SamplerView view = view_;
  view.logits = logits.data;
  view.stride = logits.stride;
  view.rows = rows;
  view.draws = draws;
  launch(scan_rows<SamplerView>, pass_shape(num_rows, view.num_sub_blocks, 0), stream, view);
  launch(weigh_rows<SamplerView>, pass_shape(num_rows, view.num_sub_blocks, sizeof(WeighShared)),
         stream, view);
  launch(draw_tokens<SamplerView>,
         {dim3(static_cast<uint32_t>(num_rows)), dim3(kDrawThreads), sizeof(SelectionShared)},
         stream, view);
}

void DeviceSampler::fill_fed_back(const uint32_t* slot_of_row, int64_t num_rows, int32_t* token_ids,
                                  Stream stream) const {
  if (num_rows == 0) return;
  launch(cuda::fill_fed_back<FedBack>, slot_shape(num_rows, num_rows), stream,
         FedBack{slot_of_row, num_rows, view_.last_tokens, token_ids});
}

}  // namespace phalanx::kernels::cuda
