// Splits products and conversions over the team and hands each thread's share to a tier.
// Called by cpu_operators.
#include "kernels/cpu/linear.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/linear_tiers.h"
#include "kernels/cpu/panel_matrix.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cpu {
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
  }
  return tier.multiply_f32;
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

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

LinearTask make_task(const PanelMatrix& matrix, const ActivationView& x, Rows y) {
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
  if (x.form == ActivationForm::kS8) {
    task.x_scales = x.scales;
    task.x_sums = x.sums;
    task.x_groups = layout.num_lanes * layout.groups_per_lane;
  }
  task.y = y.data;
  task.y_stride = y.stride;
  return task;
}

}  // namespace

void linear(const PackedMatrix& w, const ActivationView& x, int64_t num_rows, Rows y, IsaTier tier,
            ThreadTeam& team) {
  const auto* matrix = dynamic_cast<const PanelMatrix*>(&w);
  PHALANX_CHECK(matrix != nullptr, "the matrix was packed by another backend");
  const auto multiply = multiply_kernel(tier_kernels(tier), w.format());
  const LinearTask whole = make_task(*matrix, x, y);
  const int64_t num_panels = matrix->layout().num_panels;
  if (num_rows == 0 || num_panels == 0) return;
  const bool is_small = estimated_nanoseconds(matrix->layout(), num_rows) < kInlineNanoseconds;
  const Grid grid = choose_grid(num_panels, num_rows, is_small ? 1 : team.size());
  const auto run_share = [&](int index) {
    if (index >= grid.panels * grid.rows) return;
    const int64_t p = index % grid.panels;
    const int64_t r = index / grid.panels;
    LinearTask task = whole;
    task.panel_begin = num_panels * p / grid.panels;
    task.panel_end = num_panels * (p + 1) / grid.panels;
    task.row_begin = num_rows * r / grid.rows;
    task.row_end = num_rows * (r + 1) / grid.rows;
    task.tally = team.tally();
    if (task.panel_begin < task.panel_end && task.row_begin < task.row_end) multiply(task);
  };
  if (grid.panels * grid.rows == 1)
    run_share(0);
  else
    team.run(run_share);
}

void convert_rows(ConstRows x, int64_t begin, int64_t end, const ActivationView& out,
                  IsaTier tier) {
  ConvertTask task{};
  task.x = x.data;
  task.x_stride = x.stride;
  task.num_cols = out.num_cols;
  task.group_size = out.group_size;
  task.codes = reinterpret_cast<uint8_t*>(out.codes);
  task.scales = out.scales;
  task.sums = out.sums;
  task.row_begin = begin;
  task.row_end = end;
  const LinearTier& kernels = tier_kernels(tier);
  switch (out.form) {
    case ActivationForm::kF32:
      for (int64_t r = begin; r < end; ++r)
        std::memcpy(out.codes + r * out.num_cols * 4, x.data + r * x.stride,
                    static_cast<size_t>(out.num_cols) * 4);
      return;
    case ActivationForm::kBf16:
      kernels.convert_bf16(task);
      return;
    case ActivationForm::kS8:
      kernels.convert_s8(task);
      return;
  }
}

}  // namespace phalanx::kernels::cpu
