// Launch shapes of the kernel that writes KV blocks: a block for eight heads of a row.
#include "kernels/cuda/kv_write_kernels.h"
#include "kernels/cuda/kv_write_launches.h"

namespace phalanx::kernels::cuda {
namespace {

void start(const KvWrite& arguments, KvFormat format, int64_t num_rows, Stream stream) {
  const int64_t heads = (arguments.q.data != nullptr ? arguments.num_query_heads : 0) +
                        (arguments.k.data != nullptr ? 2 * arguments.num_kv_heads : 0);
  if (num_rows == 0 || heads == 0) return;
  const LaunchShape shape{
      dim3(static_cast<uint32_t>(num_rows),
           static_cast<uint32_t>((heads + kKvWriteWarps - 1) / kKvWriteWarps)),
      dim3(kKvWriteWarps * 32),
      (4 + kKvWriteWarps * kv_write_floats(arguments.head_dim)) * sizeof(float)};
  switch (format) {
    case KvFormat::kF32:
      return launch(write_kv<KvFormat::kF32>, shape, stream, arguments);
    case KvFormat::kBf16:
      return launch(write_kv<KvFormat::kBf16>, shape, stream, arguments);
    case KvFormat::kInt8:
      return launch(write_kv<KvFormat::kInt8>, shape, stream, arguments);
  }
}

}  // namespace

void launch_write_kv(const KvRows& rows, const DeviceSequences& sequences, int64_t max_rows,
                     const KvLayerView& kv, Stream stream) {
  KvWrite arguments{};
  arguments.q = {rows.q.data, rows.q.stride};
  arguments.k = {rows.k.data, rows.k.stride};
  arguments.v = {rows.v.data, rows.v.stride};
  arguments.num_query_heads = static_cast<int>(rows.num_query_heads);
  arguments.num_kv_heads = static_cast<int>(kv.num_kv_heads);
  arguments.head_dim = static_cast<int>(kv.head_dim);
  arguments.q_weight = rows.q_weight;
  arguments.k_weight = rows.k_weight;
  arguments.eps = rows.eps;
  arguments.cosines = rows.rope.cosines;
  arguments.sines = rows.rope.sines;
  arguments.rotary_dim = static_cast<int>(rows.rope.rotary_dim);
  arguments.sequences = sequences.data;
  arguments.num_sequences = static_cast<int>(sequences.count);
  arguments.pool = kv.data;
  arguments.block_bytes = kv_block_bytes(kv.format, kv.head_dim);
  start(arguments, kv.format, max_rows, stream);
}

void launch_head_norm(Rows x, int64_t num_heads, int64_t head_dim, const float* weight, float eps,
                      int64_t num_rows, Stream stream) {
  KvWrite arguments{};
  arguments.q = {x.data, x.stride};
  arguments.num_query_heads = static_cast<int>(num_heads);
  arguments.head_dim = static_cast<int>(head_dim);
  arguments.q_weight = weight;
  arguments.eps = eps;
  start(arguments, KvFormat::kF32, num_rows, stream);
}

}  // namespace phalanx::kernels::cuda
