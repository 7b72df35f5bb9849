// A weight matrix as the CUDA kernels read it: the shuffled layout, its packing on the host, and
// the view that launches carry. Used by linear_launches, its kernels, and cuda_operators.
//
// Products run on mma instructions with 16 outputs as the rows of operand a and tokens as the
// columns of operand b. A *step* is what one instruction takes along k (two of e4m3): 32 bytes of
// an activation row (32 s8 or e4m3 codes or 16 bf16). Within a step lane (group, member) = (i / 4,
// i % 4) of a warp reads bytes 8 * member .. + 7 of each token, so that both words of operand b are
// one 8-byte load; the order of k inside a step is permuted the same way in the weights. A *tile*
// is 16 outputs and all steps; a *chunk* is 512 contiguous bytes of a tile, 16 bytes a lane:
// operand a of
//   kBf16, kW8, kFp8
//               one step:   word j = output group + 8 * (j % 2), step bytes 8 * member + 4 * (j /
//                           2) .. + 3
//   kW4         two steps:  word j holds four codes of the first step in its low nibbles and four
//                           of the second in its high ones, placed as the bytes of kW8 are
// Integer codes are stored less the default zero (kW8: s8 of code - 128; kW4: two's complement of
// code - 8).
//
// Steps follow each other over groups and lanes. A *group* of a quantized matrix is its
// quantization group, of kBf16 a span of kSpanCols columns of a lane, the last one perhaps shorter.
// A group (kBf16: a lane) is padded with zero codes to whole steps, a tile to whole chunks.
//   codes   [tiles][chunks][32 lanes][16 bytes]; kF32: [tiles][K][16 outputs] f32
//   scales  [tiles][groups][16] of scale_dtype     quantized only; kFp8: of each output, whatever
//                                                  blocks they had
//   zeros   [tiles][groups][16] u8, as stored      only when a source has them
//   bias    [tiles][16] f32                        only when there is one
// Outputs beyond N have zero codes, scales, zeros and bias. Parts begin at multiples of 256 bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/operators.h"
#include "runtime/base/dtype.h"

namespace phalanx::kernels::cuda {

inline constexpr int kTileOutputs = 16;
inline constexpr int kChunkBytes = 512;
inline constexpr int kStepBytes = 32;

/// Columns of a bf16 span: products inside are summed by the matrix unit, spans in f32, ascending.
/// 128 is the group of the usual quantized matrices too: enough groups to split a product of one
/// row over the warps of a block (K = 4096: 32), and one addition in 8 instructions.
inline constexpr int kSpanCols = 128;

/// More lanes than reduction_lanes ever has; a tree of them is held in registers.
inline constexpr int64_t kMostMatrixLanes = 8;

/// What the layout is made of, in the words above. Plain numbers, for kernels.
struct MatrixGeometry {
  int32_t num_rows;     ///< N
  int32_t num_cols;     ///< K
  int32_t num_lanes;    ///< L
  int32_t lane_cols;    ///< K / L
  int32_t group_cols;   ///< G; kBf16: kSpanCols; kF32: K / L
  int32_t lane_groups;  ///< groups of a lane
  int32_t group_steps;  ///< steps of a group
  int32_t lane_steps;   ///< steps of a lane
  int32_t num_tiles;
  int32_t num_groups;  ///< of all lanes
  int32_t num_steps;   ///< of all lanes
  int32_t num_chunks;  ///< of a tile
  bool dense_steps;    ///< step t is bytes 32 * t .. + 31 of an activation row: nothing is padded
};

/// A packed matrix in device memory. Owns nothing; copied to the device with a launch.
struct DeviceMatrix {
  WeightFormat format;
  DType scale_dtype;
  MatrixGeometry shape;
  int64_t group_size;  ///< G; 0 for kF32 and kBf16
  const std::byte* codes;
  const std::byte* scales;  ///< null: not quantized
  const uint8_t* zeros;     ///< null: 128 / 8
  const float* bias;        ///< null: none
};

/// Where the parts of a packed matrix lie.
struct DeviceMatrixLayout {
  WeightFormat format = WeightFormat::kF32;
  DType scale_dtype = DType::kF32;
  int64_t group_size = 0;
  bool has_zeros = false;
  bool has_bias = false;
  MatrixGeometry shape{};
  int64_t scales_offset = 0;
  int64_t zeros_offset = 0;
  int64_t bias_offset = 0;
  int64_t total_bytes = 0;
};

struct DeviceMatrixShape {
  WeightFormat format = WeightFormat::kF32;
  int64_t num_rows = 0;
  int64_t num_cols = 0;
  int64_t num_lanes = 1;
  int64_t group_size = 0;           ///< kW8, kW4 and kFp8
  DType scale_dtype = DType::kF32;  ///< kW8 and kW4; f32 of kFp8
  bool has_zeros = false;
  bool has_bias = false;
};

/// Errors: InternalError when num_lanes is not 1, 2, 4 or 8 or does not divide num_cols, or, for
/// kW8, kW4 and kFp8, group_size is not a multiple of 8 up to 65536 that divides a lane.
DeviceMatrixLayout make_device_matrix_layout(const DeviceMatrixShape& shape);

/// Of stacked sources. Scales keep their type when all sources have the same one, else they become
/// f32. Errors: as above, and InternalError when the sources do not agree or scales of kFp8 are not
/// as MatrixSource says.
DeviceMatrixLayout make_device_matrix_layout(const MatrixSpec& spec);

/// Device memory of such a matrix, for the memory ledger; exact.
int64_t device_matrix_bytes(const DeviceMatrixShape& shape);

/// Whether launch_gated_linear takes a matrix of N = num_outputs: halves are whole tiles of 16
/// outputs (kF32: any halves). Forms and groups may be any.
bool fuses_gated_linear_on_device(WeightFormat format, int64_t num_outputs);

/// Packs tiles [first_tile, end_tile) of `spec` into `image`, a host buffer of layout.total_bytes
/// (aligned to 4) that is later copied to the device as it is. Ranges may be packed by several
/// threads at once; all of them together write every byte but the gaps between parts.
void pack_device_matrix(const MatrixSpec& spec, const DeviceMatrixLayout& layout,
                        int64_t first_tile, int64_t end_tile, std::byte* image);

/// The packed matrix at `memory`: total_bytes of device memory, aligned to 256.
DeviceMatrix make_device_matrix(const DeviceMatrixLayout& layout, const std::byte* memory);

}  // namespace phalanx::kernels::cuda
