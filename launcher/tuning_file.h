// The file that keeps what llm-bench tune found for this kind of machine, and where it lies. Read
// by worker_setup, written by llm-bench tune.
//
// JSON: {"format": "phalanx-tuning", "version": 1, "machine": {...}, "products": [{...}, ...]};
// products that are not in it are cut by default. It cannot change what a model says, only how
// fast.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/linear_tuning.h"
#include "kernels/cpu_backend.h"
#include "launcher/machine_topology.h"
#include "runtime/base/result.h"

namespace phalanx::launcher {

/// What a tuning holds for: the kind of a machine, and what a rank has of it.
struct TuningMachine {
  std::string processor;  ///< as the kernel names it
  std::string isa;        ///< isa_tier_name
  int64_t threads = 1;
  int64_t l2_bytes = 0;  ///< of the first thread's; 0: unknown
  int64_t l3_bytes = 0;

  bool operator==(const TuningMachine&) const = default;
  std::string describe() const;  ///< "AMD EPYC ..., avx512, 2 threads, ..."
};

/// Of a rank whose threads run on `cpus`, one each.
TuningMachine tuning_machine(const MachineTopology& topology, kernels::IsaTier isa_tier,
                             const std::vector<int>& cpus);

/// $XDG_CACHE_HOME/phalanx/tuning/<machine>.json, or under ~/.cache; empty without either variable.
std::string default_tuning_path(const TuningMachine& machine);

struct TuningFile {
  TuningMachine machine;
  kernels::cpu::LinearTunings tunings;
};

inline constexpr int64_t kMostTuningBytes = int64_t{4} << 20;
inline constexpr size_t kMostTunedProducts = 8192;

std::string format_tuning(const TuningFile& file);

/// `where` (a path) opens each error message. Errors: kDataLoss for bad JSON; kInvalidArgument with
/// field, value and what is allowed for the rest, unknown fields and another version included.
Result<TuningFile> parse_tuning(const std::string& text, const std::string& where);

/// Errors: also kNotFound, kIoError, kResourceExhausted or the like for files over
/// kMostTuningBytes.
Result<TuningFile> read_tuning(const std::string& path);

/// Whole or not at all; makes the folders. Errors: kIoError.
Status write_tuning(const std::string& path, const TuningFile& file);

/// What the configuration's cpu.tuning means on this machine; null: nothing is tuned.
///   "auto"  the file at default_tuning_path, if it is there; one that cannot be used is warned of.
///   "off"   nothing.
///   a path  that file, whichever machine it is of (another one is warned of).
/// Logs how many products are tuned. Errors: kInvalidArgument "cpu.tuning = ..." for a path that
/// cannot be used.
Result<std::shared_ptr<const kernels::cpu::LinearTunings>> load_tunings(
    const std::string& setting, const TuningMachine& machine);

}  // namespace phalanx::launcher
