// The flags of llm-bench serve, checked. Used by serve.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "launcher/bench/bench_options.h"
#include "launcher/bench/serve_body.h"
#include "launcher/bench/serve_statistics.h"
#include "launcher/bench/serve_url.h"
#include "launcher/bench/serve_workload.h"
#include "runtime/base/result.h"

namespace phalanx::bench {

enum class UsageWish {
  kAuto,  ///< asked for until a server refuses the field
  kOn,
  kOff
};

struct IdRange {
  int32_t low = 0;
  int32_t high = 0;  ///< included
};

struct ServeOptions {
  ServeUrl url;
  std::string api_key;  ///< from --api-key-file or LLM_BENCH_API_KEY
  BodyOptions body;     ///< model as given; include_usage is the caller's to set
  UsageWish usage = UsageWish::kAuto;
  WorkloadOptions workload;    ///< ids as given, else 0..0
  std::optional<IdRange> ids;  ///< absent: to be found out
  LoadPlan plan;               ///< of the measured runs; `run` and `first_index` are the caller's
  int64_t num_warmups = 0;
  int64_t num_runs = 1;
  ServiceLevel slo;
  bool has_slo = false;
  std::string records_path;  ///< empty: none
};

std::vector<Flag> serve_flags();

/// Errors: kInvalidArgument naming flag, value and what is allowed; kNotFound for files.
Result<ServeOptions> parse_serve_options(const BenchOptions& options);

}  // namespace phalanx::bench
