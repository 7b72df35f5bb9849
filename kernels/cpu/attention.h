// Attention of the CPU backend: stores keys and values, and cuts a step's queries into units of
// work for the thread team. Called by cpu_operators, which checks shapes first.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/thread_team.h"
#include "kernels/cpu_backend.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

/// The order of operations, per query row and head at position p (law 1: nothing else decides its
/// bits). Token t is visible when max(0, p - sliding_window + 1) <= t <= p.
///
///   q'[d] = q[d] * scale
///   score[t] = fma chain over d of q'[d] * key[t][d]
///   Each partition of 128 tokens, counted from the context's start, over its visible tokens:
///     m = max of score;  w[t] = exp(score[t] - m)
///     l = sum of w: lane i of 16 adds tokens t = i (mod 16), ascending; then lanes 8, 4, 2, 1
///     a[d] = fma chain over t ascending, from 0, of w[t] * value[t][d]
///   Partitions with a visible token, ascending: the first is taken as it is, then
///     m' = max(M, m);  x = exp(M - m');  y = exp(m - m')
///     L = fma(L, x, l * y);  A[d] = fma(A[d], x, a[d] * y);  M = m'
///   result[d] = A[d] * (1 / L)
///
/// With bf16 keys and values, q' and w are rounded to bf16 too (l is the sum of rounded w), and the
/// chains go over pairs from even d and t on, as linear's for bf16 do: s = fma(x[i + 1], y[i + 1],
/// s), then s = fma(x[i], y[i], s), denormals flushed to zero. A token that is not visible takes
/// part in its pair as +0 * +0.
///
/// With int8 the sums are of integers, exact in any order, and rounded once to f32:
///   Q[d] = round(q'[d] * (8191 / x)) with x = max |q'|; sq = x * (1 / 8191)
///   score[t] = f32(sum over d of Q[d] * key code[t][d]) * key scale[t] * sq
///   u[t] = w[t] <= 0 ? 0 : w[t] * value scale[t], of a partition's visible tokens
///   W[t] = round(u[t] * (16383 / z)) with z = max |u|; sw = z * (1 / 16383)
///   a[d] = f32(sum over t of W[t] * value code[t][d]) * sw
/// to nearest even throughout; with x (or z) below 2^-100, sq and Q (sw and W) are 0. Its l is the
/// sum of w as it is.
///
/// exp is vec16_math.h. Stored keys and values: f32 as they are; bf16 rounded to nearest even; int8
/// as ActivationForm::kS8 with one group of head_dim. Slots outside the visible range are never
/// read into a result, whatever they hold.
class Attention {
 public:
  /// Allocates 4 MiB of scratch when the team has several threads. The lists of heads and units
  /// grow with the largest step seen.
  Attention(IsaTier tier, ThreadTeam& team);

  void write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                const KvLayerView& kv);

  /// The same on the calling thread alone. Two threads may write different sequences.
  void write_sequences(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                       const KvLayerView& kv) const;

  void attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
                 const AttentionParams& params, Rows y);

 private:
  struct Step;
  struct KvUnits;
  void list_tiles(const Step& step);
  void cut_long_tiles();
  template <typename Work>
  void share(std::vector<AttentionTile>& tiles, Work&& work);
  void index_heads(const KvLayerView& kv, const AttentionParams& params);

  const AttentionKernels& kernels_;
  ThreadTeam& team_;
  std::vector<int64_t> first_head_;       // [num_kv_heads + 1]: query heads of each KV head
  std::vector<AttentionTile> units_;      // what threads draw: tiles, long ones cut in parts
  std::vector<AttentionTile> cut_tiles_;  // the tiles that were cut, to be merged
  std::shared_ptr<std::byte> partials_;   // [kPartialFloats], null for one thread
  alignas(64) std::atomic<int64_t> next_unit_{0};
};

}  // namespace phalanx::kernels::cpu
