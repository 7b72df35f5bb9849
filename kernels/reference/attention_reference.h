// Scalar paged attention, written from operators.h and the order stated in kernels/cpu/attention.h.
// Called by reference_operators. Its blocks are plain: keys [32][D], values [32][D], scales.
#pragma once

#include <span>

#include "kernels/operators.h"

namespace phalanx::kernels::reference {

void write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
              const KvLayerView& kv);

void attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
               const AttentionParams& params, Rows y);

}  // namespace phalanx::kernels::reference
