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

/// Where tiles go: rows of y from its column `first_col` on, at most num_cols of them in all.
struct TileStore {
  float* y;  ///< row task.row_begin
  int64_t stride;
  int64_t first_row;
  const float* bias;  ///< of output 0, or null
  int64_t num_outputs;
  int64_t first_panel;  ///< whose outputs are at y's first column

  void operator()(const float* tile, int64_t panel, int64_t row, int rows) const {
    const int64_t n = panel * kTileCols;
    const int64_t cols = num_outputs - n;
    const float* tile_bias = bias == nullptr ? nullptr : bias + n;
    float* to = y + (row - first_row) * stride + (panel - first_panel) * kTileCols;
    for (int r = 0; r < rows; ++r, to += stride, tile += kTileCols) {
      if (cols >= kTileCols)
        store_row(tile, tile_bias, kTileCols, to);
      else
        store_row(tile, tile_bias, cols, to);
    }
  }
};

/// Where the factors' tiles of a gated product go: into the gates that wait in scratch.
struct TileGate {
  const LinearTask& task;
  int64_t first_panel;

  void operator()(float* tile, int64_t panel, int64_t row, int rows) const {
    const float* bias = task.bias == nullptr ? nullptr : task.bias + panel * kTileCols;
    const int64_t stride = task.gated.block_panels * kTileCols;
    float* gates =
        task.gated.scratch + (row - task.row_begin) * stride + (panel - first_panel) * kTileCols;
    for (int r = 0; r < rows; ++r, gates += stride, tile += kTileCols) {
      if (bias != nullptr) store_row(tile, bias, kTileCols, tile);
      task.gated.silu_mul(gates, tile, kTileCols, gates);
    }
  }
};

/// Lanes are reduced like a binary counter: lane i first merges with as many finished subtrees to
/// its left as i has trailing one bits, which is the tree ((l0 + l1) + (l2 + l3)) + ...
///
/// What differs from tile to tile is set in a copy here: were it set in `shared` before the copy,
/// the copy's wide loads would wait until those narrow stores, and the last tile's before them,
/// have left the store buffer (measured: a tenth of a product's time).
template <int kMaxRows, typename Store>
void multiply_tile(const LinearTask& task, const LaneArgs& shared, const TilePlan& plan,
                   const LaneKernels& kernels, int64_t panel, int64_t row, int rows,
                   const Store& store) {
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
      if (task.x_sums != nullptr) args.x_sums = task.x_sums + group;
    }
    args.tile = tiles[depth];
    kernel(args);
    for (int64_t bits = lane; (bits & 1) != 0; bits >>= 1) {
      --depth;
      add_tile(tiles[depth], tiles[depth + 1], rows);
    }
    ++depth;
  }
  store(tiles[0], panel, row, rows);
}

