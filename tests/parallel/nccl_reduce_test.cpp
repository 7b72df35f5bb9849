// Tests the sums over ranks that use the NCCL transport: it moves the bytes and a kernel adds, all
// in one stream, with the bits of one rank that has all parts. Under mpirun, over the fake NCCL and
// on the emulated device.
#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include "kernels/cpu_backend.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/row_launches.h"
#include "kernels/operators.h"
#include "runtime/base/check.h"
#include "tests/parallel/nccl_test_group.h"
#include "tests/parallel/tree_model.h"

namespace phalanx::parallel {
namespace {

constexpr int64_t kCols = 192;
constexpr float kEps = 1e-5F;
constexpr size_t kRowBytes = kCols * sizeof(float);

std::span<const std::byte> bytes_of(const std::vector<float>& values) {
  return std::as_bytes(std::span(values));
}
std::span<std::byte> bytes_of(std::vector<float>& values) {
  return std::as_writable_bytes(std::span(values));
}

/// residual += the sum of all ranks' parts, y = rms_norm(residual) * weight; the same weight, first
/// residual and parts on all ranks, where parts[i] belongs to rank i.
class NcclReduceTest : public NcclTestGroup, public testing::WithParamInterface<int64_t> {
 protected:
  NcclReduceTest() : num_rows_(GetParam()) {
    const auto count = static_cast<size_t>(num_rows_ * kCols);
    residual_ = scattered_values(1, 100, count);
    weight_ = scattered_values(2, 100, kCols);
    y_.resize(count);
    for (int other = 0; other < size(); ++other)
      parts_.push_back(scattered_values(3, other, count));
    std::vector<const float*> pointers;
    for (const auto& part : parts_) pointers.push_back(part.data());
    expected_residual_ = residual_;
    expected_.resize(count);
    if (!is_tree()) return;
    kernels::make_reference_operators()->add_rms_norm_of_parts(
        {expected_residual_.data(), kCols}, {pointers, kCols}, nullptr, weight_.data(), kEps,
        num_rows_, kCols, {expected_.data(), kCols});
  }

  bool is_tree() const { return std::has_single_bit(static_cast<unsigned>(size())); }
  const std::vector<float>& own_part() const { return parts_[static_cast<size_t>(rank())]; }

  /// Waits for the stream as an executor does.
  void wait_for(DeviceCommunicator& device) {
    const auto start = std::chrono::steady_clock::now();
    gpu_->synchronize({}, [&] { device.check(std::chrono::steady_clock::now() - start); });
  }

  /// The kernel, in the stream, for rows [first, first + num_rows); part i begins with the first.
  void add(std::span<const float* const> parts, std::vector<float>& residual, int64_t first,
           int64_t num_rows) {
    kernels::cuda::DeviceParts delta{};
    for (size_t i = 0; i < parts.size(); ++i) delta.parts[i] = parts[i];
    delta.num_parts = static_cast<int>(parts.size());
    delta.stride = kCols;
    kernels::cuda::launch_add_rms_norm(
        {residual.data() + first * kCols, kCols}, delta, nullptr, weight_.data(), kEps, num_rows,
        kCols, kernels::cuda::device_activation(kernels::Rows{y_.data() + first * kCols, kCols}),
        gpu_->stream());
  }

