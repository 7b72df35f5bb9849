// The loops around a tier's micro-kernels: panels, row tiles, lanes and their tree, bias, store.
// Included by linear_portable.cpp, linear_avx2.cpp and linear_avx512.cpp only, each of which
// compiles it anew with its own flags (hence the anonymous namespace, and no std types).
//
// A micro-kernel computes one lane of a tile of 1..kMaxRows rows by the 64 outputs of a panel. Each
// element of the tile is a chain of its own, so how rows are cut into tiles cannot change bits.
#pragma once

#include <cstdint>

#include "kernels/cpu/linear_tiers.h"

namespace phalanx::kernels::cpu {
namespace {

constexpr int kTileCols = 64;
constexpr int64_t kLineBytes = 64;
constexpr int64_t kUnitRowBytes = 256;  // one unit of all rows of a panel

/// One lane of one tile.
struct LaneArgs {
  const uint8_t* w;  ///< the lane's first group
  int64_t group_bytes;
  int64_t header_bytes;
  int64_t num_groups;
  int64_t num_units;  ///< in a group
  bool has_zeros;
  bool odd_lane;
  const uint8_t* x;  ///< the tile's first row, at the lane
  int64_t x_row_bytes;
  const float* x_scales;  ///< the tile's first row, at the lane's first group
  const int32_t* x_sums;
  int64_t x_groups;
  int64_t prefetch_bytes;  ///< while reading weights at p, fetch what lies at p + prefetch_bytes
  float* tile;             ///< [rows][64], 64-byte aligned; written
};

using LaneKernel = void (*)(const LaneArgs& args);

/// The micro-kernels of one number of rows. `stream` fetches all four lines of each unit ahead,
/// `trickle` one.
struct LaneKernels {
  LaneKernel stream;
  LaneKernel trickle;
};

/// How far ahead of its own reads a lone tile fetches: memory latency at full speed.
constexpr int64_t kStreamAheadBytes = 4096;

inline void add_tile(float* sum, const float* addend, int rows) {
  for (int i = 0; i < rows * kTileCols; ++i) sum[i] += addend[i];
}

inline void store_tile(const LinearTask& task, const float* tile, int64_t panel, int64_t row,
                       int rows) {
  const int64_t n = panel * kTileCols;
  const int64_t cols = task.num_outputs - n < kTileCols ? task.num_outputs - n : kTileCols;
  for (int r = 0; r < rows; ++r) {
    float* y = task.y + (row + r) * task.y_stride + n;
    const float* from = tile + r * kTileCols;
    if (task.bias != nullptr) {
      const float* bias = task.bias + n;
      for (int64_t i = 0; i < cols; ++i) y[i] = from[i] + bias[i];
    } else {
      for (int64_t i = 0; i < cols; ++i) y[i] = from[i];
    }
  }
}

/// Lanes are reduced like a binary counter: lane i first merges with as many finished subtrees to
/// its left as i has trailing one bits, which is the tree ((l0 + l1) + (l2 + l3)) + ...
template <int kMaxRows>
void multiply_tile(const LinearTask& task, LaneKernel kernel, LaneArgs args, int64_t panel,
                   int64_t row, int rows) {
  constexpr int kLevels = 7;  // 1 + log2(kMaxLanes)
  alignas(64) float tiles[kLevels][kMaxRows * kTileCols];
  const uint8_t* w = task.panels + panel * task.panel_bytes;
  const uint8_t* x = task.x + row * task.x_row_bytes;
  int depth = 0;
  for (int64_t lane = 0; lane < task.num_lanes; ++lane) {
    args.w = w + lane * task.lane_bytes;
    args.x = x + lane * task.x_lane_bytes;
    if (task.x_scales != nullptr) {
      const int64_t group = row * task.x_groups + lane * task.groups_per_lane;
      args.x_scales = task.x_scales + group;
      args.x_sums = task.x_sums + group;
    }
    args.tile = tiles[depth];
    kernel(args);
    for (int64_t bits = lane; (bits & 1) != 0; bits >>= 1) {
      --depth;
      add_tile(tiles[depth], tiles[depth + 1], rows);
    }
    ++depth;
  }
  store_tile(task, tiles[0], panel, row, rows);
}

/// Weights come from memory once, while a panel's first tiles are computed, and from the cache for
/// the others. With one tile a panel, a tile fetches its own weights a little ahead; with more, the
/// first ones fetch the next panel.
inline bool plan_prefetch(const LinearTask& task, int64_t panel, int64_t tile, int64_t num_tiles,
                          LaneArgs& args) {
  args.prefetch_bytes = num_tiles == 1 ? kStreamAheadBytes : 0;
  if (num_tiles == 1) return true;
  if (panel + 1 == task.panel_end) return false;
  if (num_tiles < 4) {
    if (tile > 0) return false;
    args.prefetch_bytes = task.panel_bytes;
    return true;
  }
  if (tile < 4) args.prefetch_bytes = task.panel_bytes + tile * kLineBytes;
  return false;
}

/// kernels[rows - 1] are the micro-kernels of `rows` rows.
template <int kMaxRows>
void multiply_panels(const LinearTask& task, const LaneKernels (&kernels)[kMaxRows]) {
  const int64_t num_rows = task.row_end - task.row_begin;
  const int64_t num_tiles = (num_rows + kMaxRows - 1) / kMaxRows;
  LaneArgs args{};
  args.group_bytes = task.group_bytes;
  args.header_bytes = task.header_bytes;
  args.num_groups = task.groups_per_lane;
  args.num_units = task.units_per_group;
  args.has_zeros = task.has_zeros;
  args.odd_lane = task.odd_lane;
  args.x_row_bytes = task.x_row_bytes;
  args.x_groups = task.x_groups;
  for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const int64_t begin = task.row_begin + num_rows * tile / num_tiles;
      const int64_t end = task.row_begin + num_rows * (tile + 1) / num_tiles;
      const int rows = static_cast<int>(end - begin);
      const bool stream = plan_prefetch(task, panel, tile, num_tiles, args);
      const LaneKernels& of_rows = kernels[rows - 1];
      multiply_tile<kMaxRows>(task, stream ? of_rows.stream : of_rows.trickle, args, panel, begin,
                              rows);
    }
  }
}

}  // namespace
}  // namespace phalanx::kernels::cpu
