// llm-bench cuda: what a GPU allows, what each kernel makes of it, and whole steps of real shapes
// with random weights. On the emulated device, with --tiny, only that all of it runs.
#include <sched.h>

#include <algorithm>
#include <cstdio>

#include "kernels/cuda_backend.h"
#include "launcher/bench/commands.h"
#include "launcher/bench/cuda_bench.h"
#include "launcher/bench/shape_engine.h"
#include "launcher/host_resources.h"

namespace phalanx::bench {
namespace {

using kernels::ProductOf;

const std::vector<std::string> kParts = {"linear",   "attention", "rows",
                                         "sampling", "peers",     "steps"};

std::vector<Flag> flags() {
  return {{"--part", "NAME,...", "linear,attention,rows,sampling,peers,steps",
           "besides the ceilings, which are always measured"},
          {"--device", "N", "0", "index of the GPU"},
          {"--model", "NAME,...", "llama-3.2-1b,llama-3.1-8b", "shapes of the whole steps"},
          {"--weights", "FORMAT,...", "bf16,fp8,w4", "of the whole steps"},
          {"--cublaslt", "FILE", "", "the library; default: where the system finds it"},
          {"--threads", "N", "0", "host threads that pack weights; 0: all cores"},
          {"--repetitions", "N", "5", "samples of each row"},
          {"--sample-ms", "N", "5", "milliseconds that a sample lasts at least"},
          {"--tiny", "", "", "small shapes, for the emulated device"}};
}

Measurement ceiling_row(const std::string& of, const std::string& unit) {
  Measurement row;
  row.name = "ceiling";
  row.parameters = {{"of", of}};
  row.unit = unit;
  return row;
}

double add_ceiling(CudaBench& bench, const std::string& of, const std::string& unit,
                   const std::function<double()>& measure) {
  double median = 0;
  bench.attempt("ceiling of " + of, [&] {
    Measurement row = ceiling_row(of, unit);
    for (int64_t i = 0; i < bench.repetitions; ++i) row.samples.push_back(measure());
    median = spread_of(row.samples).median;
    bench.report.add(std::move(row));
  });
  return median;
}

void measure_ceilings(CudaBench& bench) {
  const int64_t bytes = bench.tiny ? int64_t{1} << 16 : int64_t{1} << 30;
  const int passes = bench.tiny ? 1 : 10;
  kernels::CudaLimits& limits = *bench.limits;
  bench.ceilings.read_gbs =
      add_ceiling(bench, "read", "GB/s", [&] { return limits.read_gbs(bytes, passes); });
  bench.ceilings.copy_gbs =
      add_ceiling(bench, "copy", "GB/s", [&] { return limits.copy_gbs(bytes, passes); });
  bench.report.set_fact("cublaslt", limits.product_library());
  const int64_t size = bench.tiny ? 64 : 8192;
  const auto product = [&](ProductOf of, const std::string& name) {
    if (!limits.product_seconds(of, size, size, size, 0, 1)) {
      bench.report.set_fact("ceiling of the " + name + " product",
                            "not measured: " + limits.product_library());
      return 0.0;
    }
    const auto ops = 2.0 * static_cast<double>(size * size * size);
    return add_ceiling(bench, name + " product", "TFLOP/s", [&] {
      return ops / limits.product_seconds(of, size, size, size, 0, passes).value() * 1e-12;
    });
  };
  bench.attempt("products", [&] {
    bench.ceilings.bf16_tflops = product(ProductOf::kBf16, "bf16");
    bench.ceilings.fp8_tflops = product(ProductOf::kFp8, "fp8");
  });
}

/// One small product tells.
void find_fp8(CudaBench& bench) {
  using kernels::WeightFormat;
  constexpr int64_t kCols = 128;
  try {
    const auto operators = bench.make_operators();
    const auto matrix =
        operators->pack_matrix(RandomMatrix(WeightFormat::kFp8, kCols, kCols, kCols).spec());
    const DeviceFloats x(*operators, 1, kCols);
    const DeviceFloats y(*operators, 1, kCols);
    const DeviceActivationRows converted(*operators, WeightFormat::kFp8, 1, kCols, kCols);
    operators->convert_rows(x.rows(), 1, converted.view);
    operators->linear(*matrix, converted.view, 1, y.rows());
  } catch (const std::exception& error) {
    bench.has_fp8 = false;
    bench.report.set_fact("fp8", std::string("the backend has none: ") + error.what());
  }
}

Status run(const BenchOptions& options, Report& report) {
  PHALANX_ASSIGN_OR_RETURN(const auto parts, options.some_of("--part", kParts));
  PHALANX_ASSIGN_OR_RETURN(const int64_t device, options.integer("--device", 0, 1023));
  PHALANX_ASSIGN_OR_RETURN(const int64_t threads, options.integer("--threads", 0, 1024));
  PHALANX_ASSIGN_OR_RETURN(const int64_t repetitions, options.integer("--repetitions", 1, 1000));
  PHALANX_ASSIGN_OR_RETURN(const int64_t sample_ms, options.integer("--sample-ms", 0, 10'000));
  std::vector<std::string> models = model_shape_names();
  models.emplace_back("tiny");
  PHALANX_ASSIGN_OR_RETURN(const auto wanted, options.some_of("--model", models));
  PHALANX_ASSIGN_OR_RETURN(const auto formats,
                           options.some_of("--weights", {"bf16", "fp8", "w8", "w4"}));
  std::string why;
  const auto found = kernels::find_cuda_devices(&why);
  if (static_cast<int64_t>(found.size()) <= device)
    return unavailable("CUDA device " + std::to_string(device) + ": " +
                       (found.empty() ? why : "there are " + std::to_string(found.size())));
  report.set_fact("device", found[static_cast<size_t>(device)].name);
  report.set_fact("device_bytes", found[static_cast<size_t>(device)].total_bytes);

  CudaBench bench{report};
  bench.device_index = static_cast<int>(device);
  const cpu_set_t cores = launcher::affinity();
  bench.num_host_threads = threads > 0 ? static_cast<int>(threads) : std::max(1, CPU_COUNT(&cores));
  bench.repetitions = repetitions;
  bench.sample_seconds = static_cast<double>(sample_ms) * 1e-3;
  bench.tiny = options.is_set("--tiny");
  const auto limits = kernels::make_cuda_limits(bench.device_index, options.text("--cublaslt"));
  bench.limits = limits.get();
  measure_ceilings(bench);
  find_fp8(bench);
  for (const std::string& part : parts) {
    if (part == "linear") measure_cuda_linears(bench);
    if (part == "attention") measure_cuda_attention(bench);
    if (part == "rows") measure_cuda_rows(bench);
    if (part == "sampling") measure_cuda_sampling(bench);
    if (part == "peers") measure_cuda_peers(bench);
    if (part == "steps") measure_cuda_steps(bench, wanted, formats);
  }
  if (bench.num_failures > 0)
    return unavailable(std::to_string(bench.num_failures) +
                       " cases failed, the first lines say why");
  return {};
}

}  // namespace

Command cuda_command() {
  return {"cuda", "what a GPU allows, and what the kernels and whole steps make of it",
          "",     0,
          flags,  run};
}

}  // namespace phalanx::bench
