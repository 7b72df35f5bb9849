// The kernels with tiles, one source a KV format, for they take long to compile. Called by
// attention_launches.
#pragma once

#include <cstdint>

#include "kernels/cuda/attention_kernels.h"
#include "kernels/cuda/attention_views.h"
#include "kernels/cuda/launch.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cuda {

/// Tiles of few queries, for decode, and of many, for prefill.
inline constexpr int kRowsOfSmallTile = 16;
inline constexpr int kRowsOfLargeTile = 64;

/// Four warps. Small: six stages, of which five are on their way. Large: two warps share the rows,
/// so that a key or value that a warp takes from shared memory serves 32 rows.
template <typename Body>
using SmallTile = AttentionTile<Body, kRowsOfSmallTile, 1, 4, 6, 2>;
template <typename Body>
using LargeTile = AttentionTile<Body, kRowsOfLargeTile, 2, 2, 3, 2>;
/// For head_dim 256, whose stages and accumulators are large: within the 163 KiB of sm_80.
template <typename Body>
using WideSmallTile = AttentionTile<Body, kRowsOfSmallTile, 1, 4, 4, 1>;
template <typename Body>
using WideLargeTile = AttentionTile<Body, kRowsOfLargeTile, 2, 4, 2, 1>;

/// Whether launch_*_tiles has this head_dim.
constexpr bool is_head_dim_of_tiles(int64_t head_dim) {
  return head_dim == 32 || head_dim == 64 || head_dim == 80 || head_dim == 96 || head_dim == 128 ||
         head_dim == 256;
}

void launch_bf16_tiles(int64_t head_dim, bool is_large, const AttentionArguments& arguments,
                       const dim3& grid, Stream stream);
void launch_int8_tiles(int64_t head_dim, bool is_large, const AttentionArguments& arguments,
                       const dim3& grid, Stream stream);

template <typename Tile>
void launch_tile(const AttentionArguments& arguments, const dim3& grid, Stream stream) {
  launch(attend_tile<Tile>, {grid, dim3(Tile::kThreads), Tile::kSharedBytes}, stream, arguments);
}

template <template <int> typename Body>
void launch_tiles(int64_t head_dim, bool is_large, const AttentionArguments& arguments,
                  const dim3& grid, Stream stream) {
  const auto start = [&]<int kHeadDim>() {
    if (is_large) {
      launch_tile<LargeTile<Body<kHeadDim>>>(arguments, grid, stream);
    } else {
      launch_tile<SmallTile<Body<kHeadDim>>>(arguments, grid, stream);
    }
  };
  switch (head_dim) {
    case 32:
      return start.template operator()<32>();
    case 64:
      return start.template operator()<64>();
    case 80:
      return start.template operator()<80>();
    case 96:
      return start.template operator()<96>();
    case 128:
      return start.template operator()<128>();
    case 256:
      return is_large ? launch_tile<WideLargeTile<Body<256>>>(arguments, grid, stream)
                      : launch_tile<WideSmallTile<Body<256>>>(arguments, grid, stream);
  }
}

}  // namespace phalanx::kernels::cuda
