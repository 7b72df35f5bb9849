// llm-bench: measures what the machine allows and what Phalanx makes of it. Dispatches to a
// command.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <iostream>
#include <utility>

#include "launcher/bench/commands.h"
#include "launcher/stop_signal.h"
#include "parallel/mpi_session.h"

namespace phalanx::bench {
namespace {

constexpr int kFailed = 1;
constexpr int kWrongCommandLine = 2;

const Flag kJson{"--json", "FILE", "", "also write the report there"};

void print_help() {
  std::cout << "llm-bench COMMAND [FLAG...]: measures, beside the limits of this machine\n\n";
  for (const Command& command : commands()) {
    std::string left = std::string("  ") + command.name;
    if (left.size() < 16) left.resize(16, ' ');
    std::cout << left << command.summary << "\n";
  }
  std::cout << "\nllm-bench COMMAND --help lists a command's flags.\n";
}

int complain(const Error& error, int status) {
  if (parallel::is_first_rank_of_environment()) std::cerr << "llm-bench: " << error.message << "\n";
  return status;
}

int run(const std::vector<std::string>& arguments) {
  if (arguments.empty() || arguments[0] == "--help" || arguments[0] == "-h") {
    print_help();
    return arguments.empty() ? kWrongCommandLine : 0;
  }
  const auto found =
      std::find_if(commands().begin(), commands().end(),
                   [&](const Command& command) { return command.name == arguments[0]; });
  if (found == commands().end())
    return complain(invalid_argument("unknown command \"" + arguments[0] + "\"; see --help"),
                    kWrongCommandLine);
  std::vector<Flag> flags = found->flags();
  flags.push_back(kJson);
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  if (std::find(rest.begin(), rest.end(), "--help") != rest.end()) {
    std::cout << "llm-bench " << found->name << " " << found->places
              << " [FLAG...]: " << found->summary << "\n\n"
              << describe_flags(flags);
    return 0;
  }
  const auto options = BenchOptions::parse(rest, flags, found->max_places);
  if (!options.ok()) return complain(options.error(), kWrongCommandLine);
  if (options->is_set("--json") && parallel::is_first_rank_of_environment()) {
    const Status writable = Report::check_writable(options->text("--json"));
    if (!writable.ok()) return complain(writable.error(), kFailed);
  }
  Report report(arguments, parallel::is_first_rank_of_environment());
  Status status = found->run(*options, report);
  // What was measured before something failed is kept too.
  const bool has_report = status.ok() || !report.measurements().empty();
  if (has_report && options->is_set("--json") && parallel::is_first_rank_of_environment()) {
    Status written = report.write_json(options->text("--json"));
    if (status.ok()) status = std::move(written);
  }
  if (status.ok()) return 0;
  return complain(status.error(),
                  status.error().code == ErrorCode::kInvalidArgument ? kWrongCommandLine : kFailed);
}

}  // namespace
}  // namespace phalanx::bench

int main(int argc, char** argv) {
  try {
    phalanx::catch_stop_signals();
    return phalanx::bench::run(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const phalanx::Stopped&) {
    const int signal = phalanx::stop_signal();
    std::cerr << "llm-bench: stopped by " << strsignal(signal) << "\n";
    return 128 + signal;
  } catch (const std::exception& error) {
    std::cerr << "llm-bench: " << error.what() << "\n";
    return phalanx::bench::kFailed;
  }
}
