// Splits products and conversions over the team and hands each thread's share to a tier.
// Called by cpu_operators.
#include "kernels/cpu/linear.h"

#include <algorithm>
#include <memory>

#include "kernels/cpu/huge_memory.h"
#include "kernels/cpu/linear_tiers.h"
#include "kernels/cpu/panel_matrix.h"
#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels {
namespace cpu {
namespace {

const LinearTier& tier_kernels(IsaTier tier) {
  const LinearTier* kernels = nullptr;
  switch (tier) {
    case IsaTier::kPortable:
      kernels = portable_linear_tier();
      break;
    case IsaTier::kAvx2:
      kernels = avx2_linear_tier();
      break;
    case IsaTier::kAvx2Vnni:
      kernels = has_vex_vnni() ? avx2_vnni_vex_linear_tier() : avx2_vnni_evex_linear_tier();
      break;
    case IsaTier::kAvx512:
      kernels = avx512_linear_tier();
      break;
  }
  PHALANX_CHECK(kernels != nullptr, "this build lacks the instruction-set tier");
  return *kernels;
}

auto multiply_kernel(const LinearTier& tier, WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
      return tier.multiply_f32;
    case WeightFormat::kBf16:
      return tier.multiply_bf16;
    case WeightFormat::kW8:
      return tier.multiply_w8;
    case WeightFormat::kW4:
      return tier.multiply_w4;
    case WeightFormat::kFp8:
      return tier.multiply_fp8;
  }
  return tier.multiply_f32;
}

/// Threads as a grid: `panels` parts of the panels by `rows` parts of the rows.
struct Grid {
  int64_t panels = 1;
  int64_t rows = 1;
};

/// The grid with the smallest largest share; more parts of panels when equal, since threads that
/// share panels read the same weights.
Grid choose_grid(int64_t num_panels, int64_t num_rows, int64_t num_threads) {
  Grid best;
  int64_t best_cost = num_panels * num_rows;
  for (int64_t rows = 1; rows <= num_threads; ++rows) {
    const Grid grid{num_threads / rows, rows};
    const int64_t cost = ceil_div(num_panels, grid.panels) * ceil_div(num_rows, grid.rows);
    if (cost < best_cost) {
      best = grid;
      best_cost = cost;
    }
  }
  return best;
}

/// Below this, waking a second thread costs what it saves: a fork and join is about a microsecond.
constexpr int64_t kInlineNanoseconds = 2000;

/// How long one thread takes, roughly: weights from a cache near by, or dot products, at the rates
/// of a current core. Only decides whether to share the work.
int64_t estimated_nanoseconds(const PanelLayout& layout, int64_t num_rows) {
  constexpr int64_t kBytesPerNanosecond = 50;
  constexpr int64_t kUnitsPerNanosecond = 48;  // of 4 bytes of a row
  const int64_t bytes = layout.num_panels * layout.panel_bytes;
  return std::max(bytes / kBytesPerNanosecond, bytes / kUnitBytes * num_rows / kUnitsPerNanosecond);
}

/// All of the product but where it goes.
LinearTask make_task(const PanelMatrix& matrix, const ActivationView& x,
                     const LinearTuning& tuning) {
  const PanelLayout& layout = matrix.layout();
  const int64_t code_bytes = activation_code_bytes(x.form);
  LinearTask task{};
  task.panels = reinterpret_cast<const uint8_t*>(matrix.panels());
  task.panel_bytes = layout.panel_bytes;
  task.lane_bytes = layout.lane_bytes;
  task.group_bytes = layout.group_bytes;
  task.header_bytes = layout.header_bytes;
  task.num_lanes = layout.num_lanes;
  task.groups_per_lane = layout.groups_per_lane;
  task.units_per_group = layout.units_per_group;
  task.has_zeros = layout.has_zeros;
  task.odd_lane = layout.format == WeightFormat::kBf16 && layout.lane_cols % 2 != 0;
  task.num_outputs = layout.num_rows;
  task.bias = matrix.bias();
  task.x = reinterpret_cast<const uint8_t*>(x.codes);
  task.x_row_bytes = layout.num_cols * code_bytes;
  task.x_lane_bytes = layout.lane_cols * code_bytes;
  if (is_quantized(x.form)) {
    task.x_scales = x.scales;
    task.x_sums = x.sums;
    task.x_groups = layout.num_lanes * layout.groups_per_lane;
  }
  task.tile_rows = tuning.tile_rows;
  task.ahead_bytes = tuning.ahead_bytes;
  return task;
}

/// The part of `whole` that thread `index` of a grid computes; panels in steps of `step`.
LinearTask share_of(const LinearTask& whole, const Grid& grid, int64_t index, int64_t num_panels,
                    int64_t step, int64_t num_rows) {
  const int64_t p = index % grid.panels;
  const int64_t r = index / grid.panels;
  const int64_t steps = num_panels / step;
  LinearTask task = whole;
  task.is_cold = true;
  task.panel_begin = steps * p / grid.panels * step;
  task.panel_end = steps * (p + 1) / grid.panels * step;
  task.row_begin = num_rows * r / grid.rows;
  task.row_end = num_rows * (r + 1) / grid.rows;
  return task;
}

/// Bytes of weights that a thread takes at once of what it shares: enough to hide the taking, few
/// enough that none waits long for the last.
constexpr int64_t kPieceBytes = int64_t{64} << 10;

/// Who computes what. Where panels are shared, grid.panels threads take `piece` steps at a time.
struct Partition {
  Grid grid;
  bool shares_panels = false;
  int64_t piece = 1;
};

Partition make_partition(const LinearTuning& tuning, const PanelLayout& layout, int64_t num_panels,
                         int64_t step, int64_t num_rows, int64_t num_threads) {
  Partition partition;
  switch (tuning.split) {
    case LinearSplit::kDefault: {
      const bool is_small = estimated_nanoseconds(layout, num_rows) < kInlineNanoseconds;
      partition.grid = choose_grid(num_panels / step, num_rows, is_small ? 1 : num_threads);
      partition.shares_panels = partition.grid.rows == 1;
      break;
    }
    case LinearSplit::kOneThread:
      break;
    case LinearSplit::kSharedPanels:
      partition.grid.panels = num_threads;
      partition.shares_panels = true;
      break;
    case LinearSplit::kGrid:
      partition.grid.rows = std::clamp<int64_t>(tuning.row_parts, 1, num_threads);
      partition.grid.panels = num_threads / partition.grid.rows;
      break;
  }
  const int64_t step_bytes = std::max<int64_t>(1, step * layout.panel_bytes);
  partition.piece = tuning.piece_panels > 0 ? ceil_div(tuning.piece_panels, step)
                                            : std::max<int64_t>(1, kPieceBytes / step_bytes);
  return partition;
}

/// Runs multiply(task) for pieces that cover the product: panels in multiples of `step`.
template <typename Multiply>
void run_partition(const LinearTask& whole, const Partition& partition, int64_t num_panels,
                   int64_t step, int64_t num_rows, ThreadTeam& team, const Multiply& multiply) {
  const Grid& grid = partition.grid;
  const auto run_share = [&](int index) {
    if (index >= grid.panels * grid.rows) return;
    LinearTask task = share_of(whole, grid, index, num_panels, step, num_rows);
    task.tally = team.tally();
    if (task.panel_begin < task.panel_end && task.row_begin < task.row_end) multiply(task);
  };
  if (grid.panels * grid.rows == 1) {
    run_share(0);
  } else if (!partition.shares_panels) {
    team.run(run_share);
  } else {
    team.share(num_panels / step, partition.piece,
               [&](int64_t begin, int64_t end, bool is_cold, bool goes_on) {
                 LinearTask task = whole;
                 task.panel_begin = begin * step;
                 task.panel_end = end * step;
                 task.is_cold = is_cold;
                 task.goes_on = goes_on;
                 task.row_begin = 0;
                 task.row_end = num_rows;
                 task.tally = team.tally();
                 multiply(task);
               });
  }
}

const PanelMatrix& panel_matrix(const PackedMatrix& w) {
  const auto* matrix = dynamic_cast<const PanelMatrix*>(&w);
  PHALANX_CHECK(matrix != nullptr, "the matrix was packed by another backend");
  return *matrix;
}

ConvertTask convert_task(const ActivationView& out) {
  ConvertTask task{};
  task.num_cols = out.num_cols;
  task.group_size = out.group_size;
  task.codes = reinterpret_cast<uint8_t*>(out.codes);
  task.codes_stride = out.num_cols * activation_code_bytes(out.form);
  task.scales = out.scales;
  task.sums = out.sums;
  task.groups_stride = is_quantized(out.form) ? out.num_cols / out.group_size : 0;
  return task;
}

auto convert_kernel(const LinearTier& tier, ActivationForm form) {
  switch (form) {
    case ActivationForm::kF32:
      return tier.convert_f32;
    case ActivationForm::kBf16:
      return tier.convert_bf16;
    case ActivationForm::kS8:
      return tier.convert_s8;
    case ActivationForm::kE4m3:
      return tier.convert_e4m3;
  }
  return tier.convert_f32;
}

/// Panels of a gated product that hold whole groups of what it makes.
int64_t gate_step(ActivationForm form, int64_t group_size) {
  return is_quantized(form) ? std::max<int64_t>(1, group_size / kPanelRows) : 1;
}

/// Up to so many rows are a single tile in every tier. Then more panels in a row make a longer
/// stream to read ahead in.
constexpr int64_t kRowsOfOneTile = 4;
constexpr int64_t kStreamedPanels = 4;

/// Floats of this thread, at least so many, 64-byte aligned.
float* thread_scratch(int64_t num_floats) {
  thread_local std::shared_ptr<std::byte> memory;
  thread_local int64_t capacity = 0;
  if (capacity < num_floats) {
    memory = allocate_zeroed(num_floats * static_cast<int64_t>(sizeof(float)));
    capacity = num_floats;
  }
  return reinterpret_cast<float*>(memory.get());
}

}  // namespace

