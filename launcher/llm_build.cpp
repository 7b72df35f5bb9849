// llm-build: makes engines from checkpoints, and shows what is in them.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include "launcher/llm_build_inspect.h"
#include "launcher/llm_build_options.h"
#include "launcher/stop_signal.h"
#include "runtime/builder/engine_builder.h"
#include "runtime/executor/memory_ledger.h"
#include "runtime/model/engine_file.h"

namespace phalanx::launcher {

namespace {

constexpr int kFailed = 1;
constexpr int kWrongCommandLine = 2;

/// One line on stderr, rewritten in place on a terminal and silent otherwise.
builder::Progress progress_line() {
  const bool prints = ::isatty(STDERR_FILENO) != 0;
  auto last = std::chrono::steady_clock::time_point();
  return [prints, last](int64_t done, int64_t total) mutable {
    check_stop();  // what was written is taken back
    if (!prints) return;
    const auto now = std::chrono::steady_clock::now();
    if (done < total && now - last < std::chrono::milliseconds(100)) return;
    last = now;
    std::fprintf(stderr, "\r%s of %s%s", format_bytes(done).c_str(), format_bytes(total).c_str(),
                 done < total ? "   " : "   \n");
  };
}

void print_report(const builder::BuildOptions& options, const builder::BuildReport& report) {
  const engine::EngineManifest& manifest = report.manifest;
  for (const builder::PassReport& pass : report.passes) {
    if (pass.ran) {
      std::printf("pass %-14s %4d rewrites  %.1f ms\n", pass.name.c_str(), pass.num_rewrites,
                  1e3 * pass.seconds);
    } else {
      std::printf("pass %-14s disabled\n", pass.name.c_str());
    }
  }
  std::printf("reduction_lanes %d: tp_size can be", manifest.reduction_lanes());
  for (int tp = 1; tp <= manifest.reduction_lanes(); tp *= 2) {
    if (model::check_topology(manifest, tp, 1).ok()) std::printf(" %d", tp);
  }
  std::printf("%s%s\n", report.lanes_reason.empty() ? "" : "; not more, as ",
              report.lanes_reason.c_str());
  for (const std::string& note : manifest.provenance().notes())
    std::printf("note: %s\n", note.c_str());
  std::printf("%s: %s (%s of checkpoint), %zu ops, %.2f s, hash %s\n", options.engine.c_str(),
              format_bytes(report.engine_bytes).c_str(),
              format_bytes(report.checkpoint_bytes).c_str(),
              static_cast<size_t>(manifest.graph().ops_size()), report.seconds,
              manifest.engine_hash().c_str());
}

Status build(const builder::BuildOptions& given) {
  builder::BuildOptions options = given;
  options.progress = progress_line();
  if (!options.passes.dump_directory.empty()) {
    std::error_code code;
    std::filesystem::create_directories(options.passes.dump_directory, code);
    if (code)
      return io_error("--dump-graph " + options.passes.dump_directory + ": " + code.message());
  }
  PHALANX_ASSIGN_OR_RETURN(const builder::BuildReport report, builder::build_engine(options));
  print_report(options, report);
  return {};
}

int run(const std::vector<std::string>& arguments) {
  const auto command = parse_llm_build(arguments);
  if (!command.ok()) {
    std::cerr << "llm-build: " << command.error().message << "\n";
    return kWrongCommandLine;
  }
  if (std::holds_alternative<HelpRequest>(*command)) {
    std::cout << llm_build_help();
    return 0;
  }
  const auto* inspect = std::get_if<InspectOptions>(&*command);
  const Status status = inspect != nullptr ? inspect_engine(*inspect, std::cout)
                                           : build(std::get<builder::BuildOptions>(*command));
  if (!status.ok()) {
    std::cerr << "llm-build: " << status.error().message << "\n";
    return kFailed;
  }
  return 0;
}

}  // namespace

}  // namespace phalanx::launcher

int main(int argc, char** argv) {
  try {
    phalanx::catch_stop_signals();
    std::signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error of writing, not a death
    return phalanx::launcher::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const phalanx::Stopped&) {
    const int signal = phalanx::stop_signal();
    std::cerr << "llm-build: stopped by " << strsignal(signal) << "; nothing was left behind\n";
    return 128 + signal;
  } catch (const std::exception& error) {
    std::cerr << "llm-build: " << error.what() << "\n";
    return phalanx::launcher::kFailed;
  }
}
