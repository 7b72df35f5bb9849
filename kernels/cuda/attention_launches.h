// Starts attention over paged keys and values. Called by cuda_operators; compiled by nvcc and, for
// tests, by the C++ compiler on the emulated device.
//
// Shapes and orders of operations: operators.h. All pointers are device memory unless said
// otherwise. What a launch is given are bounds that hold for each step it is replayed for (CUDA
// graphs); the step's own sequences are read from device memory.
//
// int8 keys and values: the oracle's bits. f32: its bits too, slowly. bf16: an order of its own
// (attention_bf16_body.h). In all of them a row's bits depend on what the row sees alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_views.h"
#include "kernels/cuda/kv_write_launches.h"
#include "kernels/cuda/launch.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// What is the same in all steps.
struct LayerAttention {
  KvFormat format = KvFormat::kBf16;
  int64_t head_dim = 0;
  int64_t num_kv_heads = 0;  ///< at most kMostKvHeads
  int64_t num_query_heads = 0;
  const int32_t* kv_head_of_query = nullptr;  ///< [num_query_heads], ascending; host memory
  float scale = 1.0F;
  int64_t sliding_window = 0;  ///< 0: none
};

/// What holds for all steps of a launch, and what it may use of the device.
struct AttentionBounds {
  int64_t num_sequences = 0;         ///< exactly, padding included; at most kMostPlanSequences
  int64_t max_rows = 0;              ///< of the step, all sequences together
  int64_t max_rows_of_sequence = 0;  ///< 1: all decode
  int64_t max_context = 0;           ///< tokens that a query may see, its own included
  int64_t target_blocks = 264;       ///< that fill the device: two on each of an H100's 132 SMs
  int64_t partials_bytes = int64_t{64} << 20;  ///< bound of memory for partial results
};
inline constexpr int64_t kMostPlanSequences = 4000;  ///< 48 KiB of shared memory

/// Memory of attention, 64-byte aligned. `plan`: written by launch_attention_plan, read by the
/// launches of all layers with its sliding window, shape and bounds. `counters`: zero before the
/// first launch, and left zero by each. `scratch`: of one launch at a time. Other shapes and bounds
/// may use the same memory when no launch is under way.
struct AttentionMemory {
  std::byte* plan = nullptr;
  std::byte* counters = nullptr;
  std::byte* scratch = nullptr;
};
struct AttentionBytes {
  int64_t plan = 0;
  int64_t counters = 0;
  int64_t scratch = 0;
};
AttentionBytes attention_bytes(const LayerAttention& shape, const AttentionBounds& bounds);

/// Whether there are kernels with tiles, on the tensor cores; else a slow one does the work.
bool attention_has_tiles(KvFormat format, int64_t head_dim);

/// Cuts the step's work into pieces. Before the first layer of each step, and once for each
/// different sliding window.
void launch_attention_plan(const LayerAttention& shape, const AttentionBounds& bounds,
                           const DeviceSequences& sequences, const AttentionMemory& memory,
                           Stream stream);

/// out = convert_rows(attention(q)): rows of num_query_heads * head_dim, as f32 rows, bf16 or s8.
/// bf16 and s8 codes are aligned to 4 bytes. Errors: InternalError for more KV heads or sequences
/// than there may be.
void launch_attention(const LayerAttention& shape, const AttentionBounds& bounds, ConstRows q,
                      const DeviceSequences& sequences, const KvLayerView& kv,
                      const AttentionMemory& memory, const DeviceActivation& out, Stream stream);

}  // namespace phalanx::kernels::cuda
