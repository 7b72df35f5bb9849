// The CUDA backend's steps on the emulated device: one that was recorded follows the rows staged
// for its replay.
#include "kernels/cuda/cuda_operators.h"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/kernels/attention_world.h"

namespace phalanx::kernels::cuda {
namespace {

/// Positions of the two sequences' rows in a step of decode.
struct Step {
  int64_t first;
  int64_t second;
};

/// Two contexts written to a pool, and steps of one row each.
class Decoder {
 public:
  Decoder() : operators_(make_cuda_operators({})), data_(shape_, kLength + kOther, 3, 0) {
    StepBounds bounds;
    bounds.max_rows = kLength + kOther;
    bounds.max_sequences = 2;
    bounds.max_positions = kLength;
    bounds.num_query_heads = shape_.num_query_heads();
    bounds.num_kv_heads = shape_.num_kv_heads;
    bounds.head_dim = shape_.head_dim;
    bounds.kv_format = shape_.format;
    bounds.kv_head_of_query = shape_.kv_head_of_query.data();
    operators_->reserve(bounds);
    for (int32_t i = 0; i < kBlocks; ++i) table_.push_back(2 * i + 1);
    for (int32_t i = 0; i < kBlocks; ++i) other_.push_back(2 * i);
    pool_ = operators_->allocate(2 * kBlocks * kv_block_bytes(shape_.format, shape_.head_dim));
    for (auto& y : y_) y = operators_->allocate(2 * shape_.q_cols() * int64_t{4});
    q_ = uploaded(data_.q);
    const auto k = uploaded(data_.k);
    const auto v = uploaded(data_.v);
    const std::vector<SequenceRows> all{{0, kLength, 0, table_.data()},
                                        {kLength, kOther, 0, other_.data()}};
    const StepRows staged = stage(all);
    operators_->begin();
    operators_->write_kv({floats(k), shape_.kv_cols()}, {floats(v), shape_.kv_cols()},
                         staged.sequences, kv());
    operators_->finish();
  }

  StepRows stage(const Step& step) {
    return stage({{0, 1, step.first, table_.data()}, {1, 1, step.second, other_.data()}});
  }
  void attend(const StepRows& staged, size_t output = 0) {
    AttentionParams params;
    params.num_query_heads = shape_.num_query_heads();
    params.kv_head_of_query = shape_.kv_head_of_query.data();
    params.scale = 0.2F;
    operators_->begin();
    operators_->attention({floats(q_), shape_.q_cols()}, staged.sequences, kv(), params,
                          {floats(y_[output]), shape_.q_cols()});
  }
  std::vector<float> result(size_t output = 0) {
    operators_->finish();
    std::vector<float> y(static_cast<size_t>(2 * shape_.q_cols()));
    operators_->download(std::as_writable_bytes(std::span(y)), y_[output].get());
    return y;
  }
  Operators& operators() { return *operators_; }

  static constexpr int64_t kLength = 600;
  static constexpr int64_t kOther = 40;

 private:
  static constexpr int32_t kBlocks = 20;

  static float* floats(const std::shared_ptr<std::byte>& memory) {
    return reinterpret_cast<float*>(memory.get());
  }
  KvLayerView kv() const {
    return {shape_.format, pool_.get(), 2 * kBlocks, shape_.num_kv_heads, shape_.head_dim};
  }
  std::shared_ptr<std::byte> uploaded(const std::vector<float>& values) {
    auto memory = operators_->allocate(static_cast<int64_t>(values.size() * sizeof(float)));
    operators_->upload(memory.get(), std::as_bytes(std::span(values)));
    return memory;
  }
  StepRows stage(const std::vector<SequenceRows>& sequences) {
    const std::vector<int32_t> positions(
        static_cast<size_t>(sequences.back().first_row + sequences.back().num_rows));
    StepRows rows;
    rows.positions = positions;
    rows.sequences = sequences;
    return operators_->stage(rows);
  }

  AttentionShape shape_{KvFormat::kInt8, 32, 1, {0, 0}, 0};
  std::unique_ptr<Operators> operators_;
  SequenceData data_;
  std::vector<int32_t> table_, other_;
  std::shared_ptr<std::byte> pool_, q_, y_[2];
};

/// By operators that never saw another step.
std::vector<float> alone(const Step& step) {
  Decoder decoder;
  decoder.attend(decoder.stage(step));
  return decoder.result();
}

constexpr Step kShort{3, 35};
constexpr Step kLong{Decoder::kLength - 1, 2};

TEST(CudaOperators, EveryStepIsPlannedForItsOwnRows) {
  Decoder decoder;
  for (const Step& step : {kShort, kLong, kShort}) {
    decoder.attend(decoder.stage(step));
    EXPECT_EQ(decoder.result(), alone(step)) << "position " << step.first;
  }
}

TEST(CudaOperators, ARecordedStepFollowsTheRowsOfItsReplay) {
  Decoder decoder;
  const StepRows staged = decoder.stage(kShort);
  decoder.attend(staged);
  const auto recorded = decoder.operators().record([&] { decoder.attend(staged); });
  ASSERT_NE(recorded, nullptr);
  for (const Step& step : {kLong, kShort, kLong}) {
    decoder.stage(step);
    decoder.operators().replay(*recorded);
    EXPECT_EQ(decoder.result(), alone(step)) << "position " << step.first;
  }
}

TEST(CudaOperators, StepsInFlightKeepTheirRows) {
  Decoder decoder;
  decoder.attend(decoder.stage(kLong), 0);
  decoder.attend(decoder.stage(kShort), 1);
  EXPECT_EQ(decoder.result(1), alone(kShort));
  EXPECT_EQ(decoder.result(0), alone(kLong));
}

}  // namespace
}  // namespace phalanx::kernels::cuda
