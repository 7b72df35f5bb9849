// The operators' checks. Called by every backend.
#include "kernels/operator_checks.h"

#include <algorithm>
#include <bit>
#include <string>

#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace {

bool aligned64(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 64 == 0; }

/// Block ids of positions [first, end) of a sequence.
void check_blocks(const SequenceRows& s, int64_t first, int64_t end, const KvLayerView& kv) {
  PHALANX_CHECK(s.block_table != nullptr, "a sequence needs a block table");
  for (int64_t block = first / kBlockTokens; block * kBlockTokens < end; ++block) {
    const int64_t id = s.block_table[block];
    if (id >= 0 && id < kv.num_blocks) continue;
    PHALANX_CHECK(false, "block_table[" + std::to_string(block) + "] is " + std::to_string(id) +
                             ", the pool has " + std::to_string(kv.num_blocks) + " blocks");
  }
}

void check_sequence(const SequenceRows& s) {
  PHALANX_CHECK_GE(s.first_row, 0, "first_row of a sequence");
  PHALANX_CHECK_GE(s.num_rows, 0, "num_rows of a sequence");
  PHALANX_CHECK_GE(s.first_position, 0, "first_position of a sequence");
}

int64_t end_row(std::span<const SequenceRows> sequences) {
  int64_t end = 0;
  for (const SequenceRows& s : sequences) end = std::max(end, s.first_row + s.num_rows);
  return end;
}

}  // namespace

void check_rows(ConstRows rows, int64_t num_rows, int64_t num_cols, const char* name) {
  PHALANX_CHECK_GE(num_rows, 0, name);
  PHALANX_CHECK_GT(num_cols, 0, name);
  if (num_rows == 0) return;
  PHALANX_CHECK(rows.data != nullptr, name);
  if (num_rows > 1) PHALANX_CHECK_GE(rows.stride, num_cols, name);
}

void check_parts(const PartRows& rows, int64_t num_rows, int64_t num_cols) {
  PHALANX_CHECK(std::has_single_bit(rows.parts.size()) && rows.parts.size() <= kMaxParts,
                "parts of a sum: " + std::to_string(rows.parts.size()) +
                    ", must be a power of two and at most " + std::to_string(kMaxParts));
  for (const float* part : rows.parts)
    check_rows({part, rows.stride}, num_rows, num_cols, "rows of a part");
}

void check_norm(const float* weight, float eps, int64_t num_cols) {
  PHALANX_CHECK(weight != nullptr, "a norm needs its weight");
  PHALANX_CHECK_GE(eps, 0.0F, "eps of a norm");
  PHALANX_CHECK_GT(num_cols, 0, "num_cols of a norm");
}

void check_scale_blocks(const MatrixSource& source) {
  if (source.format != WeightFormat::kFp8) return;
  PHALANX_CHECK(source.scale_dtype == DType::kF32, "scales of e4m3 weights are f32");
  PHALANX_CHECK(source.zeros == nullptr, "e4m3 weights have no zeros");
  PHALANX_CHECK_GT(source.scale_rows, 0, "rows that a scale covers");
  PHALANX_CHECK_GT(source.scale_cols, 0, "columns that a scale covers");
  PHALANX_CHECK(source.first_row >= 0 && source.first_col >= 0, "place of a slice in its matrix");
  PHALANX_CHECK_GT(source.group_size, 0, "group_size of e4m3 weights");
  PHALANX_CHECK_EQ(source.first_col % source.group_size, 0, "a slice begins inside a group");
  PHALANX_CHECK(source.scale_cols % source.group_size == 0 ||
                    source.first_col + source.num_cols <= source.scale_cols,
                "groups of " + std::to_string(source.group_size) + " straddle scales of " +
                    std::to_string(source.scale_cols) + " columns");
}

void check_embedding(const MatrixSource& table, std::span<const int32_t> token_ids, ConstRows y) {
  PHALANX_CHECK(table.codes != nullptr, "an embedding table needs codes");
  if (is_quantized(table.format)) {
    PHALANX_CHECK(table.scales != nullptr, "a quantized embedding table needs scales");
    PHALANX_CHECK_GT(table.group_size, 0, "group_size of an embedding table");
    PHALANX_CHECK_EQ(table.num_cols % table.group_size, 0, "group_size must divide num_cols");
    check_scale_blocks(table);
  }
  check_rows(y, static_cast<int64_t>(token_ids.size()), table.num_cols, "rows of the embedding");
  for (const int32_t id : token_ids) {
    PHALANX_CHECK_GE(id, 0, "token id");
    PHALANX_CHECK_LT(id, table.num_rows, "token id");
  }
}

void check_activation_view(const ActivationView& view, int64_t num_rows) {
  PHALANX_CHECK_GE(num_rows, 0, "rows of an activation view");
  PHALANX_CHECK_GT(view.num_cols, 0, "num_cols of an activation view");
  if (num_rows == 0) return;
  PHALANX_CHECK(view.codes != nullptr && aligned64(view.codes),
                "codes of an activation view are 64-byte aligned");
  if (!is_quantized(view.form)) return;
  PHALANX_CHECK_GT(view.group_size, 0, "group_size of an activation view");
  PHALANX_CHECK_EQ(view.num_cols % view.group_size, 0, "group_size must divide num_cols");
  PHALANX_CHECK(view.scales != nullptr, "quantized activations need scales");
  PHALANX_CHECK(view.sums != nullptr || view.form != ActivationForm::kS8,
                "s8 activations need sums");
}

