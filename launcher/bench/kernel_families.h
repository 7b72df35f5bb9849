// Which kernels a model of some shape calls, and how to make a case of each for any number of rows.
// Used by llm-bench kernels.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/bench/kernel_case.h"

namespace phalanx::bench {

/// "linear", "convert", "attention_decode", ...
const std::vector<std::string>& kernel_names();

/// What of a shape is asked for.
struct KernelSelection {
  std::vector<std::string> names;  ///< of kernel_names()
  std::vector<kernels::WeightFormat> weights;
  std::vector<kernels::KvFormat> kv;
  int64_t group_size = 128;
  int64_t context = 512;       ///< tokens that each sequence of attention_decode sees
  int64_t largest_rows = 512;  ///< of any case
  /// Weights and KV of a whole model that are at most so many stay in the caches from step to step;
  /// larger ones are walked through copies of uncached_bytes.
  int64_t cached_bytes = 0;
  int64_t uncached_bytes = 0;
};

using CaseMaker = std::function<std::unique_ptr<KernelCase>(const RowIds& rows)>;

/// A kernel with everything but its rows and its backend.
struct KernelFamily {
  std::string name;
  std::vector<std::pair<std::string, std::string>> parameters;  ///< {"matrix", "qkv"}, ...
  bool computes = false;   ///< told in GOP/s rather than in GB/s
  int64_t most_rows = 0;   ///< that a model calls it with; 0: any
  double ops_per_row = 0;  ///< about, for whoever must run it slowly
  /// Largest difference from the reference, relative to the largest value of the row. 0: the bits
  /// are the contract's.
  double tolerance = 0;
  /// Makes what the cases of one backend share (weights, a pool); the maker owns it. `walks`: with
  /// as many copies as a model's size asks for, else with one.
  std::function<CaseMaker(kernels::Operators& operators, bool walks)> prepare;
};

/// In the order of a layer. Errors: kInvalidArgument when the group does not fit the shape, or the
/// KV pool of attention_decode would be larger than 4 GiB.
Result<std::vector<KernelFamily>> kernel_families(const KernelShape& shape,
                                                  const KernelSelection& selection);

}  // namespace phalanx::bench
