// A small world for attention tests: sequences with random q, k, v, a paged pool full of garbage
// and shuffled block tables, and steps that run any rows of any sequences. Called by attention
// tests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/operators.h"

namespace phalanx::kernels {

struct AttentionShape {
  KvFormat format = KvFormat::kF32;
  int64_t head_dim = 64;
  int64_t num_kv_heads = 1;
  std::vector<int32_t> kv_head_of_query = {0};
  int64_t sliding_window = 0;

  int64_t num_query_heads() const { return static_cast<int64_t>(kv_head_of_query.size()); }
  int64_t q_cols() const { return num_query_heads() * head_dim; }
  int64_t kv_cols() const { return num_kv_heads * head_dim; }
};

/// What sequence `id` of a given seed holds: rows [length][cols], the same in every world.
struct SequenceData {
  std::vector<float> q, k, v;

  SequenceData(const AttentionShape& shape, int64_t length, uint32_t seed, int id,
               float spread = 1.0F) {
    std::mt19937 random(seed * 1000 + static_cast<uint32_t>(id));
    std::normal_distribution<float> normal(0.0F, spread);
    const auto fill = [&](std::vector<float>& rows, int64_t cols) {
      rows.resize(static_cast<size_t>(length * cols));
      for (float& x : rows) x = normal(random);
    };
    fill(q, shape.q_cols());
    fill(k, shape.kv_cols());
    fill(v, shape.kv_cols());
  }
};

enum class PoolFill { kZeros, kNans };

class AttentionWorld {
 public:
  AttentionWorld(Operators& operators, const AttentionShape& shape,
                 std::vector<SequenceData> sequences, PoolFill pool_fill = PoolFill::kNans)
      : operators_(operators), shape_(shape), sequences_(std::move(sequences)) {
    int64_t num_blocks = 3;  // some that nobody owns
    for (const SequenceData& s : sequences_) num_blocks += blocks_of(length_of(s));
    ids_.resize(static_cast<size_t>(num_blocks));
    std::iota(ids_.begin(), ids_.end(), 0);
    std::mt19937 random(7);
    std::shuffle(ids_.begin(), ids_.end(), random);
    const int64_t bytes =
        num_blocks * shape.num_kv_heads * kv_block_bytes(shape.format, shape.head_dim);
    pool_ = operators.allocate(bytes);
    // 0xff bytes: NaN as f32, bf16 and as int8's scales.
    if (pool_fill == PoolFill::kNans) std::memset(pool_.get(), 0xff, static_cast<size_t>(bytes));
    view_ = {shape.format, pool_.get(), num_blocks, shape.num_kv_heads, shape.head_dim};
    size_t next = 0;
    for (const SequenceData& s : sequences_) {
      const auto blocks = static_cast<size_t>(blocks_of(length_of(s)));
      owned_.emplace_back(ids_.begin() + static_cast<int64_t>(next),
                          ids_.begin() + static_cast<int64_t>(next + blocks));
      next += blocks;
      outputs_.emplace_back(s.q.size(), -1.0F);
      done_.push_back(0);
    }
  }

  int64_t length(size_t sequence) const { return length_of(sequences_[sequence]); }
  int64_t done(size_t sequence) const { return done_[sequence]; }

