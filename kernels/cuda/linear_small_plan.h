// The cut of a product of few rows, as its kernel reads it, and the kernel's constants. Made by
// linear_plan, read by linear_small_kernels.
#pragma once

namespace phalanx::kernels::cuda {

inline constexpr int kSmallMostThreads = 512;
inline constexpr int kSmallMostRows = 16;

/// Values from one token to the next: with 16 outputs and this stride the 32 stores of a warp,
/// lanes (group, member) at tokens 2 * member and outputs `group`, hit different banks.
template <int kValueBytes>
inline constexpr int kValueStride = kValueBytes == 8 ? 18 : 20;

/// Chunks of 512 bytes that a warp has under way; columns of tokens are 8 wide.
template <int kColumnTiles>
inline constexpr int kSmallDepth = kColumnTiles == 1 ? 8 : 4;

/// Bytes are of shared memory.
struct SmallPlan {
  int tiles_per_block;  ///< divides the warps; gated: half of them gates, half factors
  int unit_groups;      ///< groups of a unit: the fewest that are whole chunks
  int unit_chunks;      ///< of a whole unit
  int unit_turns;       ///< of a warp in a unit: unit_chunks, or more, the last ones idle
  int num_units;
  int segment_groups;
  int segment_turns;  ///< of a warp in a segment, a multiple of the depth
  int num_segments;
  int num_stages;  ///< 1, or 2: the next segment's inputs arrive beside this one's
  /// A stage: activations [R][x_stride], scales and zeros [tiles][segment_groups][16], and the
  /// activations' scales and sums [R][segment_groups].
  int x_stride;  ///< 32 modulo 128: four tokens' 32 bytes hit different banks
  int scales_offset;
  int zeros_offset;
  int x_scales_offset;
  int x_sums_offset;
  int stage_bytes;
  int values_offset;  ///< [tiles][segment_groups][R] Values of 16 outputs, behind the stages
};

}  // namespace phalanx::kernels::cuda
