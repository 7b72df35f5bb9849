// Compares what a kernel gave with what the reference gave. Called by llm-bench kernels --check.
#pragma once

#include <string>

#include "launcher/bench/kernel_families.h"

namespace phalanx::bench {

/// How many of `num_rows` rows the reference may compute, at about `ops_per_row` operations each,
/// in about a second: the first, the last and others evenly between, ascending.
RowIds rows_to_check(int64_t num_rows, double ops_per_row);

/// Every checked row of `got`, a case over rows 0, 1, ..., against `expected`, a case over
/// `checked`; both have run. With a tolerance of 0 the bits must agree.
/// Errors: kDataLoss naming `what`, row, column and both values.
Status compare_rows(const std::string& what, const KernelCase& got, const KernelCase& expected,
                    const RowIds& checked, double tolerance);

}  // namespace phalanx::bench