namespace {

void check_linear_input(const PackedMatrix& w, const ActivationView& x, int64_t num_rows) {
  PHALANX_CHECK(x.form == activation_form(w.format()),
                "the activations have another form than the matrix multiplies");
  PHALANX_CHECK_EQ(x.num_cols, w.num_cols(), "num_cols of activations and matrix");
  if (is_quantized(x.form)) {
    PHALANX_CHECK_EQ(x.group_size, w.group_size(), "group_size of activations and matrix");
  }
  check_activation_view(x, num_rows);
}

}  // namespace

void check_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, ConstRows y) {
  check_linear_input(w, x, num_rows);
  if (w.num_rows() > 0) check_rows(y, num_rows, w.num_rows(), "rows of a product");
}

void check_gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                        const ActivationView& out) {
  check_linear_input(w, x, num_rows);
  check_activation_view(out, num_rows);
  PHALANX_CHECK_EQ(w.num_rows() % 2, 0, "a gated product's outputs are gates and as many factors");
  PHALANX_CHECK_EQ(out.num_cols, w.num_rows() / 2, "columns that a gated product makes");
}

void check_rope(ConstRows x, int64_t num_heads, int64_t head_dim, const RopeTable& table,
                std::span<const int32_t> positions) {
  check_rows(x, static_cast<int64_t>(positions.size()), num_heads * head_dim, "rows of rope");
  PHALANX_CHECK(table.cosines != nullptr && table.sines != nullptr, "rope needs its tables");
  PHALANX_CHECK_GT(table.rotary_dim, 0, "rotary_dim");
  PHALANX_CHECK_EQ(table.rotary_dim % 2, 0, "rotary_dim is even");
  PHALANX_CHECK_LE(table.rotary_dim, head_dim, "rotary_dim fits head_dim");
  for (const int32_t position : positions) {
    PHALANX_CHECK_GE(position, 0, "position of a row");
    PHALANX_CHECK_LT(position, table.max_positions, "position of a row");
  }
}

void check_gather(ConstRows x, std::span<const int32_t> rows, int64_t num_cols, ConstRows y) {
  check_rows(y, static_cast<int64_t>(rows.size()), num_cols, "gather_rows writes rows");
  for (const int32_t row : rows) {
    PHALANX_CHECK_GE(row, 0, "row to gather");
    check_rows(x, row + 1, num_cols, "gather_rows reads rows");
  }
}

void check_kv(const KvLayerView& kv) {
  PHALANX_CHECK(kv.data != nullptr && aligned64(kv.data), "the KV pool is 64-byte aligned");
  PHALANX_CHECK_GT(kv.num_blocks, 0, "num_blocks of the KV pool");
  PHALANX_CHECK_GT(kv.num_kv_heads, 0, "num_kv_heads of the KV pool");
  kv_block_bytes(kv.format, kv.head_dim);  // checks head_dim
}

void check_write_kv(ConstRows k, ConstRows v, std::span<const SequenceRows> sequences,
                    const KvLayerView& kv) {
  check_kv(kv);
  check_rows(k, end_row(sequences), kv.num_kv_heads * kv.head_dim, "rows of keys");
  check_rows(v, end_row(sequences), kv.num_kv_heads * kv.head_dim, "rows of values");
  for (const SequenceRows& s : sequences) {
    check_sequence(s);
    if (s.num_rows > 0) check_blocks(s, s.first_position, s.first_position + s.num_rows, kv);
  }
}

void check_attention(ConstRows q, std::span<const SequenceRows> sequences, const KvLayerView& kv,
                     const AttentionParams& params, ConstRows y) {
  check_kv(kv);
  PHALANX_CHECK_GT(params.num_query_heads, 0, "num_query_heads");
  PHALANX_CHECK_GE(params.sliding_window, 0, "sliding_window");
  PHALANX_CHECK(params.kv_head_of_query != nullptr,
                "attention needs the KV head of each query head");
  for (int64_t head = 0; head < params.num_query_heads; ++head) {
    const int32_t kv_head = params.kv_head_of_query[head];
    PHALANX_CHECK_GE(kv_head, head == 0 ? 0 : params.kv_head_of_query[head - 1],
                     "kv_head_of_query ascends from 0");
    PHALANX_CHECK_LT(kv_head, kv.num_kv_heads, "kv_head_of_query");
  }
  check_rows(q, end_row(sequences), params.num_query_heads * kv.head_dim, "rows of queries");
  check_rows(y, end_row(sequences), params.num_query_heads * kv.head_dim, "rows of attention");
  for (const SequenceRows& s : sequences) {
    check_sequence(s);
    if (s.num_rows == 0) continue;
    const int64_t oldest = params.sliding_window > 0
                               ? std::max(int64_t{0}, s.first_position - params.sliding_window + 1)
                               : 0;
    check_blocks(s, oldest, s.first_position + s.num_rows, kv);
  }
}

}  // namespace phalanx::kernels
