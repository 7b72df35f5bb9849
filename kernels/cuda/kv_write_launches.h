// Starts the kernel between the q/k/v projection and attention. Called by cuda_operators; compiled
// by nvcc and, for tests, by the C++ compiler on the emulated device.
//
// Shapes and orders of operations: operators.h. All pointers are device memory, those in
// SequenceRows too. Errors: DeviceError (launch.h).
#pragma once

#include <cstdint>

#include "kernels/cuda/launch.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// The sequences of a step as kernels read them: an array in device memory, its block tables there
/// too. Those with num_rows 0 are padding.
struct DeviceSequences {
  const SequenceRows* data = nullptr;
  int64_t count = 0;
};

/// What happens to fused rows of q, k and v. Absent parts (null data, null weight, null cosines)
/// are left out.
struct KvRows {
  Rows q;  ///< in place
  int64_t num_query_heads = 0;
  ConstRows k, v;                   ///< both or none; of KvLayerView's heads
  const float* q_weight = nullptr;  ///< [head_dim]: head_norm of q
  const float* k_weight = nullptr;  ///< [head_dim]: head_norm of k
  float eps = 0.0F;
  RopeTable rope;  ///< of q and k
};

/// Each head of q, in place: head_norm, then rope. Keys: head_norm, then rope, then into the pool.
/// Values: into the pool. Equal to the operators one by one; rows of k keep what they hold.
/// max_rows: a bound of the rows; those of no sequence are left alone.
void launch_write_kv(const KvRows& rows, const DeviceSequences& sequences, int64_t max_rows,
                     const KvLayerView& kv, Stream stream);

/// head_norm of operators.h.
void launch_head_norm(Rows x, int64_t num_heads, int64_t head_dim, const float* weight, float eps,
                      int64_t num_rows, Stream stream);

}  // namespace phalanx::kernels::cuda
