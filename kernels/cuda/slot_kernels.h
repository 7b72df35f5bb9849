// Kernels that start and end a slot's sampling state, and that feed drawn tokens to the next step.
// Launched by device_sampler. What a start needs goes along with the launch, so that nothing on the
// host has to stay until the device has read it.
#pragma once

#include <cstdint>

#include "kernels/cuda/sampling_views.h"
#include "kernels/cuda/simt.h"

namespace phalanx::kernels::cuda {

inline constexpr int kSlotThreads = 256;

struct SlotStart {
  DeviceSlot* slot;
  DeviceSlot value;
  uint32_t* seen;  ///< [seen_size] of its penalty row, or null
  int64_t seen_size;
};

/// Writes the slot and clears what it has seen.
template <typename Arguments = SlotStart>
__global__ void __launch_bounds__(kSlotThreads) start_slot(Arguments a) {
  const auto thread = static_cast<int64_t>(blockIdx.x) * kSlotThreads + threadIdx.x;
  if (thread == 0) *a.slot = a.value;
  if (a.seen == nullptr) return;
  for (int64_t i = thread; i < a.seen_size; i += static_cast<int64_t>(gridDim.x) * kSlotThreads)
    a.seen[i] = 0;
}

/// Part of a history, within the 4 KiB that a launch's arguments may have.
inline constexpr int kHistoryPart = 960;
struct HistoryPart {
  uint32_t* seen;
  int32_t num_tokens;
  int32_t num_prompt;  ///< the first ones; the others were generated
  int32_t tokens[kHistoryPart];
};

template <typename Arguments = HistoryPart>
__global__ void __launch_bounds__(kSlotThreads) add_history(Arguments a) {
  for (auto i = static_cast<int32_t>(threadIdx.x); i < a.num_tokens; i += kSlotThreads) {
    atomicOr(&a.seen[a.tokens[i]], kSeen);
    if (i >= a.num_prompt) atomicAdd(&a.seen[a.tokens[i]], 1U);
  }
}

struct FedBack {
  const uint32_t* slot_of_row;  ///< [num_rows]; kNoSlot: the row has its token
  int64_t num_rows;
  const int32_t* last_tokens;
  int32_t* token_ids;
};

template <typename Arguments = FedBack>
__global__ void __launch_bounds__(kSlotThreads) fill_fed_back(Arguments a) {
  const auto row = static_cast<int64_t>(blockIdx.x) * kSlotThreads + threadIdx.x;
  if (row >= a.num_rows || a.slot_of_row[row] == kNoSlot) return;
  a.token_ids[row] = a.last_tokens[a.slot_of_row[row]];
}

}  // namespace phalanx::kernels::cuda