  std::unique_ptr<kernels::cuda::Device> gpu_ = kernels::cuda::Device::open(rank());
  int64_t num_rows_;
  std::vector<std::vector<float>> parts_;
  std::vector<float> residual_, weight_, y_;
  std::vector<float> expected_residual_, expected_;
};

INSTANTIATE_TEST_SUITE_P(Rows, NcclReduceTest, testing::Values(1, 3, 8, 29));

// A short step: all parts to all ranks, and each adds all.
TEST_P(NcclReduceTest, EveryRankAddsGatheredParts) {
  if (!is_tree()) return;
  const auto device = make();
  std::vector<float> gathered(own_part().size() * static_cast<size_t>(size()));
  std::vector<const float*> pointers;
  for (int other = 0; other < size(); ++other)
    pointers.push_back(gathered.data() + own_part().size() * static_cast<size_t>(other));
  device->all_gather(bytes_of(own_part()), bytes_of(gathered), gpu_->stream());
  add(pointers, residual_, 0, num_rows_);
  wait_for(*device);
  EXPECT_EQ(y_, expected_);
  EXPECT_EQ(residual_, expected_residual_);
}

// The same kept and run again, as a recorded decode step is.
TEST_P(NcclReduceTest, ARecordedSumHasTheSameBits) {
  if (!is_tree()) return;
  const auto device = make();
  std::vector<float> part = own_part();
  std::vector<float> gathered(part.size() * static_cast<size_t>(size()));
  std::vector<const float*> pointers;
  for (int other = 0; other < size(); ++other)
    pointers.push_back(gathered.data() + part.size() * static_cast<size_t>(other));
  std::vector<float> residual = residual_;
  const auto enqueue = [&] {
    device->all_gather(bytes_of(std::as_const(part)), bytes_of(gathered), gpu_->stream());
    add(pointers, residual, 0, num_rows_);
  };
  enqueue();  // opens the connections
  wait_for(*device);
  EXPECT_EQ(y_, expected_);
  const auto recording = gpu_->record(enqueue);
  for (int replay = 0; replay < 3; ++replay) {
    std::copy(residual_.begin(), residual_.end(), residual.begin());
    std::fill(gathered.begin(), gathered.end(), 0.0F);
    std::fill(y_.begin(), y_.end(), 0.0F);
    gpu_->replay(*recording);
    wait_for(*device);
    EXPECT_EQ(y_, expected_);
    EXPECT_EQ(residual, expected_residual_);
  }
}

// What a rank waits for in its stream ends with the group.
TEST_P(NcclReduceTest, AWaitForTheDeviceEndsWithAMissingPeer) {
  options_.wait_deadline = std::chrono::milliseconds(50);
  options_.finish_deadline = std::chrono::milliseconds(10);
  const auto device = make();
  std::vector<float> out(own_part().size() * static_cast<size_t>(size()));
  if (rank() == 0) {
    device->abort();
  } else {
    device->all_gather(bytes_of(own_part()), bytes_of(out), gpu_->stream());
    EXPECT_THROW(wait_for(*device), DeviceError);
  }
  gpu_->synchronize();
  meet();
}

// A long one: each rank adds rows of its own, an equal share but for the last ranks', and hands the
// result around. Its own part stays where it is.
TEST_P(NcclReduceTest, EachRankAddsRowsOfItsOwn) {
  if (!is_tree()) return;
  const auto device = make();
  const int64_t share = (num_rows_ + size() - 1) / size();
  const auto first_of = [&](int other) { return std::min(num_rows_, share * other); };
  const int64_t first = first_of(rank());
  const int64_t num_own = first_of(rank() + 1) - first;
  std::vector<float> received(static_cast<size_t>(share * kCols * size()));
  std::vector<ByteRange> to_peers;
  std::vector<ByteRange> from_peers;
  std::vector<const float*> pointers;
  for (int other = 0; other < size(); ++other) {
    const auto rows_of_other = static_cast<size_t>(first_of(other + 1) - first_of(other));
    to_peers.push_back(
        {static_cast<size_t>(first_of(other)) * kRowBytes, rows_of_other * kRowBytes});
    from_peers.push_back(
        {static_cast<size_t>(share * other) * kRowBytes, static_cast<size_t>(num_own) * kRowBytes});
    pointers.push_back(other == rank() ? own_part().data() + first * kCols
                                       : received.data() + share * other * kCols);
  }
  y_.resize(static_cast<size_t>(share * kCols * size()));  // whole shares
  device->all_to_all(bytes_of(own_part()), to_peers, bytes_of(received), from_peers,
                     gpu_->stream());
  if (num_own > 0) add(pointers, residual_, first, num_own);
  const auto shares = bytes_of(y_);
  const size_t share_bytes = static_cast<size_t>(share) * kRowBytes;
  device->all_gather(shares.subspan(share_bytes * static_cast<size_t>(rank()), share_bytes), shares,
                     gpu_->stream());
  wait_for(*device);
  y_.resize(expected_.size());
  EXPECT_EQ(y_, expected_);
  const auto own_begin = first * kCols;
  EXPECT_TRUE(std::equal(residual_.begin() + own_begin,
                         residual_.begin() + own_begin + num_own * kCols,
                         expected_residual_.begin() + own_begin));
}

}  // namespace
}  // namespace phalanx::parallel
