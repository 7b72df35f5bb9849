// llm-bench compare: the rows that two reports share, as ratios with their spread.
#include <algorithm>
#include <cstdio>

#include "launcher/bench/commands.h"

namespace phalanx::bench {
namespace {

std::vector<Flag> flags() { return {}; }

bool is_same_row(const Measurement& a, const Measurement& b) {
  return a.name == b.name && a.parameters == b.parameters && a.unit == b.unit &&
         a.better == b.better;
}

/// b over a: of the medians, and the least and most that single samples give.
Spread ratio_of(const Measurement& a, const Measurement& b) {
  const Spread before = spread_of(a.samples);
  const Spread after = spread_of(b.samples);
  return {after.median / before.median, after.least / before.most, after.most / before.least};
}

Status run(const BenchOptions& options, Report& report) {
  if (options.places().size() != 2)
    return invalid_argument("compare needs two reports, A.json and B.json");
  PHALANX_ASSIGN_OR_RETURN(const Report a, Report::read_json(options.places()[0]));
  PHALANX_ASSIGN_OR_RETURN(const Report b, Report::read_json(options.places()[1]));
  size_t num_shared = 0;
  for (const Measurement& before : a.measurements()) {
    const auto after =
        std::find_if(b.measurements().begin(), b.measurements().end(),
                     [&](const Measurement& row) { return is_same_row(before, row); });
    if (after == b.measurements().end()) continue;
    ++num_shared;
    const Spread ratio = ratio_of(before, *after);
    Measurement row{
        before.name, before.parameters, "x", before.better, {ratio.least, ratio.median, ratio.most},
        std::nullopt};
    report.add(std::move(row));
    const bool overlaps = ratio.least <= 1 && ratio.most >= 1;
    const bool is_better = (ratio.median > 1) == (before.better == Better::kHigher);
    std::printf("    %s\n", overlaps    ? "no difference beyond the spread"
                            : is_better ? "B is better"
                                        : "A is better");
  }
  const size_t only_a = a.measurements().size() - num_shared;
  const size_t only_b = b.measurements().size() - std::min(num_shared, b.measurements().size());
  std::printf("%zu rows compared (B over A); %zu only in A, %zu only in B\n", num_shared, only_a,
              only_b);
  if (num_shared == 0) return failed_precondition("the reports share no row");
  return {};
}

}  // namespace

Command compare_command() {
  return {"compare", "ratios of two reports, with their spread", "A.json B.json", 2, flags, run};
}

}  // namespace phalanx::bench
