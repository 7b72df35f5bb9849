// Block layouts: sizes the memory ledger counts on, and every element in a place of its own.
#include "kernels/cpu/kv_block.h"

#include <set>

#include <gtest/gtest.h>

#include "runtime/base/check.h"

namespace phalanx::kernels::cpu {
namespace {

TEST(KvBlock, BytesAreWhatTheContentNeeds) {
  EXPECT_EQ(kv_block_bytes(KvFormat::kF32, 64), 2 * 32 * 64 * 4);
  EXPECT_EQ(kv_block_bytes(KvFormat::kBf16, 128), 2 * 32 * 128 * 2);
  EXPECT_EQ(kv_block_bytes(KvFormat::kInt8, 80), 2 * 32 * 80 + 2 * 32 * 4);
  EXPECT_EQ(kv_block_bytes(KvFormat::kF32, 8), 32 * 8 * 4 + 32 * 16 * 4);  // values padded to 16
}

TEST(KvBlock, EveryElementHasItsOwnPlace) {
  for (const KvFormat format : {KvFormat::kF32, KvFormat::kBf16, KvFormat::kInt8}) {
    const int64_t element = format == KvFormat::kF32 ? 4 : format == KvFormat::kBf16 ? 2 : 1;
    for (const int64_t head_dim : {8, 16, 24, 80, 256}) {
      const KvBlockLayout layout = kv_block_layout(format, head_dim);
      EXPECT_EQ(layout.bytes % 64, 0);
      EXPECT_EQ(layout.values_offset % 64, 0);
      std::set<int64_t> keys, values;
      for (int64_t t = 0; t < kBlockTokens; ++t) {
        for (int64_t d = 0; d < head_dim; ++d) {
          keys.insert(key_index(format, t, d));
          values.insert(value_index(format, t, d));
        }
      }
      EXPECT_EQ(static_cast<int64_t>(keys.size()), kBlockTokens * head_dim);
      EXPECT_EQ(static_cast<int64_t>(values.size()), kBlockTokens * head_dim);
      EXPECT_GE(*keys.begin(), 0);
      EXPECT_GE(*values.begin(), 0);
      EXPECT_LE((*keys.rbegin() + 1) * element, layout.values_offset);
      EXPECT_LE(layout.values_offset + (*values.rbegin() + 1) * element, layout.key_scales_offset);
    }
  }
}

TEST(KvBlock, RefusesHeadDimsThatNoKernelReads) {
  for (const int64_t head_dim : {-8, 0, 4, 12, 257, 264}) {
    EXPECT_THROW(kv_block_bytes(KvFormat::kF32, head_dim), InternalError) << head_dim;
  }
}

TEST(KvBlock, FormatsHaveNames) {
  EXPECT_STREQ(kv_format_name(KvFormat::kF32), "f32");
  EXPECT_STREQ(kv_format_name(KvFormat::kBf16), "bf16");
  EXPECT_STREQ(kv_format_name(KvFormat::kInt8), "int8");
}

}  // namespace
}  // namespace phalanx::kernels::cpu
