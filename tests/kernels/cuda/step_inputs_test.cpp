// Steps staged for the device before it has run: each one's rows come to the kernels behind it.
#include "kernels/cuda/step_inputs.h"

#include <cstdint>
#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace phalanx::kernels::cuda {
namespace {

using ::testing::ElementsAre;

template <typename T>
std::vector<T> copied(const std::shared_ptr<std::byte>& host, size_t count) {
  const auto* values = reinterpret_cast<const T*>(host.get());
  return {values, values + count};
}

TEST(StepInputs, TwoStepsInFlightKeepTheirRows) {
  const auto device = Device::open(0);
  StepBounds bounds;
  bounds.max_rows = 4;
  bounds.max_sequences = 2;
  bounds.max_positions = 256;
  StepInputs inputs(*device, bounds);
  std::vector<std::shared_ptr<std::byte>> tokens;
  std::vector<std::shared_ptr<std::byte>> sequences;
  for (const int32_t step : {100, 200}) {
    const std::vector<int32_t> ids{step, step + 1, step + 2};
    const std::vector<SequenceRows> rows{{0, 0, step, nullptr}, {0, 0, step + 1, nullptr}};
    StepRows host;
    host.token_ids = ids;
    host.sequences = rows;
    const StepRows staged = inputs.stage(host);
    tokens.push_back(device->allocate_host(64));
    device->copy_to_host(tokens.back().get(), staged.token_ids.data(), 3 * sizeof(int32_t));
    sequences.push_back(device->allocate_host(64 * 2));
    device->copy_to_host(sequences.back().get(), staged.sequences.data(), 2 * sizeof(SequenceRows));
  }
  device->synchronize();
  EXPECT_THAT(copied<int32_t>(tokens[0], 3), ElementsAre(100, 101, 102));
  EXPECT_THAT(copied<int32_t>(tokens[1], 3), ElementsAre(200, 201, 202));
  EXPECT_EQ(copied<SequenceRows>(sequences[0], 2)[1].first_position, 101);
  EXPECT_EQ(copied<SequenceRows>(sequences[1], 2)[1].first_position, 201);
}

TEST(StepInputs, BlockTablesAreOfTheBlocksThatAStepSees) {
  const auto device = Device::open(0);
  StepBounds bounds;
  bounds.max_rows = 40;
  bounds.max_sequences = 3;
  bounds.max_positions = 128;
  StepInputs inputs(*device, bounds);
  const std::vector<int32_t> first{7, 9};
  const std::vector<int32_t> last{4, 3, 2, 1};
  const std::vector<SequenceRows> rows{
      {0, 33, 0, first.data()}, {33, 0, 5, nullptr}, {33, 1, 96, last.data()}};
  StepRows host;
  host.sequences = rows;
  const StepRows staged = inputs.stage(host);
  const auto on_host = device->allocate_host(3 * sizeof(SequenceRows));
  device->copy_to_host(on_host.get(), staged.sequences.data(), 3 * sizeof(SequenceRows));
  device->synchronize();
  const auto got = copied<SequenceRows>(on_host, 3);
  const auto tables = device->allocate_host(64);
  device->copy_to_host(tables.get(), got[0].block_table, 2 * sizeof(int32_t));
  device->copy_to_host(tables.get() + 8, got[2].block_table, 4 * sizeof(int32_t));
  device->synchronize();
  EXPECT_THAT(copied<int32_t>(tables, 6), ElementsAre(7, 9, 4, 3, 2, 1));
}

}  // namespace
}  // namespace phalanx::kernels::cuda