int64_t most_tile_rows(IsaTier tier) { return tier_kernels(tier).tile_rows; }

void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y, IsaTier tier,
            ThreadTeam& team, const LinearTuning& tuning) {
  const PanelMatrix& matrix = panel_matrix(w);
  const auto multiply = multiply_kernel(tier_kernels(tier), w.format());
  LinearTask whole = make_task(matrix, x, tuning);
  whole.y = y.data;
  whole.y_stride = y.stride;
  const int64_t num_panels = matrix.layout().num_panels;
  if (num_rows == 0 || num_panels == 0) return;
  const Partition partition =
      make_partition(tuning, matrix.layout(), num_panels, 1, num_rows, team.size());
  run_partition(whole, partition, num_panels, 1, num_rows, team, multiply);
}

void gated_linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows,
                  const ActivationView& out, SiluMul silu_mul, IsaTier tier, ThreadTeam& team,
                  const LinearTuning& tuning) {
  const PanelMatrix& matrix = panel_matrix(w);
  const auto multiply = multiply_kernel(tier_kernels(tier), w.format());
  if (num_rows == 0) return;
  LinearTask whole = make_task(matrix, x, tuning);
  GatedOutput& gated = whole.gated;
  gated.num_panels = matrix.layout().num_panels / 2;
  gated.silu_mul = silu_mul;
  gated.convert = convert_kernel(tier_kernels(tier), out.form);
  gated.code_bytes = activation_code_bytes(out.form);
  gated.out = convert_task(out);
  const int64_t step = gate_step(out.form, out.group_size);
  const Partition partition =
      make_partition(tuning, matrix.layout(), gated.num_panels, step, num_rows, team.size());
  run_partition(whole, partition, gated.num_panels, step, num_rows, team, [&](LinearTask& task) {
    const int64_t rows = task.row_end - task.row_begin;
    task.gated.block_panels =
        rows > kRowsOfOneTile ? step : (kStreamedPanels + step - 1) / step * step;
    task.gated.scratch = thread_scratch(rows * task.gated.block_panels * kPanelRows);
    multiply(task);
  });
}

void convert_rows(ConstRows x, int64_t begin, int64_t end, const ActivationView& out,
                  IsaTier tier) {
  ConvertTask task = convert_task(out);
  task.x = x.data;
  task.x_stride = x.stride;
  task.row_begin = begin;
  task.row_end = end;
  convert_kernel(tier_kernels(tier), out.form)(task);
}

}  // namespace cpu

bool fuses_gated_linear(int64_t num_outputs, ActivationForm form, int64_t group_size) {
  using cpu::kPanelRows;
  const int64_t half = num_outputs / 2;
  if (num_outputs % 2 != 0 || half == 0 || half % kPanelRows != 0) return false;
  if (!is_quantized(form)) return true;
  if (group_size % kPanelRows != 0 && kPanelRows % group_size != 0) return false;
  return half % std::max(group_size, kPanelRows) == 0;
}

}  // namespace phalanx::kernels
