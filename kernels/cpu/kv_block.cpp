// KV block sizes and layouts. Called by the memory ledger, the KV pool and attention.
#include "kernels/cpu/kv_block.h"

#include "runtime/base/check.h"

namespace phalanx::kernels {

const char* kv_format_name(KvFormat format) {
  switch (format) {
    case KvFormat::kF32:
      return "f32";
    case KvFormat::kBf16:
      return "bf16";
    case KvFormat::kInt8:
      return "int8";
  }
  return "unknown";
}

int64_t kv_block_bytes(KvFormat format, int64_t head_dim) {
  return cpu::kv_block_layout(format, head_dim).bytes;
}

namespace cpu {
namespace {

int64_t element_bytes(KvFormat format) {
  switch (format) {
    case KvFormat::kF32:
      return 4;
    case KvFormat::kBf16:
      return 2;
    case KvFormat::kInt8:
      return 1;
  }
  return 0;
}

}  // namespace

KvBlockLayout kv_block_layout(KvFormat format, int64_t head_dim) {
  PHALANX_CHECK_GE(head_dim, 8, "head_dim of a KV block");
  PHALANX_CHECK_LE(head_dim, kMaxHeadDim, "head_dim of a KV block");
  PHALANX_CHECK_EQ(head_dim % 8, 0, "head_dim of a KV block is a multiple of 8");
  const int64_t row_bytes = kBlockTokens * element_bytes(format);
  KvBlockLayout layout;
  layout.head_dim = head_dim;
  layout.padded_head_dim = (head_dim + 15) / 16 * 16;
  layout.values_offset = head_dim * row_bytes;
  layout.key_scales_offset = layout.values_offset + layout.padded_head_dim * row_bytes;
  const int64_t scales_bytes =
      format == KvFormat::kInt8 ? kBlockTokens * static_cast<int64_t>(sizeof(float)) : 0;
  layout.value_scales_offset = layout.key_scales_offset + scales_bytes;
  layout.bytes = layout.value_scales_offset + scales_bytes;
  return layout;
}

}  // namespace cpu
}  // namespace phalanx::kernels