  /// Runs the next num_rows rows of each named sequence in one step.
  void step(const std::vector<std::pair<size_t, int64_t>>& rows_of) {
    int64_t num_rows = 0;
    for (const auto& [sequence, rows] : rows_of) num_rows += rows;
    const int64_t q_cols = shape_.q_cols();
    const int64_t kv_cols = shape_.kv_cols();
    // Strides larger than the rows, as in a fused q, k, v matrix.
    const int64_t stride = q_cols + 2 * kv_cols + 3;
    std::vector<float> fused(static_cast<size_t>(num_rows * stride), -7.0F);
    std::vector<float> y(static_cast<size_t>(num_rows * q_cols), -3.0F);
    std::vector<std::vector<int32_t>> tables;
    std::vector<SequenceRows> rows;
    int64_t row = 0;
    for (const auto& [sequence, count] : rows_of) {
      const SequenceData& data = sequences_[sequence];
      const int64_t first = done_[sequence];
      for (int64_t r = 0; r < count; ++r) {
        float* to = fused.data() + (row + r) * stride;
        std::copy_n(data.q.data() + (first + r) * q_cols, q_cols, to);
        std::copy_n(data.k.data() + (first + r) * kv_cols, kv_cols, to + q_cols);
        std::copy_n(data.v.data() + (first + r) * kv_cols, kv_cols, to + q_cols + kv_cols);
      }
      tables.push_back(table(sequence, first, first + count));
      rows.push_back({row, count, first, nullptr});
      row += count;
    }
    for (size_t i = 0; i < rows.size(); ++i) rows[i].block_table = tables[i].data();
    operators_.write_kv({fused.data() + q_cols, stride}, {fused.data() + q_cols + kv_cols, stride},
                        rows, view_);
    AttentionParams params;
    params.num_query_heads = shape_.num_query_heads();
    params.kv_head_of_query = shape_.kv_head_of_query.data();
    params.scale = scale();
    params.sliding_window = shape_.sliding_window;
    operators_.attention({fused.data(), stride}, rows, view_, params, {y.data(), q_cols});
    row = 0;
    for (const auto& [sequence, count] : rows_of) {
      std::copy_n(y.data() + row * q_cols, count * q_cols,
                  outputs_[sequence].data() + done_[sequence] * q_cols);
      done_[sequence] += count;
      row += count;
    }
  }

  /// Runs one sequence to its end in chunks.
  void finish(size_t sequence, int64_t chunk) {
    while (done_[sequence] < length(sequence)) {
      step({{sequence, std::min(chunk, length(sequence) - done_[sequence])}});
    }
  }

  const std::vector<float>& output(size_t sequence) const { return outputs_[sequence]; }
  const SequenceData& data(size_t sequence) const { return sequences_[sequence]; }
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(shape_.head_dim)); }

 private:
  static int64_t blocks_of(int64_t length) { return (length + kBlockTokens - 1) / kBlockTokens; }
  int64_t length_of(const SequenceData& s) const {
    return static_cast<int64_t>(s.q.size()) / shape_.q_cols();
  }

  /// The block table for rows [first, end): entries that no row may look at are poison.
  std::vector<int32_t> table(size_t sequence, int64_t first, int64_t end) const {
    std::vector<int32_t> ids = owned_[sequence];
    const int64_t oldest =
        shape_.sliding_window > 0 ? std::max<int64_t>(0, first - shape_.sliding_window + 1) : 0;
    for (int64_t block = 0; block < static_cast<int64_t>(ids.size()); ++block) {
      const bool seen = (block + 1) * kBlockTokens > oldest && block * kBlockTokens < end;
      if (!seen) ids[static_cast<size_t>(block)] = INT32_MIN;
    }
    return ids;
  }

  Operators& operators_;
  AttentionShape shape_;
  std::vector<SequenceData> sequences_;
  std::vector<int32_t> ids_;
  std::vector<std::vector<int32_t>> owned_;
  std::shared_ptr<std::byte> pool_;
  KvLayerView view_;
  std::vector<std::vector<float>> outputs_;
  std::vector<int64_t> done_;
};

/// Output rows of one sequence run alone in chunks.
inline std::vector<float> attend_alone(Operators& operators, const AttentionShape& shape,
                                       const SequenceData& data, int64_t chunk,
                                       PoolFill pool_fill = PoolFill::kNans) {
  AttentionWorld world(operators, shape, {data}, pool_fill);
  world.finish(0, chunk);
  return world.output(0);
}

}  // namespace phalanx::kernels
