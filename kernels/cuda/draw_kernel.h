// The last pass of sampling, one block a row: top logprobs, filters, the draw, and what follows
// from the token. Launched by device_sampler after the passes of sampling_kernels.h.
//
// Bytes of a row of V logits: the best keys, V / 32, two or three times; the bins, 12 KiB; and the
// sub-blocks (512 bytes each) that hold tokens which may be kept. Greedy rows: one sub-block.
#pragma once

#include <cstdint>

#include "kernels/cuda/sampling_rows.h"
#include "kernels/cuda/sampling_selection.h"
#include "kernels/cuda/simt.h"
#include "kernels/philox.h"

namespace phalanx::kernels::cuda {

/// The first token whose key is `key`, which is the row's best.
__device__ __forceinline__ uint32_t first_token_of_key(const RowValues& row, uint32_t key,
                                                       SelectionShared* shared) {
  uint32_t sub_block = 0xffffffffU;
  for (auto i = static_cast<int32_t>(threadIdx.x); i < row.num_sub_blocks; i += kDrawThreads) {
    if (row.best_keys[i] == key && sub_block == 0xffffffffU) sub_block = static_cast<uint32_t>(i);
  }
  sub_block = smallest_of_block(sub_block, shared->warps);
  uint32_t token = 0xffffffffU;
  if (threadIdx.x < 32) {
    const auto first = static_cast<int32_t>(sub_block * kSubBlock + threadIdx.x * 4);
    FourLogits four = row.load(first);
    row.make_values(&four, row.load_seen(first));
    for (int i = 3; i >= 0; --i)
      token = key_of_value(four.x[i]) == key ? static_cast<uint32_t>(first + i) : token;
  }
  return smallest_of_block(token, shared->warps);
}

/// The sum of weights that the filters leave: of a prefix of the ranking.
__device__ __forceinline__ Units kept_units(const DeviceSlot& slot, int32_t vocab_size,
                                            const Tally& all, Units min_p_units,
                                            RankingSelector* selector) {
  const DrawParams& params = slot.params;
  Units kept = all.units;
  // Tokens without a weight come last and add nothing.
  if (params.top_k > 0 && params.top_k < vocab_size &&
      static_cast<uint32_t>(params.top_k) < all.count) {
    kept = selector->find(Measure::kCount, static_cast<Units>(params.top_k)).units;
  }
  if (params.top_p < 1.0F) {
    kept = selector->find(Measure::kUnits, nucleus_units(params.top_p, kept)).units;
  }
  return params.min_p > 0.0F && min_p_units < kept ? min_p_units : kept;
}

/// What the row's status is before anything is drawn; best keys of the block's row.
__device__ __forceinline__ DrawStatus status_of_row(const SampledRow& row, uint32_t best,
                                                    uint32_t raw_best) {
  if (raw_best == kNoKey) return DrawStatus::kNoFiniteLogit;
  if (raw_best == kLargestKey) {  // infinity, perhaps, with nothing finite beside it
    bool finite = false;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < row.raw.vocab_size; i += kDrawThreads) {
      const float x = row.raw.logits[i];
      finite |= x >= -kLargestFloat && x <= kLargestFloat;
    }
    if (__syncthreads_or(static_cast<int>(finite)) == 0) return DrawStatus::kNoFiniteLogit;
  }
  return best == kNoKey ? DrawStatus::kNothingPenalized : DrawStatus::kDrawn;
}

template <typename Arguments = SamplerView>
__global__ void __launch_bounds__(kDrawThreads, 2) draw_tokens(Arguments view) {
  const auto row_index = static_cast<int64_t>(blockIdx.x);
  const DrawRow request = view.rows[row_index];
  DrawnToken* draw = view.draws + row_index;
  SampledRow row;
  if (!open_row(view, row_index, &row)) {
    if (threadIdx.x == 0) {
      *draw = DrawnToken{};
      draw->status = request.slot == kNoSlot ? DrawStatus::kNothing : DrawStatus::kNotStarted;
    }
    return;
  }
  auto* shared = shared_memory<SelectionShared>();
  const DrawParams& params = row.slot->params;
  const uint32_t best = best_key_of_row(row.values, shared->warps);
  const uint32_t raw_best =
      row.values.seen == nullptr ? best : best_key_of_row(row.raw, shared->warps);
  const DrawStatus status = status_of_row(row, best, raw_best);
  if (threadIdx.x == 0) {
    *draw = DrawnToken{};
    draw->status = status;
  }
  if (status != DrawStatus::kDrawn) return;

  const float raw_max = logit_of_key(raw_best);
  const Scale scale{logit_of_key(best), params.temperature};
  Units raw_units = row.wants_raw_sum ? view.sums[row_index * 2 + 1] : 0;
  Tally all{0, 0};
  uint32_t token = 0;
  {
    RankingSelector selector(row.values, scale, shared);
    if (row.wants_weights) {
      all = selector.set_bins(view.bin_counts + row_index * kBins,
                              view.bin_units + row_index * kBins);
      const Units kept =
          kept_units(*row.slot, view.vocab_size, all, view.sums[row_index * 2], &selector);
      const uint32_t uniform = counter_bits(params.seed, static_cast<uint64_t>(request.position));
      token =
          static_cast<uint32_t>(selector.find(Measure::kUnits, draw_units(kept, uniform) + 1).key);
    } else {
      token = first_token_of_key(row.values, best, shared);
    }
  }

  if (row.wants_logprobs) {
    if (!row.wants_raw_sum) raw_units = all.units;
    const double log_sum = log_of_units(raw_units);
    if (params.num_top_logprobs > 0) {
      const auto wanted = static_cast<uint32_t>(params.num_top_logprobs);
      RankingSelector selector(row.raw, {raw_max, 1.0F}, shared);
      const uint32_t listed = selector.list_best(wanted);
      const uint32_t num_top = listed < wanted ? listed : wanted;
      if (threadIdx.x < num_top) {  // there were barriers since thread 0 cleared the draw
        const Units rank = selector.listed(threadIdx.x);
        draw->top_tokens[threadIdx.x] = static_cast<int32_t>(rank & 0xffffffffU);
        draw->top_logprobs[threadIdx.x] =
            logprob_of(logit_of_key(static_cast<uint32_t>(rank >> 32)), raw_max, log_sum);
      }
      if (threadIdx.x == 0) draw->num_top = static_cast<int32_t>(num_top);
    }
    if (threadIdx.x == 0)
      draw->logprob = logprob_of(finite_above(row.raw.logits[token]), raw_max, log_sum);
  }
  // Finding the token ended with a barrier: all have read `seen`.
  if (threadIdx.x != 0) return;
  draw->token_id = static_cast<int32_t>(token);
  view.last_tokens[request.slot] = static_cast<int32_t>(token);
  if (row.values.seen != nullptr) {
    uint32_t* seen = view.seen + row.slot->penalty_row * view.seen_stride + token;
    *seen = (*seen | kSeen) + 1;
  }
}

}  // namespace phalanx::kernels::cuda
