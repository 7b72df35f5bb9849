// llm-bench compare: the rows that two reports share, as ratios with their spread.
#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

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

/// A ratio needs positive numbers, and 0 requests a second is a possible answer.
bool has_ratio(const Measurement& row) { return spread_of(row.samples).least > 0; }

/// For each row of `a`, in order, the index of its row in `b`. Rows that a report has twice pair
/// up in order.
std::vector<std::optional<size_t>> pair_rows(const Report& a, const Report& b) {
  std::vector<std::optional<size_t>> pairs;
  std::vector<bool> taken(b.measurements().size(), false);
  for (const Measurement& row : a.measurements()) {
    std::optional<size_t> found;
    for (size_t i = 0; i < taken.size() && !found; ++i) {
      if (!taken[i] && is_same_row(row, b.measurements()[i])) found = i;
    }
    if (found) taken[*found] = true;
    pairs.push_back(found);
  }
  return pairs;
}

void print_unpaired(const char* where, const std::vector<const Measurement*>& rows) {
  constexpr size_t kMostPrinted = 10;
  for (size_t i = 0; i < std::min(rows.size(), kMostPrinted); ++i)
    std::printf("only in %s: %s\n", where, format_row(*rows[i]).c_str());
  if (rows.size() > kMostPrinted)
    std::printf("only in %s: %zu more\n", where, rows.size() - kMostPrinted);
}

void compare_row(const Measurement& before, const Measurement& after, Report& report) {
  if (!has_ratio(before) || !has_ratio(after)) {
    std::printf("%s\n    against\n%s\n    no ratio: a sample is not positive\n",
                format_row(before).c_str(), format_row(after).c_str());
    return;
  }
  const Spread ratio = ratio_of(before, after);
  Measurement row;
  row.name = before.name;
  row.parameters = before.parameters;
  row.unit = "x";
  row.better = before.better;
  row.samples = {ratio.least, ratio.median, ratio.most};
  report.add(std::move(row));
  const bool overlaps = ratio.least <= 1 && ratio.most >= 1;
  const bool is_better = (ratio.median > 1) == (before.better == Better::kHigher);
  std::printf("    %s\n", overlaps    ? "no difference beyond the spread"
                          : is_better ? "B is better"
                                      : "A is better");
}

Status run(const BenchOptions& options, Report& report) {
  if (options.places().size() != 2)
    return invalid_argument("compare needs two reports, A.json and B.json");
  PHALANX_ASSIGN_OR_RETURN(const Report a, Report::read_json(options.places()[0]));
  PHALANX_ASSIGN_OR_RETURN(const Report b, Report::read_json(options.places()[1]));
  const std::vector<std::optional<size_t>> pairs = pair_rows(a, b);
  std::vector<const Measurement*> only_a;
  std::vector<bool> is_paired(b.measurements().size(), false);
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (pairs[i]) {
      is_paired[*pairs[i]] = true;
      compare_row(a.measurements()[i], b.measurements()[*pairs[i]], report);
    } else {
      only_a.push_back(&a.measurements()[i]);
    }
  }
  std::vector<const Measurement*> only_b;
  for (size_t i = 0; i < is_paired.size(); ++i) {
    if (!is_paired[i]) only_b.push_back(&b.measurements()[i]);
  }
  print_unpaired("A", only_a);
  print_unpaired("B", only_b);
  const size_t num_shared = pairs.size() - only_a.size();
  std::printf("%zu rows compared (B over A); %zu only in A, %zu only in B\n", num_shared,
              only_a.size(), only_b.size());
  if (num_shared == 0) return failed_precondition("the reports share no row");
  return {};
}

}  // namespace

Command compare_command() {
  return {"compare", "ratios of two reports, with their spread", "A.json B.json", 2, flags, run};
}

}  // namespace phalanx::bench
