// Cutting products of few rows. Called by linear_launches.
#include "kernels/cuda/linear_plan.h"

#include <algorithm>
#include <string>

#include "runtime/base/ceil_div.h"
#include "runtime/base/check.h"

namespace phalanx::kernels::cuda {
namespace {

int rounded_up(int64_t value, int64_t multiple) {
  return static_cast<int>(round_up(value, multiple));
}

/// Two blocks an SM.
constexpr int64_t kWantedSharedBytes = int64_t{112} * 1024;

struct Cut {
  int tiles = 1;
  int warps = 8;
};

/// Tiles of a block: one when activations are few; more when bringing them to every block would
/// cost as much as the weights, as long as there is a block for each SM.
Cut first_cut(const DeviceMatrix& w, int64_t num_rows, bool gated, int num_sms) {
  const int fewest = gated ? 2 : 1;
  Cut cut;
  cut.tiles = num_rows <= 2 ? fewest : num_rows <= 8 ? 4 : 2;
  while (cut.tiles > fewest && w.shape.num_tiles / cut.tiles < num_sms) cut.tiles /= 2;
  const bool one_block_an_sm = ceil_div(w.shape.num_tiles, cut.tiles) <= num_sms;
  if (cut.tiles * num_rows > 16 || one_block_an_sm) cut.warps = 16;
  return cut;
}

/// The plan with segments of `segment_groups` groups.
SmallPlan with_segments(const DeviceMatrix& w, int64_t num_rows, const SmallPlan& cut,
                        int64_t segment_groups, int64_t* shared_bytes) {
  SmallPlan plan = cut;
  const bool quantized = is_quantized(w.format);
  plan.segment_groups = static_cast<int>(segment_groups);
  plan.num_segments = static_cast<int>(ceil_div(w.shape.num_groups, segment_groups));
  plan.num_stages = std::min(plan.num_stages, plan.num_segments);
  const int64_t x_bytes = segment_groups * w.shape.group_steps * kStepBytes;
  plan.x_stride = rounded_up(x_bytes, 128) + 32;
  int64_t offset = num_rows * plan.x_stride;
  const auto part = [&](int64_t bytes) {
    const auto at = static_cast<int>(offset);
    offset += rounded_up(bytes, 16);
    return at;
  };
  if (quantized) {
    const int64_t scale_bytes = w.scale_dtype == DType::kF32 ? 4 : 2;
    const int64_t per_output = plan.tiles_per_block * segment_groups * kTileOutputs;
    plan.scales_offset = part(per_output * scale_bytes);
    plan.x_scales_offset = part(num_rows * segment_groups * 4);
    if (w.zeros != nullptr) {
      plan.zeros_offset = part(per_output);
      plan.x_sums_offset = part(num_rows * segment_groups * 4);
    }
  }
  plan.stage_bytes = rounded_up(offset, 128);
  plan.values_offset = plan.num_stages * plan.stage_bytes;
  const int value_bytes = quantized ? kValueStride<8> * 8 : kValueStride<4> * 4;  // of 16 outputs
  *shared_bytes =
      plan.values_offset + plan.tiles_per_block * segment_groups * num_rows * value_bytes;
  return plan;
}

/// Finds segments that fit into `shared_limit`; false when there are none. With idle_turns a unit
/// takes as many turns as a warp's depth, the last ones idle: slower, but segments may be shorter.
bool fit_segments(const DeviceMatrix& w, int64_t num_rows, const Cut& cut, int64_t shared_limit,
                  bool idle_turns, SmallLaunch& launch) {
  const int chunk_steps = w.format == WeightFormat::kW4 ? 2 : 1;
  const int depth = num_rows > 8 ? kSmallDepth<2> : kSmallDepth<1>;
  SmallPlan plan{};
  plan.tiles_per_block = cut.tiles;
  plan.unit_groups = w.shape.group_steps % chunk_steps == 0 ? 1 : chunk_steps;
  plan.unit_chunks = plan.unit_groups * w.shape.group_steps / chunk_steps;
  plan.unit_turns = idle_turns ? rounded_up(plan.unit_chunks, depth) : plan.unit_chunks;
  plan.num_units = static_cast<int>(ceil_div(w.shape.num_groups, plan.unit_groups));
  const int tile_warps = cut.warps / cut.tiles;

  // A warp walks whole multiples of the depth in a segment, unless there is but one.
  int64_t units_of_warp = 1;
  while (units_of_warp * plan.unit_turns % depth != 0) ++units_of_warp;
  const int64_t quantum = units_of_warp * tile_warps;
  launch.num_warps = cut.warps;
  launch.num_blocks = ceil_div(w.shape.num_tiles, cut.tiles);

  const auto accept = [&](int64_t segment_units, int stages) {
    plan.num_stages = stages;
    int64_t shared_bytes = 0;
    const SmallPlan whole =
        with_segments(w, num_rows, plan, segment_units * plan.unit_groups, &shared_bytes);
    if (shared_bytes > shared_limit) return false;
    launch.plan = whole;
    launch.plan.segment_turns =
        rounded_up(ceil_div(segment_units, tile_warps) * plan.unit_turns, depth);
    launch.shared_bytes = shared_bytes;
    return true;
  };
  if (accept(plan.num_units, 1)) return true;
  for (const int stages : {2, 1}) {
    for (int64_t units = (plan.num_units - 1) / quantum * quantum; units > 0; units -= quantum) {
      if (accept(units, stages)) return true;
    }
  }
  return false;
}

}  // namespace

SmallLaunch plan_small(const DeviceMatrix& w, int64_t num_rows, bool gated, int num_sms,
                       int64_t shared_bytes_of_block) {
  PHALANX_CHECK(num_rows >= 1 && num_rows <= kSmallMostRows,
                "a product of few rows takes 1 to 16, not " + std::to_string(num_rows));
  SmallLaunch launch;
  const Cut wanted = first_cut(w, num_rows, gated, num_sms);
  if (fit_segments(w, num_rows, wanted, std::min(kWantedSharedBytes, shared_bytes_of_block), false,
                   launch)) {
    return launch;
  }
  for (const bool idle_turns : {false, true}) {
    for (Cut cut = wanted; cut.tiles >= (gated ? 2 : 1); cut.tiles /= 2) {
      const auto fewest = static_cast<int>(ceil_div(cut.tiles * num_rows, 2));  // a thread a sum
      for (cut.warps = wanted.warps; cut.warps >= std::max(fewest, cut.tiles); cut.warps /= 2) {
        if (fit_segments(w, num_rows, cut, shared_bytes_of_block, idle_turns, launch))
          return launch;
      }
    }
  }
  PHALANX_CHECK(false, "a product of " + std::to_string(num_rows) + " rows with groups of " +
                           std::to_string(w.shape.group_cols) + " does not fit into " +
                           std::to_string(shared_bytes_of_block) + " bytes of shared memory");
}

}  // namespace phalanx::kernels::cuda
