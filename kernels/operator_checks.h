// What every backend checks before an operator does any work: shapes, ids, positions, alignment.
// Called by cpu_operators and reference_operators. Errors: InternalError.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/operators.h"

namespace phalanx::kernels {

/// Rows are there and do not overlap: data when there is something to read, stride >= num_cols.
void check_rows(ConstRows rows, int64_t num_rows, int64_t num_cols, const char* name);

/// Parts are there, a power of two of them, and their rows do not overlap.
void check_parts(const PartRows& rows, int64_t num_rows, int64_t num_cols);

void check_norm(const float* weight, float eps, int64_t num_cols);
/// The scale layout of a kFp8 source; nothing of others.
void check_scale_blocks(const MatrixSource& source);
void check_embedding(const MatrixSource& table, std::span<const int32_t> token_ids, ConstRows y);
void check_activation_view(const ActivationView& view, int64_t num_rows);
void check_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, ConstRows y);
void check_gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                        const ActivationView& out);
void check_rope(ConstRows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
                std::span<const int32_t> positions);
void check_gather(ConstRows x, std::span<const int32_t> rows, int64_t num_cols, ConstRows y);

/// The pool and every block that the rows' positions, and for attention their contexts, touch.
void check_kv(const KvLayerView& kv);
void check_write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                    const KvLayerView& kv);
void check_attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
                     const AttentionParams& params, ConstRows y);

}  // namespace phalanx::kernels
