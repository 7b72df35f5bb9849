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

/// The micro-kernels of one number of rows: kernels[i] fetches 4, 2 or 1 of each unit's four lines.
struct LaneKernels {
  LaneKernel kernels[3];
};
enum Fetch { kFetchFour, kFetchTwo, kFetchOne };

struct TilePlan {
  Fetch fetch;
  int64_t prefetch_bytes;  ///< LaneArgs::prefetch_bytes
};

/// How far ahead of its own reads a lone tile fetches: memory latency at full speed.
constexpr int64_t kStreamAheadBytes = 8192;

inline void add_tile(float* sum, const float* addend, int rows) {
  for (int i = 0; i < rows * kTileCols; ++i) sum[i] += addend[i];
}

/// One row of a tile, plus the bias if there is one. A count known to the compiler is worth a copy.
inline void store_row(const float* from, const float* bias, int64_t cols, float* y) {
  if (bias == nullptr)
    for (int64_t i = 0; i < cols; ++i) y[i] = from[i];
  else
    for (int64_t i = 0; i < cols; ++i) y[i] = from[i] + bias[i];
}

inline void store_tile(const LinearTask& task, const float* tile, int64_t panel, int64_t row,
                       int rows) {
  const int64_t n = panel * kTileCols;
  const int64_t cols = task.num_outputs - n;
  const float* bias = task.bias == nullptr ? nullptr : task.bias + n;
  float* y = task.y + row * task.y_stride + n;
  for (int r = 0; r < rows; ++r, y += task.y_stride, tile += kTileCols) {
    if (cols >= kTileCols)
      store_row(tile, bias, kTileCols, y);
    else
      store_row(tile, bias, cols, y);
  }
}

/// Lanes are reduced like a binary counter: lane i first merges with as many finished subtrees to
/// its left as i has trailing one bits, which is the tree ((l0 + l1) + (l2 + l3)) + ...
///
/// What differs from tile to tile is set in a copy here: were it set in `shared` before the copy,
/// the copy's wide loads would wait until those narrow stores, and the last tile's before them,
/// have left the store buffer (measured: a tenth of a product's time).
template <int kMaxRows>
void multiply_tile(const LinearTask& task, const LaneArgs& shared, const TilePlan& plan,
                   const LaneKernels& kernels, int64_t panel, int64_t row, int rows) {
  const LaneKernel kernel = kernels.kernels[plan.fetch];
  LaneArgs args = shared;
  args.prefetch_bytes = plan.prefetch_bytes;
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

/// count_piece() of runtime/base/work_counter.h, once more: tiers share no inline functions. A tile
/// is at most kMaxRows rows by 64 outputs: milliseconds even for the longest K.
inline void count_tile(uint64_t* tally) {
  __atomic_store_n(tally, __atomic_load_n(tally, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

/// Weights come from memory once, while a panel's first tile is computed, and from the cache for
/// the others. So a lone tile fetches its own weights a little ahead; several share out the next
/// panel's lines, since fetching them all during one tile would hold up its own loads.
inline TilePlan plan_tile(const LinearTask& task, int64_t panel, int64_t tile, int64_t num_tiles) {
  if (num_tiles == 1) return {kFetchFour, kStreamAheadBytes};
  if (panel + 1 == task.panel_end) return {kFetchOne, 0};
  if (num_tiles == 2 || (num_tiles == 3 && tile == 0)) {
    return {kFetchTwo, task.panel_bytes + tile * 2 * kLineBytes};
  }
  const int64_t line = num_tiles == 3 ? tile + 1 : tile;
  return {kFetchOne, line < 4 ? task.panel_bytes + line * kLineBytes : 0};
}

/// kernels[rows - 1] are the micro-kernels of `rows` rows.
template <int kMaxRows>
void multiply_panels(const LinearTask& task, const LaneKernels (&kernels)[kMaxRows]) {
  const int64_t num_rows = task.row_end - task.row_begin;
  const int64_t num_tiles = (num_rows + kMaxRows - 1) / kMaxRows;
  const int64_t short_rows = num_rows / num_tiles;  // tiles of like size, not six, six and one
  const int64_t num_longer_tiles = num_rows % num_tiles;
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
    int64_t row = task.row_begin;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
      const int rows = static_cast<int>(tile < num_longer_tiles ? short_rows + 1 : short_rows);
      const TilePlan plan = plan_tile(task, panel, tile, num_tiles);
      multiply_tile<kMaxRows>(task, args, plan, kernels[rows - 1], panel, row, rows);
      count_tile(task.tally);
      row += rows;
    }
  }
}

/// One micro-kernel, however much should be fetched ahead.
constexpr LaneKernels any_fetch(LaneKernel kernel) { return {{kernel, kernel, kernel}}; }

/// ActivationForm::kS8 of a task's rows. convert_group(x, count, codes, scale, sum) does one group.
template <void (*convert_group)(const float*, int64_t, uint8_t*, float*, int32_t*)>
void convert_groups(const ConvertTask& task) {
  const int64_t groups = task.num_cols / task.group_size;
  for (int64_t r = task.row_begin; r < task.row_end; ++r)
    for (int64_t group = 0; group < groups; ++group)
      convert_group(task.x + r * task.x_stride + group * task.group_size, task.group_size,
                    task.codes + r * task.num_cols + group * task.group_size,
                    task.scales + r * groups + group, task.sums + r * groups + group);
}

}  // namespace
}  // namespace phalanx::kernels::cpu