/// count_piece() of runtime/base/work_counter.h, once more: tiers share no inline functions. A tile
/// is at most kMaxRows rows by 64 outputs: milliseconds even for the longest K.
inline void count_tile(uint64_t* tally) {
  __atomic_store_n(tally, __atomic_load_n(tally, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

/// Weights come from memory once, while a panel's first tile is computed, and from the cache for
/// the others. So a lone tile fetches its own weights a little ahead; several share out the next
/// panel's lines, since fetching them all during one tile would hold up its own loads.
/// is_cold: nobody has fetched this panel, so its first tile does.
/// next_bytes: from this panel to the one that is read next; 0: none.
inline TilePlan plan_tile(const LinearTask& task, bool is_cold, int64_t next_bytes, int64_t tile,
                          int64_t num_tiles) {
  if (num_tiles == 1 || (is_cold && tile == 0))
    return {kFetchFour, task.ahead_bytes > 0 ? task.ahead_bytes : kStreamAheadBytes};
  if (next_bytes == 0) return {kFetchOne, 0};
  if (is_cold) {
    --tile;
    --num_tiles;
  }
  if (num_tiles == 1) return {kFetchFour, next_bytes};
  if (num_tiles == 2 || (num_tiles == 3 && tile == 0)) {
    return {kFetchTwo, next_bytes + tile * 2 * kLineBytes};
  }
  const int64_t line = num_tiles == 3 ? tile + 1 : tile;
  return {kFetchOne, line < 4 ? next_bytes + line * kLineBytes : 0};
}

/// A panel times all rows of the task.
template <int kMaxRows, typename Store>
void multiply_panel(const LinearTask& task, const LaneArgs& args,
                    const LaneKernels (&kernels)[kMaxRows], int64_t panel, bool is_cold,
                    int64_t next_bytes, const Store& store) {
  const int64_t num_rows = task.row_end - task.row_begin;
  const int64_t tile_rows =
      task.tile_rows > 0 && task.tile_rows < kMaxRows ? task.tile_rows : kMaxRows;
  const int64_t num_tiles = (num_rows + tile_rows - 1) / tile_rows;
  const int64_t short_rows = num_rows / num_tiles;  // tiles of like size, not six, six and one
  const int64_t num_longer_tiles = num_rows % num_tiles;
  int64_t row = task.row_begin;
  for (int64_t tile = 0; tile < num_tiles; ++tile) {
    const int rows = static_cast<int>(tile < num_longer_tiles ? short_rows + 1 : short_rows);
    const TilePlan plan = plan_tile(task, is_cold, next_bytes, tile, num_tiles);
    multiply_tile<kMaxRows>(task, args, plan, kernels[rows - 1], panel, row, rows, store);
    count_tile(task.tally);
    row += rows;
  }
}

/// Panels [panel_begin, panel_end) of both halves, block by block: gates, factors, conversion.
template <int kMaxRows>
void multiply_gated(const LinearTask& task, const LaneArgs& args,
                    const LaneKernels (&kernels)[kMaxRows]) {
  const GatedOutput& gated = task.gated;
  const int64_t block_cols = gated.block_panels * kTileCols;
  for (int64_t first = task.panel_begin; first < task.panel_end; first += gated.block_panels) {
    const int64_t end =
        first + gated.block_panels < task.panel_end ? first + gated.block_panels : task.panel_end;
    const int64_t to_factors = (gated.num_panels + first - (end - 1)) * task.panel_bytes;
    const int64_t to_gates =
        end < task.panel_end || task.goes_on ? (1 - gated.num_panels) * task.panel_bytes : 0;
    const TileStore gates{gated.scratch, block_cols,       task.row_begin,
                          task.bias,     task.num_outputs, first};
    for (int64_t panel = first; panel < end; ++panel) {
      multiply_panel<kMaxRows>(task, args, kernels, panel,
                               task.is_cold && panel == task.panel_begin,
                               panel + 1 < end ? task.panel_bytes : to_factors, gates);
    }
    const TileGate factors{task, gated.num_panels + first};
    for (int64_t panel = first; panel < end; ++panel) {
      multiply_panel<kMaxRows>(task, args, kernels, gated.num_panels + panel, false,
                               panel + 1 < end ? task.panel_bytes : to_gates, factors);
    }
    ConvertTask out = gated.out;
    const int64_t col = first * kTileCols;
    out.x = gated.scratch - task.row_begin * block_cols;
    out.x_stride = block_cols;
    out.num_cols = (end - first) * kTileCols;
    out.codes += col * gated.code_bytes;
    if (out.scales != nullptr) {
      out.scales += col / out.group_size;
      if (out.sums != nullptr) out.sums += col / out.group_size;
    }
    out.row_begin = task.row_begin;
    out.row_end = task.row_end;
    gated.convert(out);
  }
}

/// kernels[rows - 1] are the micro-kernels of `rows` rows.
template <int kMaxRows>
void multiply_panels(const LinearTask& task, const LaneKernels (&kernels)[kMaxRows]) {
  LaneArgs args{};
  args.group_bytes = task.group_bytes;
  args.header_bytes = task.header_bytes;
  args.num_groups = task.groups_per_lane;
  args.num_units = task.units_per_group;
  args.has_zeros = task.has_zeros;
  args.odd_lane = task.odd_lane;
  args.x_row_bytes = task.x_row_bytes;
  args.x_groups = task.x_groups;
  if (task.gated.num_panels > 0) {
    multiply_gated<kMaxRows>(task, args, kernels);
    return;
  }
  const TileStore store{task.y + task.row_begin * task.y_stride,
                        task.y_stride,
                        task.row_begin,
                        task.bias,
                        task.num_outputs,
                        0};
  for (int64_t panel = task.panel_begin; panel < task.panel_end; ++panel) {
    multiply_panel<kMaxRows>(task, args, kernels, panel, task.is_cold && panel == task.panel_begin,
                             panel + 1 < task.panel_end || task.goes_on ? task.panel_bytes : 0,
                             store);
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
                    task.codes + r * task.codes_stride + group * task.group_size,
                    task.scales + r * task.groups_stride + group,
                    task.sums + r * task.groups_stride + group);
}

/// ActivationForm::kE4m3 of a task's rows. convert_group(x, count, codes, scale) does one group.
template <void (*convert_group)(const float*, int64_t, uint8_t*, float*)>
void convert_groups(const ConvertTask& task) {
  const int64_t groups = task.num_cols / task.group_size;
  for (int64_t r = task.row_begin; r < task.row_end; ++r)
    for (int64_t group = 0; group < groups; ++group)
      convert_group(task.x + r * task.x_stride + group * task.group_size, task.group_size,
                    task.codes + r * task.codes_stride + group * task.group_size,
                    task.scales + r * task.groups_stride + group);
}

/// ActivationForm::kF32 of a task's rows.
void convert_f32(const ConvertTask& task) {
  for (int64_t r = task.row_begin; r < task.row_end; ++r)
    __builtin_memcpy(task.codes + r * task.codes_stride, task.x + r * task.x_stride,
                     static_cast<unsigned long>(task.num_cols) * 4);
}

}  // namespace
}  // namespace phalanx::kernels::cpu
