// Embedding rows of every format against the scalar oracle, by bits.
#include <vector>

#include <gtest/gtest.h>

#include "kernels/cpu/linear.h"
#include "kernels/reference/linear_reference.h"
#include "runtime/base/check.h"
#include "tests/kernels/stored_matrix.h"

namespace phalanx::kernels {
namespace {

using test::StoredMatrix;

TEST(EmbeddingTest, RowsMatchTheOracle) {
  std::mt19937 random(1);
  for (WeightFormat format : {WeightFormat::kF32, WeightFormat::kBf16, WeightFormat::kW8,
                              WeightFormat::kW4, WeightFormat::kFp8})
    for (DType scales : {DType::kF32, DType::kF16, DType::kBf16})
      for (bool has_zeros : {false, true}) {
        constexpr int64_t kVocab = 50, kCols = 96, kStride = kCols + 4;
        const StoredMatrix table(
            {format, kVocab, kCols, is_quantized(format) ? 24 : 0, has_zeros, scales}, 2);
        std::vector<int32_t> ids(70);
        for (int32_t& id : ids) id = static_cast<int32_t>(random() % kVocab);
        std::vector<float> expected(ids.size() * kStride, -1.0F);
        std::vector<float> actual = expected;
        reference::embedding(table.source(), ids, {expected.data(), kStride});
        cpu::ThreadTeam team(2, false);
        cpu::embedding(table.source(), ids, {actual.data(), kStride}, team);
        ASSERT_EQ(std::memcmp(actual.data(), expected.data(), actual.size() * 4), 0)
            << weight_format_name(format) << " " << dtype_name(scales);
      }
}

TEST(EmbeddingTest, DequantizesAsTheContractSays) {
  const std::vector<std::byte> codes = {std::byte{0x0f}, std::byte{0x80}, std::byte{0},
                                        std::byte{0}};
  const float scale = 0.5F;
  MatrixSource table;
  table.format = WeightFormat::kW4;
  table.num_rows = 1;
  table.num_cols = 8;
  table.codes = codes.data();
  table.row_stride_bytes = 4;
  table.scales = reinterpret_cast<const std::byte*>(&scale);
  table.scale_row_stride = 1;
  table.group_size = 8;
  std::vector<float> y(8);
  const std::vector<int32_t> ids = {0};
  cpu::ThreadTeam team(1, false);
  cpu::embedding(table, ids, {y.data(), 8}, team);
  EXPECT_EQ(y, (std::vector<float>{3.5F, -4.0F, -4.0F, 0.0F, -4.0F, -4.0F, -4.0F, -4.0F}));
  table.scale_dtype = DType::kI32;
  EXPECT_THROW(cpu::embedding(table, ids, {y.data(), 8}, team), InternalError);
}

}  // namespace
}  // namespace phalanx::kernels
