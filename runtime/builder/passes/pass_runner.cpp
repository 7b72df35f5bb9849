// The pass list and its runner: skip if disabled, dump, run, time, verify, dump.
#include <algorithm>
#include <chrono>
#include <fstream>

#include "runtime/base/check.h"
#include "runtime/builder/passes/pass.h"
#include "runtime/model/graph.h"

namespace phalanx::builder {

namespace {

constexpr Pass kPasses[] = {
    {"fuse_qkv", "one linear for the q, k and v projections of a layer", fuse_qkv},
    {"fuse_gate_up", "one linear for the gate and up projections of a layer", fuse_gate_up},
    {"fuse_add_norm", "a residual add and the norm behind it in one op", fuse_add_norm},
};

Status dump(const PassOptions& options, const std::string& file, const PassContext& context) {
  if (options.dump_directory.empty()) return {};
  const std::string path = options.dump_directory + "/" + file;
  std::ofstream stream(path);
  stream << model::dump_graph(context.graph, context.weights);
  stream.close();
  if (!stream) return io_error(path + ": the graph dump could not be written");
  return {};
}

Status check_names(const PassOptions& options) {
  for (const std::string& name : options.disabled) {
    const bool known = std::any_of(std::begin(kPasses), std::end(kPasses),
                                   [&](const Pass& pass) { return name == pass.name; });
    if (known) continue;
    std::string allowed;
    for (const Pass& pass : kPasses) {
      if (!allowed.empty()) allowed += ", ";
      allowed += pass.name;
    }
    return invalid_argument("there is no pass \"" + name + "\"; passes are " + allowed);
  }
  return {};
}

}  // namespace

std::span<const Pass> registered_passes() { return kPasses; }

Result<std::vector<PassReport>> run_passes(const PassOptions& options, PassContext& context) {
  PHALANX_RETURN_IF_ERROR(check_names(options));
  std::vector<PassReport> reports;
  int number = 0;
  for (const Pass& pass : kPasses) {
    PassReport report;
    report.name = pass.name;
    report.ran = std::find(options.disabled.begin(), options.disabled.end(), pass.name) ==
                 options.disabled.end();
    ++number;
    if (report.ran) {
      std::string stem = std::to_string(number);
      if (number < 10) stem.insert(stem.begin(), '0');
      stem.append("-").append(pass.name);
      PHALANX_RETURN_IF_ERROR(dump(options, stem + ".before.txt", context));
      context.num_rewrites = 0;
      const auto start = std::chrono::steady_clock::now();
      PHALANX_RETURN_IF_ERROR(pass.run(context));
      report.seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      report.num_rewrites = context.num_rewrites;
      const Status valid = model::verify_graph(context.graph, context.weights, context.config);
      PHALANX_CHECK(valid.ok(),
                    "pass " + report.name + " broke the graph: " + valid.error().message);
      PHALANX_RETURN_IF_ERROR(dump(options, stem + ".after.txt", context));
    }
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace phalanx::builder
