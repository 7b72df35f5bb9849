// Sampling state and results in device memory, as kernels and the host see them. Plain values.
// Used by device_sampler and its kernels.
#pragma once

#include <cstdint>

#include "kernels/token_sampler.h"

namespace phalanx::kernels::cuda {

/// Sums of weights (kernels/sampling_math.h), in the type that atomics take.
using Units = unsigned long long;

/// A slot. Memory of zeros is a slot that has not started.
struct DeviceSlot {
  DrawParams params;
  float min_p_floor;    ///< of scaled logits
  int32_t penalty_row;  ///< of SamplerView::seen; -1: no penalties
  uint32_t active;
};

/// Tokens of a sub-block: what one warp reads at once, 16 bytes a lane.
inline constexpr int kSubBlock = 128;
/// Sub-blocks whose loads a warp has in flight at once: 2 KiB.
inline constexpr int kGroup = 4;

/// Bins of scaled logits, each 1/32 wide: 0 is the best, those with a weight end at 30 * 32.
inline constexpr int kBins = 1024;
inline constexpr float kBinsPerUnit = 32.0F;

/// Of a token in `seen`: it is in the prompt or the output. The other bits count in the output.
inline constexpr uint32_t kSeen = 0x80000000U;

/// All that the kernels of a step read and write. R is the largest number of rows, S the number of
/// sub-blocks of a row, rounded up to whole groups.
struct SamplerView {
  const float* logits;  ///< [rows] from `stride` to `stride` floats; 16-byte aligned, as is stride
  int64_t stride;
  int32_t vocab_size;
  int32_t num_sub_blocks;  ///< S
  uint32_t num_slots;
  const DrawRow* rows;
  const DeviceSlot* slots;  ///< [num_slots]
  uint32_t* seen;           ///< [penalty rows, seen_stride]
  int64_t seen_stride;      ///< vocab_size, rounded up to 4
  uint32_t* best_keys;      ///< [R, S] smallest key of each sub-block, of values drawn from
  uint32_t* raw_best_keys;  ///< [R, S] of the logits as they came; only rows with penalties
  uint32_t* bin_counts;     ///< [R, kBins] tokens with a weight
  Units* bin_units;         ///< [R, kBins] their weights
  Units* sums;              ///< [R, 2] weights of what min_p keeps; weights of the raw logits
  DrawnToken* draws;        ///< [rows]
  int32_t* last_tokens;     ///< [num_slots] what each slot drew last
};

}  // namespace phalanx::kernels::cuda
