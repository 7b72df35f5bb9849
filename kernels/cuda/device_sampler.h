// Draws tokens on the device: the sampler of runtime/executor, kernel by kernel, with the same
// bits. Called by the rank worker's CUDA executor after the last stage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sampling_views.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

struct DeviceSamplerLimits {
  int64_t vocab_size = 0;  ///< at most 2^20
  int64_t num_slots = 0;
  int64_t num_penalty_slots = 0;  ///< slots that may have penalties at the same time
  int64_t max_rows = 0;           ///< of a step
};

/// Bytes of device memory that a DeviceSampler wants: 4 * vocab_size for each penalty slot, and for
/// each row 12 KiB of bins and vocab_size / 16 of sub-blocks.
int64_t device_sampler_bytes(const DeviceSamplerLimits& limits);

/// Token ids, logprobs and top logprobs equal those of phalanx::Sampler by == for the same logits,
/// parameters, history and position: both use kernels/sampling_math.h, whose sums are of integers,
/// and walk the same ranking. A row's draw depends on nothing else.
///
/// All work is enqueued on the stream given, in the order of calls; nothing waits. sample() and
/// fill_fed_back() may be captured in a CUDA graph: what varies is read from device memory. One
/// thread. The memory outlives the object and what it has enqueued.
///
/// Rows of 128,256 logits (513 KB), in bytes read by sample(): greedy 1 row's worth, drawn 2 and
/// the sub-blocks that hold what filters may keep; as much again with penalties. Three launches.
class DeviceSampler {
 public:
  /// memory: device_sampler_bytes(limits) of zeros in device memory, aligned to 256.
  DeviceSampler(const DeviceSamplerLimits& limits, std::byte* memory);

  /// Begins a sequence in a slot. history: host memory, read before this returns; only looked at
  /// when the parameters have penalties; the first num_prompt_tokens are the prompt. Not for
  /// capture. Launches: one, and one for each 960 tokens of history. InternalError: slot or token
  /// out of range, or more than num_penalty_slots.
  void start(uint32_t slot, const DrawParams& params, std::span<const int32_t> history,
             int64_t num_prompt_tokens, Stream stream);
  void release(uint32_t slot, Stream stream);

  /// Draws from rows[r] for each r < num_rows, into draws[r] and last_tokens(). logits, rows,
  /// draws: device memory; logits.data aligned to 16 bytes, stride a multiple of 4 (checked); the
  /// logits are left as they are. The drawn token is added to the slot's history.
  void sample(ConstRows logits, const DrawRow* rows, int64_t num_rows, DrawnToken* draws,
              Stream stream);

  /// token_ids[r] = last_tokens()[slot_of_row[r]] where that is not kNoSlot; all in device memory,
  /// [num_rows]. The next step's rows, without the host.
  void fill_fed_back(const uint32_t* slot_of_row, int64_t num_rows, int32_t* token_ids,
                     Stream stream) const;

  /// [num_slots] in device memory: the token that each slot drew last.
  const int32_t* last_tokens() const { return view_.last_tokens; }

 private:
  void return_penalty_row(uint32_t slot);

  DeviceSamplerLimits limits_;
  SamplerView view_{};  ///< but for the arguments of sample()
  DeviceSlot* slots_ = nullptr;
  std::vector<int32_t> penalty_rows_;  ///< of each slot; -1: none
  std::vector<int32_t> free_penalty_rows_;
};

}  // namespace phalanx::kernels::cuda
