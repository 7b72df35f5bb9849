// Cases over paged KV: attention of decode and prefill, storing keys and values. Called by
// kernels.cpp through kernel_case.h.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <span>

#include "launcher/bench/kernel_case.h"
#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

using kernels::AttentionParams;
using kernels::kBlockTokens;
using kernels::KvFormat;
using kernels::Operators;
using kernels::SequenceRows;

/// Blocks of tokens after which a pool's contents repeat; a prime, as kDistinctRows.
constexpr int64_t kDistinctBlocks = 13;
constexpr uint64_t kKeySeed = 11;
constexpr uint64_t kValueSeed = 12;
constexpr uint64_t kQuerySeed = 13;
constexpr uint64_t kWrittenKeySeed = 14;
constexpr uint64_t kWrittenValueSeed = 15;
constexpr uint64_t kOutputSeed = 16;  // what outputs hold before they are written

int64_t blocks_of(int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

int64_t kv_cols(const KernelShape& shape) {
  return shape.model.num_kv_heads * shape.model.head_dim;
}

RowIds count_to(int64_t end) {
  RowIds ids(static_cast<size_t>(end));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

/// Queries of some sequences, and their outputs.
class Queries {
 public:
  Queries(Operators& operators, const KernelShape& shape, int64_t num_heads, const RowIds& ids)
      : operators_(operators),
        q_(operators, kQuerySeed, ids, num_heads * shape.model.head_dim),
        y_(operators, kOutputSeed, ids, q_.num_cols()) {
    for (int64_t h = 0; h < num_heads; ++h)
      kv_heads_.push_back(static_cast<int32_t>(h * shape.model.num_kv_heads / num_heads));
    params_.num_query_heads = num_heads;
    params_.kv_head_of_query = kv_heads_.data();
    params_.scale = 1.0F / std::sqrt(static_cast<float>(shape.model.head_dim));
  }
  Queries(const Queries&) = delete;
  Queries& operator=(const Queries&) = delete;

  void attend(std::span<const SequenceRows> sequences, const KvPool& pool) {
    operators_.attention(q_.rows(), sequences, pool.view(), params_, y_.rows());
  }
  const CaseRows& outputs() const { return y_; }

 private:
  Operators& operators_;
  CaseRows q_, y_;
  std::vector<int32_t> kv_heads_;
  AttentionParams params_;
};

class AttentionCase final : public KernelCase {
 public:
  struct Query {
    int64_t sequence;  ///< counted in the call
    int64_t num_rows;
    int64_t position;  ///< of the first row
  };

  AttentionCase(Operators& operators, std::shared_ptr<KvPool> pool, const RowIds& rows,
                std::vector<Query> queries, int64_t blocks_each, int64_t num_sequences)
      : pool_(std::move(pool)),
        queries_(operators, pool_->shape(), pool_->shape().model.num_heads, rows),
        parts_(std::move(queries)),
        sequences_(parts_.size()),
        blocks_each_(blocks_each),
        blocks_a_call_(blocks_each * num_sequences) {
    double pairs = 0;
    std::vector<int64_t> seen(static_cast<size_t>(num_sequences), 0);  // tokens of each sequence
    for (const Query& part : parts_) {
      for (int64_t r = 0; r < part.num_rows; ++r)
        pairs += static_cast<double>(part.position + r + 1);
      int64_t& tokens = seen[static_cast<size_t>(part.sequence)];
      tokens = std::max(tokens, part.position + part.num_rows);
    }
    const auto tokens = static_cast<double>(std::accumulate(seen.begin(), seen.end(), int64_t{0}));
    cost_.ops = 4 * pairs * static_cast<double>(queries_.outputs().num_cols());
    switch (pool_->view().format) {
      case KvFormat::kF32:
        cost_.peak = PeakKind::kF32;
        break;
      case KvFormat::kBf16:
        cost_.peak = PeakKind::kBf16;
        break;
      case KvFormat::kInt8:
        cost_.peak = PeakKind::kInt8;
        cost_.ops *= 2;  // queries and weights have two digits each
        break;
    }
    cost_.bytes = tokens * pool_->bytes_per_token() + 2 * queries_.outputs().bytes();
    cost_.footprint_bytes =
        static_cast<double>(pool_->view().num_blocks * kBlockTokens) * pool_->bytes_per_token();
  }

  void run() override {
    int64_t row = 0;
    for (size_t i = 0; i < parts_.size(); ++i) {
      const Query& part = parts_[i];
      sequences_[i] = {row, part.num_rows, part.position,
                       pool_->table(first_block_ + part.sequence * blocks_each_)};
      row += part.num_rows;
    }
    queries_.attend(sequences_, *pool_);
    first_block_ += blocks_a_call_;
  }

  std::vector<float> output_row(size_t i) const override { return queries_.outputs().row(i); }

 private:
  std::shared_ptr<KvPool> pool_;
  Queries queries_;
  std::vector<Query> parts_;
  std::vector<SequenceRows> sequences_;
  int64_t blocks_each_, blocks_a_call_;
  int64_t first_block_ = 0;
};

class WriteKvCase final : public KernelCase {
 public:
  WriteKvCase(Operators& operators, std::shared_ptr<KvPool> pool, const RowIds& rows)
      : operators_(operators),
        pool_(std::move(pool)),
        ids_(rows),
        num_rows_(*std::max_element(rows.begin(), rows.end()) + 1),
        k_(operators, kWrittenKeySeed, count_to(num_rows_), kv_cols(pool_->shape())),
        v_(operators, kWrittenValueSeed, count_to(num_rows_), kv_cols(pool_->shape())) {
    cost_.bytes = 2 * k_.bytes() + static_cast<double>(num_rows_) * pool_->bytes_per_token();
    cost_.footprint_bytes = cost_.bytes;
  }

  void run() override {
    last_ = {0, num_rows_, 0, pool_->table(first_block_)};
    operators_.write_kv(k_.rows(), v_.rows(), {&last_, 1}, pool_->view());
    first_block_ += blocks_of(num_rows_);
  }

  std::vector<float> output_row(size_t i) const override {
    const int64_t id = ids_[i];
    Queries query(operators_, pool_->shape(), pool_->shape().model.num_kv_heads, {id});
    const SequenceRows row = {0, 1, id, last_.block_table};
    query.attend({&row, 1}, *pool_);
    return query.outputs().row(0);
  }

 private:
  Operators& operators_;
  std::shared_ptr<KvPool> pool_;
  RowIds ids_;
  int64_t num_rows_;
  CaseRows k_, v_;
  SequenceRows last_;
  int64_t first_block_ = 0;
};

}  // namespace

KvPool::KvPool(Operators& operators, const KernelShape& shape, KvFormat format, int64_t num_blocks)
    : shape_(shape) {
  PHALANX_CHECK_GE(num_blocks, 1, "blocks of a pool");
  const ModelShape& model = shape.model;
  memory_ = operators.allocate(num_blocks * model.num_kv_heads *
                               kernels::kv_block_bytes(format, model.head_dim));
  view_ = {format, memory_.get(), num_blocks, model.num_kv_heads, model.head_dim};
  physical_.resize(static_cast<size_t>(num_blocks));
  std::iota(physical_.begin(), physical_.end(), 0);
  std::shuffle(physical_.begin(), physical_.end(), std::mt19937(1));
  const size_t once = physical_.size();  // a second round, so that a table can pass the end
  physical_.resize(2 * once);
  std::copy_n(physical_.begin(), once, physical_.begin() + static_cast<int64_t>(once));

  const RowIds ids = count_to(kDistinctBlocks * kBlockTokens);
  const CaseRows k(operators, kKeySeed, ids, kv_cols(shape));
  const CaseRows v(operators, kValueSeed, ids, kv_cols(shape));
  for (int64_t block = 0; block < num_blocks; block += kDistinctBlocks) {
    const int64_t count = std::min(kDistinctBlocks, num_blocks - block);
    const SequenceRows rows = {0, count * kBlockTokens, 0, table(block)};
    operators.write_kv(k.rows(), v.rows(), {&rows, 1}, view_);
  }
}

double KvPool::bytes_per_token() const {
  return static_cast<double>(view_.num_kv_heads *
                             kernels::kv_block_bytes(view_.format, view_.head_dim)) /
         static_cast<double>(kBlockTokens);
}

std::unique_ptr<KernelCase> make_decode_case(Operators& operators, std::shared_ptr<KvPool> pool,
                                             int64_t context, const RowIds& sequences) {
  std::vector<AttentionCase::Query> queries;
  for (const int64_t sequence : sequences) queries.push_back({sequence, 1, context - 1});
  const int64_t num_sequences = *std::max_element(sequences.begin(), sequences.end()) + 1;
  return std::make_unique<AttentionCase>(operators, std::move(pool), sequences, std::move(queries),
                                         blocks_of(context), num_sequences);
}

std::unique_ptr<KernelCase> make_prefill_case(Operators& operators, std::shared_ptr<KvPool> pool,
                                              const RowIds& rows) {
  const int64_t last = *std::max_element(rows.begin(), rows.end());
  std::vector<AttentionCase::Query> queries;
  if (last + 1 == static_cast<int64_t>(rows.size())) {
    queries.push_back({0, last + 1, 0});
  } else {
    for (const int64_t row : rows) queries.push_back({0, 1, row});
  }
  return std::make_unique<AttentionCase>(operators, std::move(pool), rows, std::move(queries),
                                         blocks_of(last + 1), 1);
}

std::unique_ptr<KernelCase> make_write_kv_case(Operators& operators, std::shared_ptr<KvPool> pool,
                                               const RowIds& rows) {
  return std::make_unique<WriteKvCase>(operators, std::move(pool), rows);
}

}  // namespace phalanx::bench
