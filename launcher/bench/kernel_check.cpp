// Row by row, bit by bit. Called by llm-bench kernels --check.
#include "launcher/bench/kernel_check.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>

#include "runtime/base/check.h"

namespace phalanx::bench {
namespace {

constexpr double kMostOps = 3e8;  // of the reference, for one case: scalar code, one thread

std::string exact(float value) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.9g (%a)", static_cast<double>(value),
                static_cast<double>(value));
  return text;
}

}  // namespace

RowIds rows_to_check(int64_t num_rows, double ops_per_row) {
  const auto affordable = static_cast<int64_t>(kMostOps / std::max(ops_per_row, 1.0));
  const int64_t count = std::clamp<int64_t>(affordable, std::min<int64_t>(2, num_rows), num_rows);
  RowIds rows;
  for (int64_t i = 0; i < count; ++i)
    rows.push_back(count == 1 ? 0 : i * (num_rows - 1) / (count - 1));
  return rows;
}

Status compare_rows(const std::string& what, const KernelCase& got, const KernelCase& expected,
                    const RowIds& checked, double tolerance) {
  for (size_t i = 0; i < checked.size(); ++i) {
    const std::vector<float> ours = got.output_row(static_cast<size_t>(checked[i]));
    const std::vector<float> theirs = expected.output_row(i);
    PHALANX_CHECK_EQ(ours.size(), theirs.size(), "values of a row");
    float largest = 0;
    for (const float value : theirs) {
      if (std::isfinite(value)) largest = std::max(largest, std::fabs(value));
    }
    const double allowed = tolerance * static_cast<double>(largest);
    for (size_t k = 0; k < ours.size(); ++k) {
      if (std::bit_cast<uint32_t>(ours[k]) == std::bit_cast<uint32_t>(theirs[k])) continue;
      const double difference =
          std::fabs(static_cast<double>(ours[k]) - static_cast<double>(theirs[k]));
      if (tolerance > 0 && difference <= allowed) continue;
      return data_loss(
          what + ": row " + std::to_string(checked[i]) + ", column " + std::to_string(k) + " is " +
          exact(ours[k]) + ", the reference says " + exact(theirs[k]) +
          (tolerance > 0 ? ", allowed are differences of " + exact(static_cast<float>(allowed))
                         : ", the bits must agree"));
    }
  }
  return {};
}

}  // namespace phalanx::bench
